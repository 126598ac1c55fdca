"""Makes a tiny random checkpoint for the embedded catalog, as a team would bring its own: docs/checkpoints.md uses it.

python scripts/train_tokenizer.py runs/tiny/tokenizer prompt.yaml
python scripts/tiny_checkpoint.py runs/tiny/good runs/tiny/tokenizer
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from atspeed.data import EmbeddedCatalog

SHAPES: dict[str, dict[str, Any]] = {
    "qwen3": {
        **{"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "max_position_embeddings": 512},
        **{"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16},
    },
    "bloom": {"hidden_size": 64, "n_layer": 2, "n_head": 4},
    "mamba": {"hidden_size": 64, "num_hidden_layers": 2, "state_size": 8},
}


def make(folder: Path, tokenizer: Path, codes: Sequence[str], family: str, generation: dict[str, Any]) -> None:
    """Write a checkpoint whose embedding matrix is padded to a multiple of 64 rows.

    Args:
        folder: to write.
        tokenizer: folder of its tokenizer.
        codes: that are added to the tokenizer as single tokens.
        family: architecture, one of ``SHAPES``.
        generation: settings in its ``generation_config.json``.
    """
    words = AutoTokenizer.from_pretrained(tokenizer)
    words.add_tokens([AddedToken(code, normalized=False) for code in codes])
    special = {name: getattr(words, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = AutoConfig.for_model(family, vocab_size=-(-len(words) // 64) * 64, **special, **SHAPES[family])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        torch.nn.init.normal_(model.get_output_embeddings().weight, std=0.5)  # so that scores differ
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    settings = {"eos_token_id": words.eos_token_id, **generation}
    (folder / "generation_config.json").write_text(json.dumps(settings))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("tokenizer", type=Path, help="folder of a tokenizer")
    parser.add_argument("--family", choices=SHAPES, default="qwen3")
    parser.add_argument("--without-codes", action="store_true", help="do not add the codes to the tokenizer")
    parser.add_argument(
        "--generation", type=json.loads, default={}, help="settings for generation_config.json, as JSON"
    )
    arguments = parser.parse_args()
    disable_progress_bar()
    added = [] if arguments.without_codes else EmbeddedCatalog().load().catalog.words
    make(arguments.out, arguments.tokenizer, added, arguments.family, arguments.generation)
