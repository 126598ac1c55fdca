"""Tokenizers of each family, trained on a few sentences."""

from collections.abc import Callable
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from atspeed.catalog import ItemCatalog

SENTENCES = [
    "The user has interacted with items in chronological order.",
    "Can you predict the next possible item that the user may expect?\n\n### Response:\n",
    "Below is an instruction that describes a task: write a response that completes the request, with <a_1><b_2>.",
    "Olive soap, a wooden comb and a sponge; <a_1><a_2><b_1><b_2><b_3><a_10> 1 2 3",
] * 3
SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
CATALOG = ItemCatalog(
    {
        "soap": ["<a_1>", "<b_2>"],
        "comb": ["<a_1>", "<b_3>"],
        "sponge": ["<a_2>", "<b_2>"],
        "towel": ["<a_10>", "<b_1>"],
        "brush": ["<a_10>", "<b_1>"],
    },
    titles={"soap": "Olive soap", "comb": "A comb", "sponge": "Sponge, wooden", "towel": "Towel", "brush": "Brush 2"},
)


def byte_level() -> Tokenizer:
    """As LLaMA-3 and Qwen: BPE over bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=330, special_tokens=SPECIAL, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return tokenizer


def merging_bytes() -> Tokenizer:
    """BPE over bytes without a split into words, so that it merges wherever it can."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=SPECIAL, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return tokenizer


def metaspace_bpe() -> Tokenizer:
    """As LLaMA-2 now: BPE over the text with ▁ for spaces, one of them before the text's first word."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first", split=False)
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer.train_from_iterator(SENTENCES, trainers.BpeTrainer(vocab_size=700, special_tokens=SPECIAL + fallback))
    return tokenizer


def legacy_bpe() -> Tokenizer:
    """As LLaMA-2 was: a normalizer prepends ▁, also after each special token."""
    tokenizer = metaspace_bpe()
    tokenizer.pre_tokenizer = None
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return tokenizer


def unigram() -> Tokenizer:
    """As T5: Unigram over words with ▁ before each; it has no token for a character that it did not see."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=SPECIAL, unk_token="<unk>")
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return tokenizer


FAMILIES: dict[str, Callable[[], Tokenizer]] = {
    build.__name__: build for build in (byte_level, merging_bytes, metaspace_bpe, legacy_bpe, unigram)
}


def save(
    folder: Path, tokenizer: Tokenizer, bos: bool = False, codes: tuple[str, ...] = (), plain_codes: bool = False
) -> Path:
    """Write a tokenizer as a model folder has it.

    Args:
        folder: that is written.
        tokenizer: trained.
        bos: whether it begins each text with <s>.
        codes: that are added to it.
        plain_codes: whether they are matched in the normalized text, which ``add_tokens`` does with plain strings.
    """
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.add_tokens([AddedToken(code, normalized=plain_codes) for code in codes])
    unknown = None if type(tokenizer.model).__name__ == "BPE" and not tokenizer.model.unk_token else "<unk>"
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token=unknown)
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)
    return folder
