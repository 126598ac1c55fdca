"""Models from folders in Hugging Face format."""

import hashlib
import json
import logging
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel

from atspeed.catalog.vocabulary import Vocabulary
from atspeed.models.adapter_folder import adapter_config, base_folder, merge_adapter
from atspeed.models.sources import ModelSource, model_folder

log = logging.getLogger(__name__)


class Checkpoint(ModelSource):
    """A folder in Hugging Face format: a causal language model, or a PEFT adapter, which is merged into its base.

    What the folder says about generating (``generation_config.json``: sampling, penalties, forced tokens …) has no
    effect on answers; an export of the model has it again.

    Args:
        path: the folder. Its embedding matrix may have more rows than the vocabulary has tokens.
        new_vocabulary: keep the body of a foreign model (say, pre-trained on text) and give it fresh embeddings for a
            compact vocabulary. If False, a folder of another vocabulary is refused.
        new_tokens: how to make the embeddings that the model lacks for the last tokens of the vocabulary, such as codes
            that were added to a text model's tokenizer: ``mean`` draws them close to the mean of the model's own, with
            a small part of their covariance (``mean_resizing=True`` in ``transformers``), so that new tokens start out
            about as likely as others; ``random`` draws them around zero with the model's ``initializer_range``.
            Fine-tuning then learns them. If None, a model that lacks tokens is refused.
        dtype: of the weights. They are read into it one by one, so that a bfloat16 model is never in memory in float32.
        adapter_base: folder of the model that an adapter belongs to; what ``adapter_config.json`` names if left out.
        trust_code: run the Python code that comes with a model whose architecture ``transformers`` does not have.
        allow_pickle: read weights that are not in safetensors format (``pytorch_model.bin``), but tensors only, without
            running code.
        seed: seed of ``new_vocabulary`` and ``new_tokens``.

    Raises:
        ValueError: if both ``new_vocabulary`` and ``new_tokens`` are set.
    """

    def __init__(
        self,
        path: Path,
        new_vocabulary: bool = False,
        new_tokens: Literal["mean", "random"] | None = None,
        dtype: Literal["float32", "bfloat16"] = "float32",
        adapter_base: Path | None = None,
        trust_code: bool = False,
        allow_pickle: bool = False,
        seed: int = 0,
    ) -> None:
        if new_vocabulary and new_tokens:
            raise ValueError(
                f"new_tokens is {new_tokens}, but new_vocabulary replaces all embeddings: leave one of them out"
            )
        self.path = Path(path)
        self.new_vocabulary = new_vocabulary
        self.new_tokens = new_tokens
        self.dtype = dtype
        self.adapter_base = adapter_base
        self.trust_code = trust_code
        self.allow_pickle = allow_pickle
        self.seed = seed

    def build(self, vocabulary: Vocabulary, run_dir: Path) -> PreTrainedModel:
        """Load the model; see :meth:`ModelSource.build`.

        Raises:
            FileNotFoundError: if the folder, or the base of an adapter, has no model.
            ValueError: if it has another vocabulary, lacks weights, or needs a setting that is off.
        """
        adapter = adapter_config(self.path)
        folder = base_folder(self.path, adapter, self.adapter_base) if adapter else self.path
        check_loadable(folder, self.trust_code, self.allow_pickle)
        if adapter:
            weight_files(self.path, adapter=True, allow_pickle=self.allow_pickle)
        tokenizer_folder = self.path if (self.path / "tokenizer_config.json").is_file() else folder
        missing = 0 if self.new_vocabulary else vocabulary.check(tokenizer_folder)
        model = load_model(folder, self.dtype, self.trust_code, self.allow_pickle)
        if adapter:
            model = merge_adapter(model, self.path)
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            if self.new_vocabulary:
                replace_embeddings(model, vocabulary)
            self._add_tokens(model, len(vocabulary), missing)
        return model.eval()

    def _add_tokens(self, model: PreTrainedModel, needed: int, missing: int) -> None:
        scored = model.config.get_text_config().vocab_size
        missing = max(missing, needed - scored)
        if missing == 0:
            return
        if self.new_tokens is None:
            raise ValueError(
                f"{self.path} lacks {missing} of the {needed} tokens of the vocabulary (it scores {scored}). Choose a "
                "model that was fine-tuned with all of them and has its tokenizer, or set new_tokens (mean or random) "
                "to add embeddings for them, and fine-tune it"
            )
        log.info("%s gets embeddings (%s) for %d new tokens", self.path, self.new_tokens, missing)
        model.resize_token_embeddings(needed - missing, mean_resizing=False)  # without what only pads the matrix
        model.resize_token_embeddings(max(needed, scored), mean_resizing=self.new_tokens == "mean")

    def origin(self, run_dir: Path) -> "Checkpoint":
        """Return this source; see :meth:`ModelSource.origin`."""
        return self

    def fingerprint(self, run_dir: Path) -> str:
        """Return a hash of weights, an adapter's and its base's, and settings; see :meth:`ModelSource.fingerprint`."""
        adapter = adapter_config(self.path)
        folder = base_folder(self.path, adapter, self.adapter_base) if adapter else self.path
        files = [folder / "config.json", *weight_files(folder, adapter=False, allow_pickle=self.allow_pickle)]
        if adapter:
            files += [self.path / "adapter_config.json"]
            files += weight_files(self.path, adapter=True, allow_pickle=self.allow_pickle)
        if self.trust_code:
            files += sorted(folder.glob("*.py"))
        digest = hashlib.sha256()
        for file in files:
            state = file.stat()
            digest.update(_file_digest(file, state.st_size, state.st_mtime_ns))
        settings = [self.new_vocabulary, self.new_tokens, self.dtype]
        if settings != [False, None, "float32"]:
            digest.update(json.dumps([*settings, self.seed]).encode())
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


