"""What a run was made with."""

import json
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.cli import SaveConfigCallback

from atspeed.provenance import provenance


class RunProvenance(SaveConfigCallback):
    """Writes ``config.yaml`` (resolved) and ``run.json`` (command line, commit, versions) to the stage's folder.

    The command line adds it to every run, because it needs the parser and the config; process zero writes.
    """

    def save_config(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Write ``run.json``; the base class writes the config."""
        if trainer.log_dir is not None:
            folder = Path(trainer.log_dir)
            folder.mkdir(parents=True, exist_ok=True)
            record = provenance(trainer.strategy.root_device)
            (folder / "run.json").write_text(json.dumps(record, indent=2) + "\n")
