"""Random numbers are those of SplitMix64, and the answer of a seed is the same alone and in any batch."""

import pytest
import torch

from atspeed.decoding import (
    Decoded,
    HybridDrafter,
    ItemTrie,
    LosslessSampling,
    ModelDrafter,
    NoDrafter,
    RelaxedSampling,
    SamplingVerifier,
    SpeculativeDecoder,
    TrieDrafter,
)
from tests.decoding.priced import PRICED, similar_model
from tests.decoding.tiny import random_prompts, random_sids, tiny_model

VOCAB_SIZE, NUM_BEAMS = 12, 4
LENGTHS = [3, 9, 5, 7, 4, 8]
PROMPTS, MASK = random_prompts(torch.Generator().manual_seed(0), LENGTHS, VOCAB_SIZE)
SEEDS = torch.tensor([5, 0, 1, -7, 2**62, 5])
TARGET = tiny_model("llama", VOCAB_SIZE)
DRAFT = similar_model(TARGET, noise=0.5)
SIDS = random_sids(torch.Generator().manual_seed(1), 200, [6, 7, 7, 7])
TRIES = {
    "codes": ItemTrie(SIDS),
    "closed codes": ItemTrie(torch.nn.functional.pad(SIDS, (0, 2), value=11), num_closing=2),
}
DRAFTERS = {
    "none": NoDrafter(),
    "trie": TrieDrafter(60),
    "hybrid": HybridDrafter(20),
    "draft": ModelDrafter(6, 2),
    **{name: PRICED[name] for name in ("priced", "priced, dear calls", "priced, uncalibrated")},
}
VERIFIERS = {"lossless": LosslessSampling(), "relaxed": RelaxedSampling(0.7)}


def decode(trie: str, drafter: str, verifier: SamplingVerifier, rows: list[int], seeds: torch.Tensor) -> Decoded:
    """Answer some of the requests, padded to the longest of them."""
    decoder = SpeculativeDecoder(TARGET, TRIES[trie], DRAFTERS[drafter], verifier, DRAFT)
    first = len(PROMPTS[0]) - max(LENGTHS[row] for row in rows)
    return decoder(PROMPTS[rows, first:], MASK[rows, first:], NUM_BEAMS, seeds=seeds[rows])


@pytest.mark.parametrize("trie", TRIES)
@pytest.mark.parametrize("verifier", VERIFIERS)
@pytest.mark.parametrize("drafter", DRAFTERS)
def test_the_answer_of_a_seed_does_not_depend_on_what_shares_its_batch(trie: str, verifier: str, drafter: str) -> None:
    how = trie, drafter, VERIFIERS[verifier]
    alone = [decode(*how, [row], SEEDS) for row in range(len(LENGTHS))]
    for rows in ([0, 1, 2, 3, 4, 5], [5, 3, 1, 4, 2, 0], [2, 0], [3, 1], [4, 4, 5]):
        together = decode(*how, rows, SEEDS)
        for index, row in enumerate(rows):
            assert together.leaves[index].equal(alone[row].leaves[0])
            assert together.target_calls[index] == alone[row].target_calls[0]
            torch.testing.assert_close(together.scores[index], alone[row].scores[0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("verifier", VERIFIERS)
def test_other_seeds_give_other_answers(verifier: str) -> None:
    first, second = (decode("codes", "draft", VERIFIERS[verifier], [0] * 6, seeds) for seeds in (SEEDS, SEEDS + 1))
    assert first.leaves.equal(second.leaves), "each row has the seed of request 0 of its list"