def check_loadable(folder: Path, trust_code: bool, allow_pickle: bool) -> None:
    """Refuse a folder without a model, or with one that needs a setting that is off; see :class:`Checkpoint`.

    Raises:
        FileNotFoundError: if the folder has no configuration or no weights.
        ValueError: if it needs code or pickles that are not allowed.
    """
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} is not a Hugging Face model folder: it has no config.json")
    config = json.loads((folder / "config.json").read_text())
    if "auto_map" in config and config.get("model_type") not in CONFIG_MAPPING and not trust_code:
        raise ValueError(
            f"{folder} has a {config.get('model_type')!r} model, which transformers does not have: its architecture is "
            "Python code in the folder. Read it, then set trust_code to run it"
        )
    weight_files(folder, adapter=False, allow_pickle=allow_pickle)


def load_model(folder: Path, dtype: str, trust_code: bool, allow_pickle: bool) -> PreTrainedModel:
    """Load the model of a folder as ``transformers`` does, but refuse one whose weights are not complete.

    Args:
        folder: the folder, which :func:`check_loadable` accepts.
        dtype: of the weights.
        trust_code: see :class:`Checkpoint`.
        allow_pickle: see :class:`Checkpoint`.

    Raises:
        ValueError: if weights are missing, or ``transformers`` cannot load the model.
    """
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            trust_remote_code=trust_code,
            use_safetensors=None if allow_pickle else True,
            weights_only=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except ValueError as error:
        raise ValueError(f"transformers cannot load {folder}: {' '.join(str(error).split())}") from error
    model, info = loaded
    if missing := sorted(info["missing_keys"]):
        raise ValueError(
            f"the weights in {folder} are not those of its config.json ({model.config.model_type}): {missing[0]} and "
            f"{len(missing) - 1} others are missing. Export the complete model"
        )
    return model


def weight_files(folder: Path, adapter: bool, allow_pickle: bool) -> list[Path]:
    """Return the files with the weights of a model or an adapter.

    Raises:
        FileNotFoundError: if there are none.
        ValueError: if they are pickles, and pickles are not allowed.
    """
    tensors, pickles = ("adapter_model",) * 2 if adapter else ("model", "pytorch_model")
    if files := sorted(folder.glob(f"{tensors}*.safetensors")):
        return files
    files = sorted(folder.glob(f"{pickles}*.bin"))
    if not files:
        raise FileNotFoundError(f"{folder} has no weights: expected {tensors}.safetensors, or several with numbers")
    if not allow_pickle:
        raise ValueError(
            f"{files[0]} is a pickle, which could run code. Save the model again with save_pretrained, which writes "
            "safetensors, or set allow_pickle to read nothing but tensors from it"
        )
    return files


def replace_embeddings(model: PreTrainedModel, vocabulary: Vocabulary) -> None:
    """Give a model random embeddings for another vocabulary, in place."""
    model.resize_token_embeddings(len(vocabulary), mean_resizing=False)
    embeddings: tuple[Any, ...] = model.get_input_embeddings(), model.get_output_embeddings()
    for part in embeddings:
        torch.nn.init.normal_(part.weight, std=0.02)
    for config in (model.config, model.generation_config):
        config.bos_token_id = vocabulary.bos_token
        config.eos_token_id = vocabulary.eos_token
        config.pad_token_id = vocabulary.pad_token
