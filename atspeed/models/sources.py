"""Building, loading and exporting Hugging Face causal language models over a catalog's vocabulary."""

import hashlib
import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from atspeed.catalog.vocabulary import Vocabulary


def model_folder(run_dir: Path, stage: str) -> Path:
    """Return the folder that a stage of a run exports its model to."""
    return run_dir / stage / "model"


class ModelSource(ABC):
    """Where a model comes from; a config names a subclass by ``class_path``."""

    @abstractmethod
    def build(self, vocabulary: Vocabulary, run_dir: Path) -> PreTrainedModel:
        """Return the model on the CPU, in evaluation mode; in float32, unless the source has a setting for its dtype.

        Args:
            vocabulary: the catalog's vocabulary, which the model must have.
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
        config: its configuration; vocabulary size and special tokens come from the catalog.
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


class Checkpoint(ModelSource):
    """A folder in Hugging Face format.

    Args:
        path: the folder.
        new_vocabulary: keep the body of a foreign model (say, pre-trained on text) and give it fresh embeddings for
            the catalog's vocabulary. If False, a folder that was not exported for this catalog is refused.
    """

    def __init__(self, path: Path, new_vocabulary: bool = False) -> None:
        self.path = Path(path)
        self.new_vocabulary = new_vocabulary

    def build(self, vocabulary: Vocabulary, run_dir: Path) -> PreTrainedModel:
        """Load the model; see :meth:`ModelSource.build`."""
        if not (self.path / "config.json").is_file():
            raise FileNotFoundError(f"{self.path} is not a Hugging Face model folder: it has no config.json")
        if not self.new_vocabulary:
            vocabulary.check(self.path)
        model: Any = AutoModelForCausalLM.from_pretrained(self.path, dtype=torch.float32)
        if self.new_vocabulary:
            model.resize_token_embeddings(len(vocabulary), mean_resizing=False)
            for embeddings in (model.get_input_embeddings(), model.get_output_embeddings()):
                torch.nn.init.normal_(embeddings.weight, std=0.02)
            for config in (model.config, model.generation_config):
                config.bos_token_id = vocabulary.bos_token
                config.eos_token_id = vocabulary.eos_token
                config.pad_token_id = vocabulary.pad_token
        scored = model.config.get_text_config().vocab_size
        if scored < len(vocabulary):
            raise ValueError(f"{self.path} scores {scored} tokens, the vocabulary has {len(vocabulary)}")
        return model.eval()

    def origin(self, run_dir: Path) -> "Checkpoint":
        """Return this source; see :meth:`ModelSource.origin`."""
        return self

    def fingerprint(self, run_dir: Path) -> str:
        """Return the hash of the folder's weights; see :meth:`ModelSource.fingerprint`."""
        digest = hashlib.sha256()
        for file in [self.path / "config.json", *sorted(self.path.glob("*.safetensors"))]:
            state = file.stat()
            digest.update(_file_digest(file, state.st_size, state.st_mtime_ns))
        return digest.hexdigest()


class Exported(ModelSource):
    """What an earlier stage of the same run folder exported.

    Args:
        stage: the stage: ``target``, ``draft``, ``strict`` ….
    """

    def __init__(self, stage: str) -> None:
        self.stage = stage

    def build(self, vocabulary: Vocabulary, run_dir: Path) -> PreTrainedModel:
        """Load the model; see :meth:`ModelSource.build`."""
        return self.origin(run_dir).build(vocabulary, run_dir)

    def fingerprint(self, run_dir: Path) -> str:
        """Return the hash of the exported weights; see :meth:`ModelSource.fingerprint`."""
        return self.origin(run_dir).fingerprint(run_dir)

    def origin(self, run_dir: Path) -> Checkpoint:
        """Return the stage's folder; see :meth:`ModelSource.origin`."""
        folder = model_folder(run_dir, self.stage)
        if not folder.is_dir():
            raise FileNotFoundError(
                f"{folder} does not exist: this stage needs the {self.stage!r} model. Make it with: "
                f"python -m atspeed fit --config configs/{self.stage}.yaml --trainer.default_root_dir {run_dir}"
            )
        return Checkpoint(folder)


@lru_cache
def _file_digest(file: Path, size: int, modified: int) -> bytes:  # several callers ask for that of a 13 GB target
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").digest()


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

    Args:
        model: the model.
        vocabulary: the catalog's vocabulary.
        folder: the folder to write; an older one is replaced.
        state: weights to write instead of the model's own.
    """
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial, state_dict=state)
    vocabulary.save(partial)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
