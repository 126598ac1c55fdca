"""The record of a run."""

import json

import lightning.pytorch as pl
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.trainer.states import TrainerFn

from atspeed.modules import StageModule
from atspeed.provenance import provenance


class RunProvenance(SaveConfigCallback):
    """Writes ``config.yaml`` (resolved) and ``run.json`` (command line, commit, versions) of a fit to its folder.

    Other commands write ``validate-config.yaml``, ``validate-run.json`` and so on, so that they do not overwrite the
    record of the training. The command line adds the callback to every run, because it needs the parser and the
    config; process zero writes.
    """

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Name the files after the command, and write them."""
        command = TrainerFn(stage).value
        self._prefix = "" if command == "fit" else f"{command}-"
        self.config_filename = f"{self._prefix}config.yaml"
        super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: pl.Trainer, pl_module: StageModule, stage: str) -> None:  # type: ignore[override]
        """Write the record; the base class writes the config."""
        folder = pl_module.run_dir / pl_module.stage  # not trainer.log_dir, a broadcast: only rank zero is here
        folder.mkdir(parents=True, exist_ok=True)
        record = provenance(trainer.strategy.root_device)
        (folder / f"{self._prefix}run.json").write_text(json.dumps(record, indent=2) + "\n")
