"""Trains a byte-level BPE tokenizer on the text of a prompt, for trying a text prompt without a downloaded model.

python scripts/train_tokenizer.py runs/instruments/tokenizer configs/prompts/lcrec.yaml
"""

import argparse
import re
from pathlib import Path

import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL_TOKENS = ("<|endoftext|>", "<|pad|>")


def read_texts(config: Path) -> list[str]:
    """Return the texts of a config's prompt: all of its settings that are some."""
    settings = yaml.safe_load(config.read_text())["data"]["prompt"]["init_args"]
    return [
        value for name, value in settings.items() if isinstance(value, str) and name not in {"tokenizer", "tokenize"}
    ]


def train(texts: list[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Return a tokenizer like those of GPT-2, LLaMA-3 and Qwen, with an end token and no beginning token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    texts = [re.sub(r"\{\w+\}", "", text) for text in texts]
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, special_tokens=list(SPECIAL_TOKENS)),
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=SPECIAL_TOKENS[0], pad_token=SPECIAL_TOKENS[1])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("config", type=Path, help="config with data.prompt")
    parser.add_argument("--vocab-size", type=int, default=1000)
    arguments = parser.parse_args()
    train(read_texts(arguments.config), arguments.vocab_size).save_pretrained(arguments.out)
