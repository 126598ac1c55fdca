"""Tiny checkpoints with a tokenizer of their own, as a team brings them."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from tests.decoding.tiny import LLAMA_LIKE

NUM_WORDS = 40
CODES = [f"<{level}_{code}>" for level in "ab" for code in range(5)]
TOKENS = torch.tensor([[1, 7, 12, 39, 4]])
TOKENS_WITH_CODES = torch.tensor([[1, 7, 40, 49, 45]])


def save_tokenizer(folder: Path, num_words: int = NUM_WORDS) -> None:
    """Write a tokenizer of ``num_words`` words, without a padding token."""
    words = ["<unk>", "<s>", "</s>", *(f"w{i}" for i in range(3, num_words))]
    tokenizer = Tokenizer(WordLevel({word: token for token, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)


def save_checkpoint(
    folder: Path, family: str = "llama", rows: int = NUM_WORDS, dtype: str = "float32", **settings: Any
) -> PreTrainedModel:
    """Write a random model and its tokenizer, and return the model in evaluation mode.

    Args:
        folder: the folder.
        family: architecture.
        rows: of the embedding matrix.
        dtype: of the weights.
        settings: of the configuration, and ``max_shard_size``.
    """
    shard_size = settings.pop("max_shard_size", "1GB")
    config = AutoConfig.for_model(
        family, vocab_size=rows, **{**LLAMA_LIKE, "num_hidden_layers": 1, "pad_token_id": None, **settings}
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).eval()
        with torch.no_grad():
            model.get_output_embeddings().weight.normal_(std=0.6)
    model.save_pretrained(folder, max_shard_size=shard_size)
    save_tokenizer(folder)
    return model
