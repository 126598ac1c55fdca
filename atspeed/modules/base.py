"""What all modules share: a stage of a run folder, on the catalog of a data module."""

from pathlib import Path

import lightning.pytorch as pl
import torch
from torch import Tensor
from transformers import PreTrainedModel

from atspeed.data import RecommendationData, RequestBatch, SequenceBatch
from atspeed.models import ModelSource


class StageModule(pl.LightningModule):
    """A LightningModule that is one stage of a run.

    The Trainer's ``default_root_dir`` is the run folder; a stage writes to ``<run folder>/<stage>`` and finds what
    other stages wrote beside it.

    A fit that goes on from a checkpoint in the middle of an epoch does what it would have done without the
    interruption: the data module passes over the batches that are done, and torch's random numbers (dropout) depend
    on the data's seed, epoch, batch and process only. A loss that is not finite stops the fit before the weights are
    touched; if one of several processes stops, its launcher ends the others.

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

    def build(self, source: ModelSource) -> PreTrainedModel:
        """Build a model for the catalog; raise ``ValueError`` if the data's prompts are too long for it."""
        model = source.build(self.data.catalog.vocabulary, self.run_dir)
        room = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        if room is not None and room < self.data.max_prompt_tokens:
            raise ValueError(
                f"data.max_history is {self.data.max_history}: prompts of up to {self.data.max_prompt_tokens} tokens, "
                f"but the model has max_position_embeddings {room}; shorten the history or enlarge the model"
            )
        return model

    def on_train_batch_start(self, batch: SequenceBatch | RequestBatch, batch_idx: int) -> None:
        """Seed the batch's random numbers; see the class."""
        self._users = batch.users
        place = self.data.seed, self.current_epoch, batch_idx, self.global_rank
        torch.manual_seed(hash(place))  # of integers, so the same in every process

    def on_before_backward(self, loss: Tensor) -> None:
        """Raise ``FloatingPointError`` if the loss is not finite."""
        if not loss.isfinite():
            progress = self.trainer.fit_loop.epoch_loop.batch_progress.current
            users = [self.data.interactions.users[row] for row in self._users.tolist()]
            raise FloatingPointError(
                f"the loss is {loss.item()} in epoch {self.current_epoch}, batch {progress.ready - 1} (both from 0), "
                f"process {self.global_rank}, with the users {', '.join(users)}; the weights are those before the "
                "batch. Look at these users' items, lower model.learning_rate or set trainer.gradient_clip_val, and go "
                "on from the last checkpoint with --ckpt_path last"
            )
