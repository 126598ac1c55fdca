"""Random tiny models, tries and prompts for the tests of decoding."""

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from atspeed.decoding import END

END_TOKEN = 2
LLAMA_LIKE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
FAMILIES = {
    "llama": LLAMA_LIKE,
    "mistral": LLAMA_LIKE,
    "qwen2": LLAMA_LIKE,
    "qwen3": {**LLAMA_LIKE, "head_dim": 8},
    "gemma2": {**LLAMA_LIKE, "head_dim": 8},
    "gemma3_text": {**LLAMA_LIKE, "head_dim": 8, "sliding_window_pattern": 2},
    "phi3": LLAMA_LIKE,
    "olmo2": LLAMA_LIKE,
    "cohere2": {**LLAMA_LIKE, "head_dim": 8, "sliding_window_pattern": 2},
    "gpt_oss": {**LLAMA_LIKE, "head_dim": 8, "num_local_experts": 2, "num_experts_per_tok": 1},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "gpt_neox": {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
    },
}
MIXED = {"use_sliding_window": True, "max_window_layers": 1}
WINDOWED = {"mistral": {}, "phi3": {}, "qwen2": MIXED, "qwen3": MIXED}
WINDOWED |= {family: {} for family in ("gemma2", "gemma3_text", "cohere2", "gpt_oss")}
"""What the families need for a sliding window in all layers (the first two) or in one of two."""
_models: dict[tuple[str, int, int, int | None], PreTrainedModel] = {}


def tiny_model(family: str, vocab_size: int, seed: int = 0, window: int | None = None) -> PreTrainedModel:
    """A random model with peaked, irregular distributions, on request with a sliding window; made once."""
    key = (family, vocab_size, seed, window)
    if key not in _models:
        values = {"bos_token_id": 1, "eos_token_id": None, "pad_token_id": 0, **FAMILIES[family]}
        if window is not None:
            values |= {"sliding_window": window, "max_position_embeddings": 128, **WINDOWED[family]}
        config = AutoConfig.for_model(family, vocab_size=vocab_size, **values)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
            with torch.no_grad():
                model.get_output_embeddings().weight.normal_(std=0.6)
        _models[key] = model
    return _models[key]


def random_sids(generator: torch.Generator, num_items: int, num_codes: list[int]) -> torch.Tensor:
    """Random semantic IDs with collisions and single-child chains; the levels share their tokens."""
    return torch.stack([torch.randint(3, 3 + codes, (num_items,), generator=generator) for codes in num_codes], dim=1)


def random_titles(generator: torch.Generator, num_items: int, longest: int, vocab_size: int) -> torch.Tensor:
    """Random identifiers of up to ``longest`` tokens and an end token, padded with -1."""
    titles = torch.randint(END_TOKEN + 1, vocab_size, (num_items, longest + 1), generator=generator)
    length = torch.randint(1, longest + 1, (num_items, 1), generator=generator)
    place = torch.arange(longest + 1)
    titles = titles.masked_fill(place == length, END_TOKEN).masked_fill(place > length, END)
    return titles[:, : int(length.max()) + 1]


def random_prompts(
    generator: torch.Generator, lengths: list[int], vocab_size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Left-padded prompts of the given lengths, and their mask."""
    longest = max(lengths)
    mask = torch.arange(longest) >= longest - torch.tensor(lengths)[:, None]
    tokens = torch.randint(1, vocab_size, mask.shape, generator=generator)
    return tokens.masked_fill(~mask, 0), mask
