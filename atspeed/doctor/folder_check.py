"""Whether the folder loads, and what is in it."""

from collections import Counter
from pathlib import Path
from typing import Any

from safetensors import safe_open
from transformers import PreTrainedModel

from atspeed.catalog import Vocabulary
from atspeed.doctor.findings import Finding, attempt
from atspeed.models import Checkpoint
from atspeed.models.adapter_folder import adapter_config, base_folder
from atspeed.models.checkpoint import weight_files

DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16", "F64": "float64"}


def num_rows(model: PreTrainedModel) -> int:
    """Return how many tokens a model has embeddings for."""
    embeddings: Any = model.get_input_embeddings()
    return len(embeddings.weight)


def load(source: Checkpoint, vocabulary: Vocabulary) -> tuple[PreTrainedModel | None, Finding]:
    """Load a checkpoint as any other command does, and say what it is, or why it does not load.

    Args:
        source: the checkpoint.
        vocabulary: the tokens that the model must score.
    """
    adapter, _ = attempt(lambda: adapter_config(source.path))
    model, problem = attempt(lambda: source.build(vocabulary, source.path))
    if model is None:
        named = problem if str(source.path) in problem else f"{source.path}: {problem}"
        return None, Finding("folder", "failed", [named], ["make the folder load, as said under folder"])
    base = base_folder(source.path, adapter, source.adapter_base) if adapter else source.path
    stored = _stored(base, source.allow_pickle)
    facts = [f"{type(model).__name__}, {model.num_parameters():,} parameters; {stored}, used in {source.dtype}."]
    if adapter:
        facts.append(f"{source.path} is an adapter ({adapter.get('peft_type')}), merged into {base}.")
    scored, needed = num_rows(model), len(vocabulary)
    padding = f"; the last {scored - needed} pad the matrix, which does no harm" if scored > needed else ""
    facts.append(f"Its embedding matrix has {scored:,} rows for {needed:,} tokens{padding}.")
    return model, Finding("folder", "good", facts)


def _stored(folder: Path, allow_pickle: bool) -> str:
    """Return how the weights of a folder are stored, in words."""
    files = weight_files(folder, adapter=False, allow_pickle=allow_pickle)
    what = f"{len(files)} file{'s' if len(files) > 1 else ''}"
    if files[0].suffix != ".safetensors":
        return f"weights in {what} of pickled tensors"
    kinds: Counter[str] = Counter()
    for file in files:
        with safe_open(file, "pt") as weights:
            kinds.update(weights.get_slice(name).get_dtype() for name in weights.keys())  # noqa: SIM118
    return f"weights in {what} of safetensors, stored in {', '.join(DTYPES.get(kind, kind) for kind in sorted(kinds))}"
