"""Folders with an adapter that PEFT has trained, instead of a complete model."""

import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel
from transformers.integrations import is_deepspeed_zero3_enabled

CONFIG_FILE = "adapter_config.json"


def adapter_config(folder: Path) -> dict[str, Any] | None:
    """Return the configuration of the adapter in a folder; None if the folder has none.

    Raises:
        ValueError: if the folder has a model's weights, too.
    """
    file = folder / CONFIG_FILE
    if not file.is_file():
        return None
    if any(folder.glob("model*.safetensors")) or any(folder.glob("pytorch_model*.bin")):
        raise ValueError(
            f"{folder} has both an adapter and the weights of a model: move {CONFIG_FILE} and adapter_model.* to a "
            "folder of their own, or delete them if they are merged into the weights already"
        )
    config: dict[str, Any] = json.loads(file.read_text())
    return config


def base_folder(folder: Path, config: dict[str, Any], base: Path | None) -> Path:
    """Return the folder of the model that an adapter belongs to.

    Args:
        folder: the adapter's folder.
        config: its configuration.
        base: the folder that the user names, if any.

    Raises:
        FileNotFoundError: if it does not exist.
    """
    found = Path(base or config.get("base_model_name_or_path") or "")
    if not (found / "config.json").is_file():
        raise FileNotFoundError(
            f"{folder} has an adapter for the model {str(found)!r}, which is not a folder with a config.json here: set "
            "adapter_base to the folder of that model"
        )
    return found


def merge_adapter(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """Return a model with an adapter added to its weights; the given one is used up.

    Embeddings that come with the adapter replace the model's, whatever their number.

    Args:
        model: the adapter's base.
        folder: the adapter's folder.

    Raises:
        ValueError: if the adapter does not fit the model, or cannot be merged.
    """
    if is_deepspeed_zero3_enabled():
        raise ValueError(
            f"{folder} has an adapter, which cannot be merged in the shards of DeepSpeed ZeRO-3: use another "
            "trainer.strategy, or merge it before (merge_and_unload of PEFT, then save_pretrained)"
        )
    from peft import PeftModel  # takes half a second, so it is imported only here
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import load_peft_weights

    embeddings = (model.get_input_embeddings(), model.get_output_embeddings())
    names = [name for name, module in model.named_modules() if module in embeddings]
    rows = {
        len(weight)
        for key, weight in load_peft_weights(str(folder), device="cpu").items()
        if key.endswith("weight") and "lora_" not in key and any(f".{name}." in key for name in names)
    }
    if rows:
        model.resize_token_embeddings(max(rows), mean_resizing=False)
    try:
        adapted: Any = PeftModel.from_pretrained(model, str(folder))
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"the adapter in {folder} does not fit {model.config._name_or_path}: {reason}; set adapter_base to the "
            "model that it was trained on"
        ) from error
    kind = adapted.active_peft_config.peft_type.value
    if not hasattr(adapted.base_model, "merge_and_unload"):
        raise ValueError(f"{folder} has a {kind} adapter, which cannot be merged into a model")
    inner = (model.get_input_embeddings(), model.get_output_embeddings())
    if model.config.get_text_config().tie_word_embeddings and any(isinstance(part, BaseTunerLayer) for part in inner):
        raise ValueError(
            f"{folder} has a {kind} adapter on embeddings that the model ties: merged, it would change input and "
            "output alike. Train it without embed_tokens and lm_head among target_modules; modules_to_save trains them"
        )
    merged: PreTrainedModel = adapted.merge_and_unload()
    return merged
