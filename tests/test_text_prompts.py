"""Text prompts on real catalogs, with untrained models: the answers of generate, and drafts that see only codes."""

from pathlib import Path

import pytest
import torch
import yaml

from atspeed.benchmark.reference import reference_for
from atspeed.data import InteractionSource, LCRecLayout, MiniOneRecLayout, RecommendationData
from atspeed.decoding import HybridDrafter, ModelDrafter, NoDrafter, SpeculativeDecoder, TrieDrafter
from atspeed.models import NewModel
from atspeed.prompts import CompactPrompt, TextPrompt
from atspeed.recommender import draft_tokens, response_trie
from tests.modules.tiny import TINY
from tests.prompts.tiny_tokenizers import byte_level, metaspace_bpe, save

CONFIGS = Path(__file__).parent.parent / "configs" / "prompts"
LONG = {**TINY, "max_position_embeddings": 512}


def requests_of(
    source: InteractionSource, config: str, tokenizer: Path, add_codes: bool, draft: bool
) -> RecommendationData:
    settings = yaml.safe_load((CONFIGS / config).read_text())["data"]["prompt"]["init_args"]
    prompt = TextPrompt(**{**settings, "tokenizer": tokenizer, "add_codes": add_codes})
    draft_prompt = CompactPrompt() if draft else None
    data = RecommendationData(source, prompt, draft_prompt, max_history=5, batch_size=3, num_test_users=3)
    data.setup()
    return data


def assert_answers_of_generate(data: RecommendationData, plain_calls: int | None) -> None:
    target = NewModel("qwen3", {**LONG, "head_dim": 16, "num_key_value_heads": 1}).build(
        data.encoder.vocabulary, Path()
    )
    draft = NewModel("llama", LONG, seed=1).build(data.draft_encoder.vocabulary, Path())
    for model in (target, draft):
        torch.nn.init.normal_(model.lm_head.weight, std=0.5)
    trie, tokens = response_trie(data.catalog, data.encoder), draft_tokens(data.encoder, data.draft_encoder)
    (batch,) = data.test_dataloader()
    assert batch.prompts.shape[1] > 2 * batch.draft_prompts.shape[1] or tokens is None, "the draft's prompt is short"
    expected_tokens, expected_scores = reference_for(target, data.encoder)(batch.prompts, batch.prompt_mask, 5)
    for drafter in (NoDrafter(), TrieDrafter(), HybridDrafter(64), ModelDrafter(20, 3)):
        decoded = SpeculativeDecoder(target, trie, drafter, draft=draft, draft_tokens=tokens)(
            **batch.decoder_inputs, num_beams=5
        )
        assert trie.tokens(decoded.leaves).equal(expected_tokens)
        torch.testing.assert_close(decoded.scores, expected_scores, atol=1e-4, rtol=0)
        if plain_calls is not None and isinstance(drafter, NoDrafter):
            assert decoded.target_calls.tolist() == [plain_calls] * 3, "the suffix takes no call"
        if plain_calls is not None and isinstance(drafter, TrieDrafter):
            assert decoded.target_calls.max() <= 2


@pytest.mark.parametrize("draft", [False, True], ids=["same vocabulary", "compact draft"])
def test_lcrec_with_a_byte_level_tokenizer(lcrec: Path, tmp_path: Path, draft: bool) -> None:
    data = requests_of(LCRecLayout(lcrec), "lcrec.yaml", save(tmp_path, byte_level()), add_codes=True, draft=draft)
    assert_answers_of_generate(data, plain_calls=4)


def test_minionerec_with_codes_as_single_tokens(minionerec: Path, tmp_path: Path) -> None:
    tokenizer = save(tmp_path, metaspace_bpe(), bos=True)
    data = requests_of(MiniOneRecLayout(minionerec), "minionerec.yaml", tokenizer, add_codes=True, draft=True)
    assert len(data.encoder.spelling.suffix) >= 2, "a line break and an end token"
    assert_answers_of_generate(data, plain_calls=3)


def test_minionerec_with_codes_of_several_tokens(minionerec: Path, tmp_path: Path) -> None:
    tokenizer = save(tmp_path, metaspace_bpe(), bos=True)
    data = requests_of(MiniOneRecLayout(minionerec), "minionerec.yaml", tokenizer, add_codes=False, draft=False)
    assert data.encoder.spelling.code_tokens is None
    assert_answers_of_generate(data, plain_calls=None)


def test_a_draft_of_another_tokenizer_needs_single_tokens(minionerec: Path, tmp_path: Path) -> None:
    tokenizer = save(tmp_path, metaspace_bpe(), bos=True)
    data = requests_of(MiniOneRecLayout(minionerec), "minionerec.yaml", tokenizer, add_codes=False, draft=True)
    with pytest.raises(ValueError, match="the target's tokenizer writes a code with several tokens"):
        draft_tokens(data.encoder, data.draft_encoder)
