"""The record of a run."""

import json
import platform
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.trainer.states import TrainerFn

from atspeed.modules import StageModule
from atspeed.provenance import provenance


class RunProvenance(SaveConfigCallback):
    """Writes ``config.yaml`` (resolved) and ``run.json`` (command line, commit, versions) of a fit to its folder.

    Other commands write ``validate-config.yaml``, ``validate-run.json`` and so on, so that they do not overwrite the
    record of the training. The command line adds the callback to every run, because it needs the parser and the
    config; process zero writes. A process that does not see the record is refused: it would not see checkpoints,
    models and predictions either.
    """

    def setup(self, trainer: pl.Trainer, pl_module: StageModule, stage: str) -> None:  # type: ignore[override]
        """Name the files after the command, write them, and refuse a process that does not see them."""
        if self.already_saved:
            return
        command = TrainerFn(stage).value
        self._prefix = "" if command == "fit" else f"{command}-"
        self.config_filename = f"{self._prefix}config.yaml"
        super().setup(trainer, pl_module, stage)
        file = self._folder(pl_module) / f"{self._prefix}run.json"
        written = trainer.strategy.broadcast(file.read_bytes() if trainer.is_global_zero else None)
        if not file.is_file() or file.read_bytes() != written:
            raise ValueError(
                f"trainer.default_root_dir is {pl_module.run_dir}, in which process {trainer.global_rank} "
                f"({platform.node()}) does not see what process 0 writes; name a folder that all machines share"
            )

    def save_config(self, trainer: pl.Trainer, pl_module: StageModule, stage: str) -> None:  # type: ignore[override]
        """Write the record; the base class writes the config."""
        folder = self._folder(pl_module)
        folder.mkdir(parents=True, exist_ok=True)
        record = provenance(trainer.strategy.root_device)
        (folder / f"{self._prefix}run.json").write_text(json.dumps(record, indent=2) + "\n")

    @staticmethod
    def _folder(module: StageModule) -> Path:
        # not trainer.log_dir, a broadcast, which save_config must not call: only rank zero is there
        return module.run_dir / module.stage
