"""What all modules share: a stage of a run folder, on the catalog of a data module."""

from pathlib import Path

import lightning.pytorch as pl
from transformers import PreTrainedModel

from atspeed.data import RecommendationData
from atspeed.models import ModelSource


class StageModule(pl.LightningModule):
    """A LightningModule that is one stage of a run.

    The Trainer's ``default_root_dir`` is the run folder; a stage writes to ``<run folder>/<stage>`` and finds what
    other stages wrote beside it.

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
