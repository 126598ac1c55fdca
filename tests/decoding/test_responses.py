"""What a target writes around the codes, and drafts of other vocabularies: answers stay those of generate."""

import copy
from importlib import import_module

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.utils.rnn import pad_sequence

from atspeed.benchmark import HFGenerate
from atspeed.decoding import (
    BoundedTopK,
    Decoded,
    ItemFilter,
    ItemTrie,
    LosslessSampling,
    ModelDrafter,
    NoDrafter,
    SpeculativeDecoder,
    TrieDrafter,
    Verifier,
)
from atspeed.decoding.execution import Execution
from tests.decoding.test_equality import DRAFTERS, assert_same_answers, thorough
from tests.decoding.tiny import END_TOKEN, random_prompts, random_sids, tiny_model

VOCAB_SIZE, DRAFT_VOCAB_SIZE = 20, 12
NUM_CODES = 9


class Case:
    """A catalog of single-token codes with tokens around them, and prompts of both models.

    Args:
        seed: of everything.
        num_codes: codes per level.
        num_prefix: tokens before the codes.
        num_suffix: tokens after them.
        lengths: tokens of the target's prompts, without the prefix.
        num_items: of the catalog.
    """

    def __init__(
        self,
        seed: int,
        num_codes: list[int],
        num_prefix: int = 0,
        num_suffix: int = 0,
        lengths: tuple[int, ...] = (3, 9, 5),
        num_items: int = 60,
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        codes = random_sids(generator, num_items, num_codes) - 3
        tokens = torch.randperm(VOCAB_SIZE, generator=generator)
        code_tokens, self.prefix, suffix, _ = tokens.split(
            [NUM_CODES, num_prefix, num_suffix, 11 - num_prefix - num_suffix]
        )
        closing = NUM_CODES + torch.arange(num_suffix)
        self.sids = torch.cat([code_tokens[codes], suffix.expand(num_items, -1)], dim=1)
        self.trie = ItemTrie(
            torch.cat([codes, closing.expand(num_items, -1)], dim=1),
            torch.cat([code_tokens, suffix]),
            num_closing=num_suffix,
            num_prefix=num_prefix,
        )
        prompts, mask = random_prompts(generator, list(lengths), VOCAB_SIZE)
        self.prompts = torch.cat([prompts, self.prefix.expand(len(lengths), -1)], dim=1)
        self.mask = torch.nn.functional.pad(mask, (0, num_prefix), value=True)
        self.draft_prompts = random_prompts(generator, [max(1, length // 2) for length in lengths], DRAFT_VOCAB_SIZE)
        self.draft_tokens = torch.randperm(DRAFT_VOCAB_SIZE, generator=generator)[:NUM_CODES]
        self.target = tiny_model("llama", VOCAB_SIZE, seed % 2)
        self.draft = tiny_model("gpt2", DRAFT_VOCAB_SIZE)

    def decode(
        self,
        num_beams: int,
        drafter: str = "none",
        verifier: Verifier | None = None,
        execution: Execution | None = None,
        **more: object,
    ) -> Decoded:
        decoder = SpeculativeDecoder(
            self.target,
            self.trie,
            DRAFTERS[drafter],
            verifier,
            self.draft,
            draft_tokens=self.draft_tokens,
            execution=execution,
        )
        prompts, mask = self.draft_prompts
        return decoder(
            self.prompts,
            self.mask,
            num_beams,
            draft_prompts=prompts,
            draft_prompt_mask=mask,
            **more,
        )

    def generate(self, num_beams: int) -> tuple[torch.Tensor, torch.Tensor]:
        return HFGenerate(self.target, self.sids, prefix=self.prefix.tolist())(self.prompts, self.mask, num_beams)


@thorough
@given(
    seed=st.integers(0, 2**31),
    num_codes=st.lists(st.integers(1, 7), min_size=1, max_size=4),
    num_prefix=st.integers(0, 2),
    num_suffix=st.integers(0, 3),
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=4).map(tuple),
    num_items=st.integers(1, 60),
    num_beams=st.sampled_from([1, 2, 3, 5, 10, 70]),
    drafter=st.sampled_from(sorted(DRAFTERS)),
)
def test_prefix_and_suffix_count_as_generate_counts_them(
    seed: int,
    num_codes: list[int],
    num_prefix: int,
    num_suffix: int,
    lengths: tuple[int, ...],
    num_items: int,
    num_beams: int,
    drafter: str,
) -> None:
    case = Case(seed, num_codes, num_prefix, num_suffix, lengths, num_items)
    decoded = case.decode(num_beams, drafter)
    assert_same_answers(case.trie, decoded, *case.generate(num_beams))
    assert decoded.accepted.shape == decoded.drafted.shape == (len(lengths), len(num_codes) - 1)
    assert (decoded.target_calls + decoded.accepted_levels == len(num_codes)).all(), "the suffix takes no call"


@pytest.mark.parametrize("num_suffix", [0, 1, 3])
def test_a_suffix_of_any_length_takes_no_call_where_last_codes_are_few(
    num_suffix: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(0, [5, 6, 7], num_prefix=2, num_suffix=num_suffix)
    plain = case.decode(5)
    assert plain.target_calls.tolist() == [3] * 3
    monkeypatch.setattr(import_module("atspeed.decoding.search"), "MOST_LAST_CODES", 1)
    apart = case.decode(5)
    assert apart.target_calls.tolist() == [3 + (num_suffix > 0)] * 3, "all tokens of the suffix take one call"
    assert apart.target_shapes[-1].tokens == 5 * max(1, num_suffix)
    assert apart.leaves.equal(plain.leaves)
    trie = case.decode(5, "trie")
    assert trie.target_calls.tolist() == [1] * 3
    assert trie.leaves.equal(plain.leaves)


def test_a_prefix_adds_the_same_to_all_scores() -> None:
    with_prefix = Case(3, [5, 6, 7], num_prefix=2)
    decoded = with_prefix.decode(5)
    without = SpeculativeDecoder(with_prefix.target, ItemTrie(with_prefix.sids), NoDrafter())
    alone = without(with_prefix.prompts, with_prefix.mask, 5)
    shift = decoded.scores - alone.scores
    assert (shift < -0.1).all()
    torch.testing.assert_close(shift, shift[:, :1].expand_as(shift))


def test_a_filter_applies_to_both_models() -> None:
    case = Case(4, [4, 5, 6], num_prefix=1, num_suffix=2)
    wanted = torch.rand(3, 60, generator=torch.Generator().manual_seed(0)) < 0.3
    plain = case.decode(4, item_filter=ItemFilter(wanted))
    for drafter in DRAFTERS:
        assert case.decode(4, drafter, item_filter=ItemFilter(wanted)).leaves.equal(plain.leaves)
    allowed = case.trie.node_mask(wanted)
    assert allowed.gather(1, plain.leaves).all()


def test_bounded_answers_know_what_they_lost_with_the_prefix_in_the_bound() -> None:
    case = Case(11, [5, 6, 7], num_prefix=2, num_suffix=2)
    strict, counts = case.decode(5), []
    without_prefix = copy.copy(case.trie)
    without_prefix.num_prefix = 0
    for epsilon in (0.0, 0.2):
        bounded = case.decode(5, "draft", BoundedTopK(epsilon))
        counts.append(bounded.num_exact.tolist())
        for row, count in enumerate(counts[-1]):
            assert bounded.leaves[row, :count].equal(strict.leaves[row, :count])
        with_prefix, case.trie = case.trie, without_prefix
        alone = case.decode(5, "draft", BoundedTopK(epsilon))
        case.trie = with_prefix
        shift = bounded.scores[:, 0] - alone.scores[:, 0]
        torch.testing.assert_close(bounded.loss_bound, alone.loss_bound + shift)
    assert counts[0] == [5] * 3
    assert 0 < sum(counts[-1]) < 15, "the case must lose some answers, and keep some"


def test_lossless_sampling_draws_by_the_codes_of_the_target() -> None:
    """One code per semantic ID: K = 1 draws it with the target's probability, whatever the suffix."""
    case = Case(6, [6], num_prefix=1, num_suffix=2, lengths=(4,), num_items=30)
    plain = case.decode(6)
    first = case.trie.code_path(plain.leaves)[0, :, 0]
    expected = case.target(case.prompts).logits[0, -1].softmax(0)[case.trie.token[first]]
    counts = torch.zeros(len(first))
    draws = 600
    for seed in range(draws):
        decoded = case.decode(1, "draft", LosslessSampling(), seeds=torch.tensor([seed]))
        counts += (case.trie.code_path(decoded.leaves)[0, 0, 0] == first).float()
    expected = expected / expected.sum()
    error = (expected * (1 - expected) / draws).sqrt()
    assert ((counts / draws - expected).abs() < 4 * error + 1e-9).all()


@thorough
@given(
    seed=st.integers(0, 2**31),
    num_levels=st.integers(1, 3),
    num_codes=st.integers(1, 30),
    num_items=st.integers(1, 60),
    num_prefix=st.integers(0, 2),
    num_beams=st.sampled_from([1, 2, 3, 5, 10]),
    drafter=st.sampled_from(sorted(DRAFTERS)),
)
def test_codes_of_several_tokens_are_searched_token_by_token_as_generate_does(
    seed: int, num_levels: int, num_codes: int, num_items: int, num_prefix: int, num_beams: int, drafter: str
) -> None:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(num_codes, (num_items, num_levels), generator=generator).tolist()
    sids = spelled(codes)
    prefix = [15, 16][:num_prefix]
    trie = ItemTrie(sids, only_children_ride=True, num_prefix=num_prefix)
    prompts, mask = random_prompts(generator, [4, 7], VOCAB_SIZE)
    prompts = torch.cat([prompts, torch.tensor(prefix, dtype=torch.long).expand(2, -1)], dim=1)
    mask = torch.nn.functional.pad(mask, (0, num_prefix), value=True)
    target, draft = tiny_model("llama", VOCAB_SIZE), tiny_model("llama", VOCAB_SIZE, 1)
    decoded = SpeculativeDecoder(target, trie, DRAFTERS[drafter], draft=draft)(prompts, mask, num_beams)
    expected = HFGenerate(target, sids, end_token=END_TOKEN, prefix=prefix)(prompts, mask, num_beams)
    assert_same_answers(trie, decoded, *expected)


def spelled(codes: list[list[int]]) -> torch.Tensor:
    """Spell codes with a letter of the level, digits and a bracket, and end with a line break and an end token."""
    spelling = [
        [token for level, code in enumerate(sid) for token in (3 + level, *(6 + int(d) for d in str(code)[:2]), 17)]
        + [18, END_TOKEN]
        for sid in codes
    ]
    return pad_sequence([torch.tensor(tokens) for tokens in spelling], batch_first=True, padding_value=-1)


def test_tokens_that_leave_no_choice_take_no_call() -> None:
    sids = spelled([[code // 5, code % 5] for code in range(25)])
    trie = ItemTrie(sids, only_children_ride=True)
    prompts, mask = random_prompts(torch.Generator().manual_seed(0), [4, 7], VOCAB_SIZE)
    decoded = SpeculativeDecoder(tiny_model("llama", VOCAB_SIZE), trie, NoDrafter())(prompts, mask, 5)
    assert sids.shape[1] == 8
    assert decoded.target_calls.tolist() == [3, 3], "the prompt with '<a_', one per digit; the rest rides"


def test_a_draft_with_tokens_beyond_its_vocabulary_is_refused() -> None:
    case = Case(0, [5, 6])
    arguments = case.target, case.trie, ModelDrafter(), None, case.draft
    with pytest.raises(ValueError, match="token ids from 0 to 99; the draft knows tokens from 0 to 11"):
        SpeculativeDecoder(*arguments, draft_tokens=torch.tensor([0, 99] * 5))
    SpeculativeDecoder(case.target, case.trie, TrieDrafter(), draft_tokens=torch.tensor([0, 99] * 5))  # no draft needed
