"""Where models come from, and how they are exported."""

import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel
from transformers.utils import GENERATION_CONFIG_NAME

from atspeed.catalog.vocabulary import Vocabulary

if TYPE_CHECKING:
    from atspeed.models.checkpoint import Checkpoint


def model_folder(run_dir: Path, stage: str) -> Path:
    """Return the folder that a stage of a run exports its model to."""
    return run_dir / stage / "model"


class ModelSource(ABC):
    """Where a model comes from; a config names a subclass by ``class_path``."""

    @abstractmethod
    def build(self, vocabulary: Vocabulary, run_dir: Path) -> PreTrainedModel:
        """Return the model on the CPU, in evaluation mode; in float32, unless the source has a setting for its dtype.

        Args:
            vocabulary: the tokens, all of which the model must score.
            run_dir: the run folder, in which stages find each other's models.
        """

    @abstractmethod
    def fingerprint(self, run_dir: Path) -> str:
        """Return a text that changes whenever the weights would, without loading the weights."""

    def origin(self, run_dir: Path) -> "Checkpoint | None":
        """Return the folder whose function the model has, whatever its shape or dtype; None if it has none."""
        return None


class NewModel(ModelSource):
    """A model with fresh weights.

    Args:
        model_type: name of the architecture in ``transformers``: ``llama``, ``qwen3``, ``gpt2`` ….
        config: its configuration; vocabulary size and special tokens come from the vocabulary.
        seed: seed of the weights.
    """

    def __init__(self, model_type: str, config: dict[str, Any], seed: int = 0) -> None:
        self.model_type = model_type
        self.config = config
        self.seed = seed

    def build(self, vocabulary: Vocabulary, run_dir: Path) -> PreTrainedModel:
        """Make the model; see :meth:`ModelSource.build`."""
        config = AutoConfig.for_model(
            self.model_type,
            **self.config,
            vocab_size=len(vocabulary),
            bos_token_id=vocabulary.bos_token,
            eos_token_id=vocabulary.eos_token,
            pad_token_id=vocabulary.pad_token,
        )
        unknown = [name for name in self.config if name not in type(config)().to_dict()]
        if unknown:
            raise ValueError(f"config of a new {self.model_type!r} model: {type(config).__name__} knows no {unknown}")
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()

    def fingerprint(self, run_dir: Path) -> str:
        """Return the settings; see :meth:`ModelSource.fingerprint`."""
        return json.dumps([self.model_type, self.config, self.seed], sort_keys=True)


def cast(weights: Iterable[Tensor], dtype: str) -> None:
    """Change the dtype of weights in place, but for integers.

    Not for buffers: rotary frequencies must keep their precision.
    """
    for weight in weights:
        if weight.is_floating_point():
            weight.data = weight.data.to(getattr(torch, dtype))


def export(
    model: PreTrainedModel, vocabulary: Vocabulary, folder: Path, state: dict[str, Tensor] | None = None
) -> None:
    """Write model and vocabulary in Hugging Face format; the folder appears only when it is complete.

    The settings for ``transformers.generate`` that came with the model are written as they are. ``save_pretrained``
    refuses those that it finds inconsistent, such as the temperature without sampling of LLaMA-2, once another of them
    has changed.

    Args:
        model: the model.
        vocabulary: its tokens.
        folder: the folder to write; an older one is replaced.
        state: weights to write instead of the model's own.
    """
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    settings: Any = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        model.save_pretrained(partial, state_dict=state)
    finally:
        model.generation_config = settings
    settings.to_json_file(partial / GENERATION_CONFIG_NAME, keys_to_pop=["compile_config"])
    vocabulary.save(partial)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
