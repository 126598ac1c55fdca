"""Rounds with fixed shapes, run as they are on the CPU, give the answers of rounds whose sizes are measured."""

import copy
import itertools
import logging
import re
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from atspeed.decoding import (
    BoundedTopK,
    Decoded,
    ItemFilter,
    ItemTrie,
    LosslessSampling,
    ModelDrafter,
    RelaxedSampling,
    SpeculativeDecoder,
    StrictTopK,
    TrieDrafter,
    Verifier,
)
from atspeed.decoding.execution import Captured
from tests.decoding.test_equality import (
    DRAFTERS,
    WINDOWED,
    assert_case_equals_generate,
    assert_equals_generate,
    thorough,
)
from tests.decoding.test_responses import Case
from tests.decoding.tiny import END_TOKEN, FAMILIES, LLAMA_LIKE, random_prompts, random_sids, random_titles, tiny_model
from tests.decoding.verifiers.test_sampling import (
    DRAFTERS as SAMPLING_DRAFTERS,
)
from tests.decoding.verifiers.test_sampling import (
    DRAFTS,
    FALSE_ALARM,
    SAMPLES,
    chi_square_p_value,
    exact_law,
    sample,
)

VERIFIERS: dict[str, Verifier] = {
    "strict": StrictTopK(),
    "bounded": BoundedTopK(0.2),
    "lossless": LosslessSampling(),
    "relaxed": RelaxedSampling(2.0),
}
WIDTHS = (1, 2, 3, 5, 10)
SIDS = random_sids(torch.Generator().manual_seed(0), 80, [5, 4, 6])
PROMPTS, MASK = random_prompts(torch.Generator().manual_seed(0), [7, 3, 5], 12)
TARGET, DRAFT = tiny_model("llama", 12), tiny_model("llama", 12, seed=1)
brief = settings(thorough, max_examples=2)


def captured(**more: object) -> Captured:
    return Captured(WIDTHS, batch_sizes=(1, 4), prompt_lengths=(8, 16, 32), **more)  # type: ignore[arg-type]


def same_proposals(drafter: str, verifier: str) -> bool:
    """Whether what is proposed, which sampling and bounded answers depend on, is the same with fixed shapes."""
    return verifier == "strict" or not drafter.startswith("priced")  # which has planned widths instead


def decoder_with(execution: Captured | None, drafter: str = "draft", verifier: str = "strict") -> SpeculativeDecoder:
    return SpeculativeDecoder(
        TARGET, ItemTrie(SIDS), DRAFTERS[drafter], VERIFIERS[verifier], DRAFT, execution=execution
    )


def assert_equal(ours: Decoded, expected: Decoded) -> None:
    """Padding changes reductions, so scores may differ by rounding; nothing ties in these cases."""
    assert ours.leaves.equal(expected.leaves)
    torch.testing.assert_close(ours.scores, expected.scores, atol=1e-4, rtol=0)
    torch.testing.assert_close(ours.loss_bound, expected.loss_bound, atol=1e-4, rtol=0)


cases = given(
    seed=st.integers(0, 2**31),
    num_codes=st.lists(st.integers(1, 7), min_size=1, max_size=5),
    num_items=st.integers(10, 60),
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    num_beams=st.sampled_from(WIDTHS),
    drafter=st.sampled_from(sorted(DRAFTERS)),
    draft_family=st.sampled_from(sorted(FAMILIES)),
    draft_seed=st.integers(0, 1),
)


@pytest.mark.nightly
@pytest.mark.parametrize("family", FAMILIES)
@thorough
@cases
def test_many_strict_answers_equal_generate(family: str, **case: Any) -> None:
    assert_case_equals_generate(family, **case, execution=captured())


@pytest.mark.parametrize("family", FAMILIES)
@brief
@cases
def test_strict_answers_equal_generate(family: str, **case: Any) -> None:
    assert_case_equals_generate(family, **case, execution=captured())


