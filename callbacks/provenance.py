"""What a run was made with."""

import json

import lightning.pytorch as pl
from lightning.pytorch.cli import SaveConfigCallback

from atspeed.modules import StageModule
from atspeed.provenance import provenance


class RunProvenance(SaveConfigCallback):
    """Writes ``config.yaml`` (resolved) and ``run.json`` (command line, commit, versions) to the stage's folder.

    The command line adds it to every run, because it needs the parser and the config; process zero writes.
    """

    def save_config(self, trainer: pl.Trainer, pl_module: StageModule, stage: str) -> None:  # type: ignore[override]
        """Write ``run.json``; the base class writes the config."""
        folder = pl_module.run_dir / pl_module.stage  # not trainer.log_dir, a broadcast: only rank zero is here
        folder.mkdir(parents=True, exist_ok=True)
        record = provenance(trainer.strategy.root_device)
        (folder / "run.json").write_text(json.dumps(record, indent=2) + "\n")
