"""Models that cannot take a tree mask are found out by a probe, whatever they are called."""

import logging
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaForCausalLM, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from atspeed.benchmark import HFGenerate
from atspeed.catalog import CompactVocabulary
from atspeed.decoding import ItemTrie, ModelDrafter, NoDrafter, SpeculativeDecoder, TrieDrafter
from atspeed.decoding.probe import check_tree_attention, head_is_apart
from atspeed.decoding.sliding_window import SlidingWindow
from atspeed.models import Int8, NewModel
from atspeed.models.int8 import has_int8_products
from tests.decoding.tiny import FAMILIES, LLAMA_LIKE, WINDOWED, random_prompts, random_sids, tiny_model

VOCAB_SIZE = 40
LONG = {**LLAMA_LIKE, "max_position_embeddings": 128}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
LINEAR = {"linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
EXPERTS = {
    "num_experts": 2,
    "num_experts_per_tok": 1,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}
REFUSED = {
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 128},  # ALiBi by the index of a key
    "gpt_neo": {  # a local window
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 8,
        "max_position_embeddings": 128,
    },
    "llama4_text": {  # attention in chunks
        **LONG,
        "attention_chunk_size": 16,
        "head_dim": 8,
        "intermediate_size_mlp": 48,
        "num_local_experts": 2,
        "num_experts_per_tok": 1,
    },
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "falcon": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "alibi": True},
    "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8},
    "jamba": {**LONG, "num_experts": 2, "attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 8},
    "lfm2": {**LONG, "layer_types": ["conv", "full_attention"]},
    "qwen3_next": {**LONG, **EXPERTS, **LINEAR, "layer_types": ["linear_attention", "full_attention"], "head_dim": 8},
    "rwkv": {"hidden_size": 32, "num_hidden_layers": 2},
    "recurrent_gemma": {**LONG, "head_dim": 8, "lru_width": 32},
}
TAKEN = {
    "phi3": LONG,
    "granite": LONG,
    "olmo2": LONG,
    "gemma3_text": {**LONG, "head_dim": 8},
    "mixtral": {**LONG, "num_local_experts": 2},
    "gptj": {**GPT, "rotary_dim": 8},
    "gpt_bigcode": GPT,
    "opt": {
        "hidden_size": 32,
        "ffn_dim": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 128,
        "word_embed_proj_dim": 32,
    },
}