@pytest.mark.parametrize("family", ["mistral", "gemma3_text"])
@brief
@given(seed=st.integers(0, 2**31), drafter=st.sampled_from(sorted(DRAFTERS)))
def test_windows_shorter_than_the_prompt(family: str, seed: int, drafter: str) -> None:
    assert family in WINDOWED
    generator = torch.Generator().manual_seed(seed)
    sids = random_sids(generator, 40, [4, 5, 3])
    prompts, mask = random_prompts(generator, [21, 9], 12)
    target, draft = tiny_model(family, 12, window=8), tiny_model(family, 12, window=13, seed=1)
    assert_equals_generate(target, sids, prompts, mask, 3, DRAFTERS[drafter], draft, execution=captured())


@settings(thorough, max_examples=8)
@given(
    seed=st.integers(0, 2**31),
    longest=st.integers(1, 6),
    num_items=st.integers(10, 60),
    num_beams=st.sampled_from(WIDTHS),
    drafter=st.sampled_from(sorted(DRAFTERS)),
)
def test_identifiers_of_different_lengths(
    seed: int, longest: int, num_items: int, num_beams: int, drafter: str
) -> None:
    generator = torch.Generator().manual_seed(seed)
    sids = random_titles(generator, num_items, longest, 12)
    prompts, mask = random_prompts(generator, [7, 2, 4], 12)
    assert_equals_generate(
        TARGET, sids, prompts, mask, num_beams, DRAFTERS[drafter], DRAFT, END_TOKEN, execution=captured()
    )


@settings(thorough, max_examples=10)
@given(
    seed=st.integers(0, 2**31),
    num_codes=st.lists(st.integers(1, 7), min_size=1, max_size=4),
    num_prefix=st.integers(0, 2),
    num_suffix=st.integers(0, 3),
    num_beams=st.sampled_from(WIDTHS),
    drafter=st.sampled_from(sorted(DRAFTERS)),
    verifier=st.sampled_from(sorted(VERIFIERS)),
)
def test_tokens_around_the_codes_and_a_draft_of_another_vocabulary(
    seed: int,
    num_codes: list[int],
    num_prefix: int,
    num_suffix: int,
    num_beams: int,
    drafter: str,
    verifier: str,
) -> None:
    assume(same_proposals(drafter, verifier))
    case = Case(seed, num_codes, num_prefix, num_suffix)
    seeds = torch.arange(len(case.prompts))
    expected = case.decode(num_beams, drafter, VERIFIERS[verifier], seeds=seeds)
    assert_equal(case.decode(num_beams, drafter, VERIFIERS[verifier], captured(), seeds=seeds), expected)


@pytest.mark.parametrize("drafter", DRAFTERS)
def test_there_may_be_a_round_more_where_something_closes_semantic_ids(drafter: str) -> None:
    case = Case(0, [4, 5, 3], num_suffix=2)
    assert case.trie.num_calls == case.trie.num_levels + 1
    assert_equal(case.decode(5, drafter, execution=captured()), case.decode(5, drafter))


@pytest.mark.parametrize(
    ("drafter", "verifier"), [pair for pair in itertools.product(DRAFTERS, VERIFIERS) if same_proposals(*pair)]
)
def test_filters(drafter: str, verifier: str) -> None:
    execution = captured()
    expected, ours = (decoder_with(each, drafter, verifier) for each in (None, execution))
    seeds = torch.arange(3)
    for share in (1.0, 0.5, 0.0, 0.05):
        wanted = torch.rand(3, len(SIDS), generator=torch.Generator().manual_seed(1)) < share
        answers = [each(PROMPTS, MASK, 5, ItemFilter(wanted), seeds) for each in (ours, expected)]
        assert_equal(*answers)
    assert_equal(ours(PROMPTS, MASK, 5, seeds=seeds), expected(PROMPTS, MASK, 5, seeds=seeds))
    assert len(execution.captures) == 1


