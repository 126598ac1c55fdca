"""Makes a tiny random checkpoint with a tokenizer, as a team would bring its own, for the embedded catalog.

python scripts/tiny_checkpoint.py runs/tiny/good
"""

import argparse
import json
from pathlib import Path

import torch
from tokenizers import AddedToken
from train_tokenizer import train
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

from atspeed.data import EmbeddedCatalog

TEXTS = ["The user bought these items. Which one is next?", "item 0 1 2 3 4 5 6 7 8 9"]
SHAPES = {
    "qwen3": {
        **{"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "max_position_embeddings": 256},
        **{"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16},
    },
    "bloom": {"hidden_size": 64, "n_layer": 2, "n_head": 4},
}


def make(folder: Path, family: str, codes: bool, generation: dict) -> None:
    """Write a checkpoint.

    Args:
        folder: to write.
        family: architecture, one of ``SHAPES``.
        codes: whether its tokenizer has the catalog's codes as tokens.
        generation: settings for its ``generation_config.json``.
    """
    tokenizer = train(TEXTS, vocab_size=320)
    if codes:
        words = EmbeddedCatalog().load().catalog.words
        tokenizer.add_tokens([AddedToken(word, normalized=False) for word in words])
    torch.manual_seed(0)
    special = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = AutoConfig.for_model(family, vocab_size=-(-len(tokenizer) // 64) * 64, **special, **SHAPES[family])
    model = AutoModelForCausalLM.from_config(config)
    torch.nn.init.normal_(model.get_output_embeddings().weight, std=0.5)  # so that answers are not nearly ties
    model.generation_config.update(**generation)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--family", choices=SHAPES, default="qwen3")
    parser.add_argument("--no-codes", action="store_true", help="leave the codes out of the tokenizer")
    parser.add_argument("--generation", type=json.loads, default={}, help="of generation_config.json, as JSON")
    arguments = parser.parse_args()
    disable_progress_bar()
    make(arguments.out, arguments.family, not arguments.no_codes, arguments.generation)
