"""What all modules share: a stage of a run folder, on the catalog of a data module."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import DeepSpeedStrategy
from torch import Tensor
from transformers import PreTrainedModel

from atspeed.data import RecommendationData, RequestBatch, SequenceBatch
from atspeed.models import ModelSource, cast, loading_into_shards


class StageModule(pl.LightningModule):
    """A LightningModule that is one stage of a run.

    The Trainer's ``default_root_dir`` is the run folder; a stage writes to ``<run folder>/<stage>`` and finds what
    other stages wrote beside it. Frozen weights come from their source whenever a module is built, so checkpoints do
    without them.

    A fit that goes on from a checkpoint in the middle of an epoch does what it would have done without the
    interruption: the data module passes over the batches that are done, and torch's random numbers (dropout) depend
    on the data's seed, epoch, batch and process only. A loss that is not finite stops the fit before the weights are
    touched, in all processes together.

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
    def zero_stage(self) -> int:
        """Stage of DeepSpeed's ZeRO that the Trainer's strategy uses; 0: none, or no DeepSpeed."""
        strategy: Any = self.trainer.strategy
        config: Any = strategy.config if isinstance(strategy, DeepSpeedStrategy) else {}
        return config.get("zero_optimization", {}).get("stage", 0)

    def require_whole_models(self, task: str) -> None:
        """Raise ``ValueError`` if ZeRO-3 splits the models among processes, which may not stay in step at ``task``."""
        if self.zero_stage == 3:
            raise ValueError(
                f"trainer.strategy is DeepSpeed with ZeRO stage 3, which cannot be used for {task}: its processes "
                "would wait for each other's shards at different forward passes. Set trainer.strategy to ddp, auto or "
                "deepspeed_stage_2, where each process holds the whole models"
            )

    def setup(self, stage: str) -> None:
        """Tell DeepSpeed what it cannot find out."""
        strategy: Any = self.trainer.strategy
        if isinstance(strategy, DeepSpeedStrategy):
            strategy.exclude_frozen_parameters = True
            config: Any = strategy.config
            # used for a log line only; Lightning looks for it in a batch sampler, but our samplers give whole batches
            config.setdefault("train_micro_batch_size_per_gpu", 1)

    @property  # type: ignore[misc]
    def strict_loading(self) -> bool:
        """Whether a checkpoint has to have every weight: not if some are frozen."""
        return all(parameter.requires_grad for parameter in self.parameters())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave the frozen weights out of the checkpoint."""
        frozen = {name for name, value in self.named_parameters(remove_duplicate=False) if not value.requires_grad}
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: value for name, value in state.items() if name not in frozen}

    def build(self, source: ModelSource) -> PreTrainedModel:
        """Build a model for the catalog, in shards under ZeRO-3.

        Raises:
            ValueError: if the data's prompts are too long for it.
        """
        strategy: Any = self.trainer.strategy
        with loading_into_shards(strategy.config) if self.zero_stage == 3 else nullcontext():
            model = source.build(self.data.catalog.vocabulary, self.run_dir)
        if self.zero_stage == 3:  # DeepSpeed wants one dtype, and has shards in that of the Trainer's precision
            cast(model.parameters(), "bfloat16" if str(self.trainer.precision).startswith("bf16") else "float32")
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
        """Raise ``FloatingPointError`` if the loss is not finite, in this process or in another one."""
        # All raise together: one that waits for gradients of another, which saves a checkpoint, would wait for ever.
        if self.trainer.strategy.reduce(loss.detach().clone(), reduce_op="sum").isfinite():
            return
        batch = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready - 1
        place = f"epoch {self.current_epoch}, batch {batch} (both from 0)"
        if loss.isfinite():
            raise FloatingPointError(f"the loss of another process is not finite in {place}")
        users = [self.data.interactions.users[row] for row in self._users.tolist()]
        raise FloatingPointError(
            f"the loss is {loss.item()} in {place}, process {self.global_rank}, with the users {', '.join(users)}; the "
            "weights are those before the batch. Look at these users' items, lower model.learning_rate or set "
            "trainer.gradient_clip_val, and go on from the last checkpoint with --ckpt_path last"
        )
