"""What all modules share: a stage of a run folder, on the catalog of a data module."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from atspeed.data import RecommendationData
from atspeed.modules.batch_seed import BatchSeed
from atspeed.modules.finite_loss import FiniteLoss
from atspeed.modules.zero import configure_deepspeed
from atspeed.prompts import PromptEncoder


class StageModule(pl.LightningModule):
    """A LightningModule that is one stage of a run.

    The Trainer's ``default_root_dir`` is the run folder; a stage writes to ``<run folder>/<stage>`` and finds there
    what other stages wrote. Frozen weights come from their source whenever a module is built, so checkpoints do not
    hold them.

    A fit that resumes from a checkpoint in the middle of an epoch does what it would have done without the
    interruption: the data module skips the batches that are done, and :class:`BatchSeed` sets the random numbers.
    :class:`FiniteLoss` stops a fit whose loss is not finite. Every Trainer gets both callbacks from the module.

    Args:
        stage: name of the stage, a folder in the run folder.
    """

    def __init__(self, stage: str) -> None:
        super().__init__()
        self.stage = stage

    @property
    def run_dir(self) -> Path:
        """The run folder."""
        return Path(self.trainer.default_root_dir)

    @property
    def data(self) -> RecommendationData:
        """The Trainer's data module."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, RecommendationData):
            raise TypeError(f"{type(self).__name__} needs a RecommendationData data module, not {type(data).__name__}")
        return data

    @property
    def encoder(self) -> PromptEncoder:
        """Encodes prompts for the model that this stage exports."""
        return self.data.encoder

    def configure_callbacks(self) -> list[pl.Callback]:
        """Return the callbacks that no fit may lack; they run after the user's."""
        return [BatchSeed(self.data.seed), FiniteLoss(self.data)]

    def setup(self, stage: str) -> None:
        """Prepare the strategy."""
        configure_deepspeed(self.trainer)

    @property  # type: ignore[misc]
    def strict_loading(self) -> bool:
        """Whether a checkpoint has to have every weight: not if some are frozen."""
        return all(parameter.requires_grad for parameter in self.parameters())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave the frozen weights out of the checkpoint."""
        frozen = {name for name, value in self.named_parameters(remove_duplicate=False) if not value.requires_grad}
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: value for name, value in state.items() if name not in frozen}