@pytest.mark.parametrize("drafter", ["trie", "draft", "priced"])
def test_lossless_sampling_follows_the_exact_law(drafter: str) -> None:
    execution = Captured((2,), (SAMPLES,), (6,))
    counts = sample(LosslessSampling(), SAMPLING_DRAFTERS[drafter], DRAFTS["poor"], 2, execution=execution)
    assert len(execution.captures) == 1
    assert chi_square_p_value(counts, exact_law(2, 1.0)) > FALSE_ALARM


def test_an_answer_does_not_depend_on_what_shares_the_batch() -> None:
    decoder = decoder_with(captured(), verifier="relaxed")
    together = decoder(PROMPTS, MASK, 3, seeds=torch.arange(3))
    for row in range(3):
        alone = decoder(PROMPTS[row, None], MASK[row, None], 3, seeds=torch.tensor([row]))
        assert alone.leaves.equal(together.leaves[row, None])


@pytest.mark.parametrize("verifier", ["strict", "bounded"])
def test_catalogs_are_exchanged_in_place(verifier: str) -> None:
    execution = captured(room=1.0)
    decoder, expected = (decoder_with(each, verifier=verifier) for each in (execution, None))
    decoder(PROMPTS, MASK, 5)
    first = execution.captures
    generator = torch.Generator().manual_seed(2)
    for num_items in (90, 12, 80, 7):
        trie = ItemTrie(random_sids(generator, num_items, [6, 5, 6]))
        for each in (decoder, expected):
            each.use_catalog(trie)
        ours, theirs = decoder(PROMPTS, MASK, 5), expected(PROMPTS, MASK, 5)
        assert_equal(ours, theirs)
        assert ours.accepted.equal(theirs.accepted), "the draft has the catalog, too"
        assert execution.captures == first
    trie = ItemTrie(random_sids(generator, 900, [9, 9, 9]))
    for each in (decoder, expected):
        each.use_catalog(trie)
    assert_equal(decoder(PROMPTS, MASK, 5), expected(PROMPTS, MASK, 5))
    assert len(execution.captures) == 1, "the old capture is gone"
    assert execution.captures != first


@pytest.mark.parametrize(
    ("num_beams", "rows", "padding", "reason"),
    [
        (4, 1, 0, r"num_beams is 4, and \[1, 2, 3, 5, 10\] are captured"),
        (3, 5, 0, "5 requests of up to 7 tokens, and up to 4 of 32 are captured"),
        (3, 1, 30, "1 requests of up to 37 tokens, and up to 4 of 32 are captured"),
    ],
)
def test_other_shapes_are_searched_eagerly_and_said_once(
    caplog: pytest.LogCaptureFixture, num_beams: int, rows: int, padding: int, reason: str
) -> None:
    caplog.set_level(logging.INFO)
    execution = captured()
    prompts = torch.nn.functional.pad(PROMPTS[:1].expand(rows, -1), (padding, 0), value=3)
    mask = torch.ones_like(prompts, dtype=torch.bool)
    for _ in range(2):
        answers = [decoder_with(each, "trie")(prompts, mask, num_beams) for each in (execution, None)]
        assert_equal(*answers)
    assert not execution.captures
    messages = [record.getMessage() for record in caplog.records if "not captured" in record.getMessage()]
    assert len(messages) == 1
    assert re.search(reason, messages[0])


def test_more_beams_than_semantic_ids() -> None:
    execution = captured()
    sids = SIDS.unique(dim=0)[:4]
    decoder = SpeculativeDecoder(TARGET, ItemTrie(sids), TrieDrafter(), execution=execution)
    assert decoder(PROMPTS, MASK, 5).leaves.shape == (3, 4)
    assert not execution.captures


@pytest.mark.parametrize("rotary", ["dynamic", "longrope"])
def test_models_whose_rotary_embedding_asks_the_device_are_searched_eagerly(
    caplog: pytest.LogCaptureFixture, rotary: str
) -> None:
    caplog.set_level(logging.INFO)
    factors = {"long_factor": [1.0] * 4, "short_factor": [1.0] * 4, "original_max_position_embeddings": 32}
    parameters = {"rope_type": rotary, "rope_theta": 1e4, "factor": 2.0, **(factors if rotary == "longrope" else {})}
    config = AutoConfig.for_model("llama", vocab_size=12, rope_parameters=parameters, **LLAMA_LIKE)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    execution = captured()
    decoder = SpeculativeDecoder(model, ItemTrie(SIDS), TrieDrafter(), execution=execution)
    expected = SpeculativeDecoder(model, ItemTrie(SIDS), TrieDrafter())(PROMPTS, MASK, 3)
    assert_equal(decoder(PROMPTS, MASK, 3), expected)
    assert not execution.captures
    assert f"the target has a {rotary} rotary embedding" in caplog.text