def random_model(family: str, config: dict, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    special = {"vocab_size": VOCAB_SIZE, "bos_token_id": 1, "eos_token_id": None, "pad_token_id": 0}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **special, **config), dtype=dtype).eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", REFUSED)
def test_what_would_answer_wrongly_is_refused(family: str, dtype: torch.dtype) -> None:
    model = random_model(family, REFUSED[family], dtype)
    with pytest.raises(ValueError, match=r"ForCausalLM cannot be used here: .* 28 tokens .*transformers\.generate"):
        check_tree_attention(model, prompt_tokens=24, num_levels=4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", TAKEN)
def test_full_attention_is_taken(family: str, dtype: torch.dtype) -> None:
    check_tree_attention(random_model(family, TAKEN[family], dtype), prompt_tokens=24, num_levels=4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", WINDOWED)
def test_a_sliding_window_is_taken(family: str, dtype: torch.dtype) -> None:
    config = {**FAMILIES[family], **WINDOWED[family], "max_position_embeddings": 128, "sliding_window": 8}
    check_tree_attention(random_model(family, config, dtype), prompt_tokens=24, num_levels=4)


@pytest.mark.parametrize("error", [-1, 1])
@pytest.mark.parametrize("family", WINDOWED)
def test_a_window_that_is_wrong_by_one_is_refused(family: str, error: int, monkeypatch: pytest.MonkeyPatch) -> None:
    config = {**FAMILIES[family], **WINDOWED[family], "max_position_embeddings": 128, "sliding_window": 8}
    model = random_model(family, config)
    right = SlidingWindow.of(model)
    assert right is not None
    monkeypatch.setattr(SlidingWindow, "of", lambda _: SlidingWindow(8 + error, right.layer_types))
    with pytest.raises(ValueError, match=r"differ from those of plain rows .* at 28 tokens"):
        check_tree_attention(model, prompt_tokens=24, num_levels=4)


@pytest.mark.parametrize("family", ["gemma2", "qwen3"])
def test_a_window_in_all_layers_where_one_lacks_it_is_refused(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = {**FAMILIES[family], **WINDOWED[family], "max_position_embeddings": 128, "sliding_window": 8}
    monkeypatch.setattr(SlidingWindow, "of", lambda _: SlidingWindow(8))
    with pytest.raises(ValueError, match=r"differ from those of plain rows .* at 28 tokens"):
        check_tree_attention(random_model(family, config), prompt_tokens=24, num_levels=4)


@pytest.mark.skipif(not has_int8_products(), reason="this processor has no int8 products in oneDNN")
@pytest.mark.parametrize("prompt_tokens", [16, 56])
def test_rounding_counts_where_padded_rows_round_alike(tmp_path: Path, prompt_tokens: int) -> None:
    model = Int8(NewModel("llama", {**LONG, "initializer_range": 0.2})).build(
        CompactVocabulary([f"<a_{code}>" for code in range(37)]), tmp_path
    )
    check_tree_attention(model, prompt_tokens, num_levels=4)


@pytest.mark.parametrize("num_levels", [1, 2, 6])
@pytest.mark.parametrize("prompt_tokens", [1, 2, 30])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_families_of_the_equality_tests_are_taken_at_any_length(
    family: str, prompt_tokens: int, num_levels: int
) -> None:
    check_tree_attention(tiny_model(family, 12), prompt_tokens, num_levels)


def test_what_passed_is_kept_on_the_model_and_longer_requests_are_probed_again() -> None:
    model, lengths = random_model("llama", LONG), []
    model.register_forward_pre_hook(
        lambda *arguments: lengths.append(arguments[-1]["input_ids"].shape[1]), with_kwargs=True
    )
    for prompt_tokens, probed in ((10, True), (10, False), (7, False), (11, True), (11, False)):
        lengths.clear()
        check_tree_attention(model, prompt_tokens, num_levels=3)
        assert (max(lengths, default=0) >= prompt_tokens) == probed
    assert model.training is False
    model.train()
    check_tree_attention(model, 12, num_levels=3)
    assert model.training, "the mode is restored"


def test_a_decoder_probes_before_it_answers_and_before_it_answers_longer_prompts() -> None:
    """Attention in chunks of 32: right for a prompt of 10 tokens, wrong for one of 40."""
    model = random_model("llama4_text", {**REFUSED["llama4_text"], "attention_chunk_size": 32})
    sids = random_sids(torch.Generator().manual_seed(0), 60, [5, 5, 5]) + 3
    trie = ItemTrie(sids)
    with pytest.raises(ValueError, match="at 43 tokens"):
        SpeculativeDecoder(model, trie, NoDrafter(), max_prompt_tokens=40)
    decoder = SpeculativeDecoder(model, trie, TrieDrafter())
    prompts, mask = random_prompts(torch.Generator().manual_seed(1), [10, 6], VOCAB_SIZE)
    expected, _ = HFGenerate(model, sids)(prompts, mask, 5)
    assert trie.tokens(decoder(prompts, mask, 5).leaves).equal(expected)
    prompts, mask = random_prompts(torch.Generator().manual_seed(1), [40, 6], VOCAB_SIZE)
    with pytest.raises(ValueError, match="at 43 tokens"):
        decoder(prompts, mask, 5)


def test_the_draft_is_probed_too() -> None:
    trie = ItemTrie(random_sids(torch.Generator().manual_seed(0), 60, [5, 5, 5]) + 3)
    target, draft = random_model("llama", LONG), random_model("mpt", REFUSED["mpt"])
    with pytest.raises(ValueError, match="MptForCausalLM cannot be used here"):
        SpeculativeDecoder(target, trie, ModelDrafter(5, 2), draft=draft, max_prompt_tokens=10)


def test_the_cost_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        check_tree_attention(random_model("llama", LONG), 12, 3)
    assert "probing the tree attention of LlamaForCausalLM with prompts of 12 tokens" in caplog.text


def test_a_model_whose_forward_fails_is_refused_with_its_own_words() -> None:
    model = random_model("gpt2", {**GPT, "n_positions": 16})
    with pytest.raises(ValueError, match=r"GPT2LMHeadModel cannot be used here: its forward pass fails .*IndexError"):
        check_tree_attention(model, 20, 3)


@pytest.mark.parametrize(
    ("family", "config", "is_apart"),
    [
        ("llama", LONG, True),
        ("llama", {**LONG, "tie_word_embeddings": True}, True),
        ("gpt_neox", FAMILIES["gpt_neox"], True),
        ("opt", TAKEN["opt"], True),
        ("gemma2", {**LONG, "head_dim": 8}, False),  # caps its logits at 30
        ("gemma2", {**LONG, "head_dim": 8, "final_logit_softcapping": None}, True),
        ("cohere", LONG, False),  # multiplies them
        ("granite", LONG, True),  # divides them, here by 1
        ("granite", {**LONG, "logits_scaling": 8.0}, False),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_head_that_does_more_than_multiply_is_found_out(
    family: str, config: dict, is_apart: bool, dtype: torch.dtype, caplog: pytest.LogCaptureFixture
) -> None:
    model = random_model(family, config, dtype)
    model.get_output_embeddings().weight.data.zero_()  # logits of 0, which no cap or factor changes
    with caplog.at_level(logging.INFO):
        assert head_is_apart(model) == is_apart
    assert ("does more for its logits" in caplog.text) != is_apart
    assert not model.get_output_embeddings()._forward_hooks


class HalvesHiddenStates(LlamaForCausalLM):
    def forward(self, input_ids: torch.Tensor, **_: object) -> CausalLMOutputWithPast:
        return CausalLMOutputWithPast(logits=self.lm_head(self.model(input_ids).last_hidden_state / 2))


def test_a_model_that_changes_hidden_states_before_its_head_is_found_out() -> None:
    special = {"vocab_size": VOCAB_SIZE, "pad_token_id": 0}
    assert not head_is_apart(HalvesHiddenStates(AutoConfig.for_model("llama", **special, **LONG)).eval())


def test_a_sharded_head_is_called_by_the_model_only() -> None:
    """Under ZeRO-3 all processes must call it equally often."""
    model = random_model("llama", LONG)
    model.lm_head.weight.ds_id = 0
    assert not head_is_apart(model)


def test_the_probe_computes_the_logits_of_a_few_positions_only() -> None:
    """Those of two prompts of 8,192 tokens would take 5 GB with the vocabulary of Qwen3."""
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", vocab_size=VOCAB_SIZE, **LONG)).eval()
    positions: list[int] = []
    hook = model.get_output_embeddings().register_forward_hook(lambda *call: positions.append(call[2].shape[1]))
    check_tree_attention(model.bfloat16(), prompt_tokens=60, num_levels=3)
    hook.remove()
    assert 0 < max(positions) < 10