def test_what_is_captured_is_reported_and_released(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    execution = captured()
    decoder = decoder_with(execution)
    decoder(PROMPTS, MASK, 5)
    decoder(PROMPTS[:2], MASK[:2], 5)  # the same shape
    decoder(PROMPTS[:1], MASK[:1], 2)
    sizes = [(each.shape.batch_size, each.shape.prompt_length, each.shape.num_beams) for each in execution.captures]
    assert sizes == [(4, 8, 5), (1, 8, 2)]
    assert all(each.seconds > 0 and not each.is_graph for each in execution.captures)
    # the prompt, the root's place and two levels of 4 nodes, then 5 beams with a level of 4, and 5 beams
    assert execution.captures[0].slots == 8 + (1 + 2 * 4) + (5 + 4) + 5
    assert "num_beams=5" in caplog.text
    execution.release()
    assert not execution.captures


def test_one_execution_serves_several_decoders() -> None:
    execution = captured()
    decoders = [decoder_with(execution, drafter) for drafter in ("none", "draft")]
    for _ in range(2):
        first, second = (decoder(PROMPTS, MASK, 5) for decoder in decoders)
        assert_equal(first, second)
    assert len(execution.captures) == 2


def test_bad_settings_are_named() -> None:
    with pytest.raises(ValueError, match="num_beams is empty"):
        Captured(())
    with pytest.raises(ValueError, match=r"batch_sizes\[1\] is 0"):
        Captured((5,), batch_sizes=(4, 0))
    with pytest.raises(ValueError, match="room is -1"):
        Captured((5,), room=-1)


def test_beams_are_scored_also_if_a_drafter_proposes_more_than_it_says() -> None:
    drafter = copy.copy(ModelDrafter(4, 2))
    propose = drafter.propose
    drafter.propose = lambda *args: propose(*args)._replace(most=0)  # type: ignore[method-assign]
    decoder = SpeculativeDecoder(TARGET, ItemTrie(SIDS), drafter, draft=DRAFT, execution=captured())
    answers = decoder(PROMPTS, MASK, 5)
    assert (answers.target_calls == 3).all(), "proposals were cut, so nothing was accepted"
    assert_equal(answers, decoder_with(None)(PROMPTS, MASK, 5))


@pytest.mark.parametrize(
    ("tokens", "draft_tokens", "lengths"),
    [(9, 9, {(8, 8), (16, 16)}), (8, 20, {(8, 8), (8, 16), (8, 32)}), (50, 50, {(8, 8), (16, 16), (32, 32)})],
)
def test_what_prompts_may_need_is_captured_beforehand(
    tokens: int, draft_tokens: int, lengths: set[tuple[int, int]]
) -> None:
    execution = Captured((2, 5), batch_sizes=(1, 4), prompt_lengths=(8, 16, 32))
    decoder = SpeculativeDecoder(
        TARGET,
        ItemTrie(SIDS),
        ModelDrafter(4, 2),
        draft=DRAFT,
        max_prompt_tokens=tokens,
        max_draft_prompt_tokens=draft_tokens,
        execution=execution,
    )
    shapes = [capture.shape for capture in execution.captures]
    assert {(shape.prompt_length, shape.draft_prompt_length) for shape in shapes} == lengths
    assert len(shapes) == 2 * 2 * len(lengths)
    assert_equal(decoder(PROMPTS, MASK, 5), decoder_with(None)(PROMPTS, MASK, 5))
    assert len(execution.captures) == len(shapes)
