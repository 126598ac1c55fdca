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
    RequestNoise,
    SamplingVerifier,
    SpeculativeDecoder,
    TrieDrafter,
    request_seeds,
)
from atspeed.decoding.request_noise import Use, _output
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
SLOWER = DRAFTERS.keys() - {"none", "hybrid", "draft", "priced"}
VERIFIERS = {"lossless": LosslessSampling(), "relaxed": RelaxedSampling(0.7)}


def decode(trie: str, drafter: str, verifier: SamplingVerifier, rows: list[int], seeds: torch.Tensor) -> Decoded:
    """Answer some of the requests, padded to the longest of them."""
    decoder = SpeculativeDecoder(TARGET, TRIES[trie], DRAFTERS[drafter], verifier, DRAFT)
    first = len(PROMPTS[0]) - max(LENGTHS[row] for row in rows)
    return decoder(PROMPTS[rows, first:], MASK[rows, first:], NUM_BEAMS, seeds=seeds[rows])


@pytest.mark.parametrize("trie", ["codes", pytest.param("closed codes", marks=pytest.mark.nightly)])
@pytest.mark.parametrize("verifier", VERIFIERS)
@pytest.mark.parametrize(
    "drafter",
    ["none", "hybrid", "draft", "priced", *(pytest.param(name, marks=pytest.mark.nightly) for name in sorted(SLOWER))],
)
def test_the_answer_of_a_seed_does_not_depend_on_what_shares_its_batch(trie: str, verifier: str, drafter: str) -> None:
    how = trie, drafter, VERIFIERS[verifier]
    alone = [decode(*how, [row], SEEDS) for row in range(len(LENGTHS))]
    for rows in ([0, 1, 2, 3, 4, 5], [5, 3, 0, 4, 2, 1], [4, 2, 4]):
        together = decode(*how, rows, SEEDS)
        for index, row in enumerate(rows):
            assert together.leaves[index].equal(alone[row].leaves[0])
            assert together.target_calls[index] == alone[row].target_calls[0]
            torch.testing.assert_close(together.scores[index], alone[row].scores[0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("drafter", ["trie", "hybrid"])
def test_proposals_that_are_not_drawn_change_no_answer(drafter: str) -> None:
    drafted, plain = (decode("codes", name, LosslessSampling(), [0, 1, 2], SEEDS) for name in (drafter, "none"))
    assert drafted.leaves.equal(plain.leaves)
    assert (drafted.target_calls < plain.target_calls).all()


@pytest.mark.parametrize("verifier", VERIFIERS)
def test_other_seeds_give_other_answers(verifier: str) -> None:
    decoder = SpeculativeDecoder(TARGET, TRIES["codes"], ModelDrafter(6, 2), VERIFIERS[verifier], DRAFT)
    prompts, mask = PROMPTS[[0]].expand(100, -1), MASK[[0]].expand(100, -1)
    answers = decoder(prompts, mask, NUM_BEAMS, seeds=torch.arange(100)).leaves
    assert len(answers.unique(dim=0)) > 20
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first, second = (decoder(prompts, mask, NUM_BEAMS).leaves for _ in range(2))
    assert not first.equal(second), "without seeds, each call draws others"


def test_where_nothing_is_drawn_the_state_of_torch_stays() -> None:
    before = torch.random.get_rng_state()
    SpeculativeDecoder(TARGET, TRIES["codes"], NoDrafter())(PROMPTS, MASK, NUM_BEAMS)
    assert torch.random.get_rng_state().equal(before)


@pytest.mark.parametrize("seeds", [torch.arange(5), torch.zeros(6), torch.zeros(6, 1, dtype=torch.long)])
def test_seeds_that_do_not_fit_are_refused(seeds: torch.Tensor) -> None:
    decoder = SpeculativeDecoder(TARGET, TRIES["codes"], NoDrafter(), LosslessSampling())
    with pytest.raises(ValueError, match=r"seeds has the shape .* expected \[6\], a seed per request, and torch.int64"):
        decoder(PROMPTS, MASK, NUM_BEAMS, seeds=seeds)


def test_the_outputs_are_those_of_splitmix64() -> None:
    """Outputs of the reference implementation."""
    expected = {
        0: [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F],
        1234567: [6457827717110365317, 3203168211198807973, 9817491932198370423],
    }
    for seed, outputs in expected.items():
        found = _output(torch.full((3,), seed), torch.arange(3))
        assert [value % (1 << 64) for value in found.tolist()] == outputs


def test_numbers_are_uniform_and_independent_where_keys_are_neighbours() -> None:
    """Each mean of n numbers is within 5 standard errors; no product of two neighbours tells anything."""
    seeds, nodes = torch.arange(300), torch.arange(400).expand(300, -1)
    numbers = torch.stack([RequestNoise(seeds, nodes).of(use) for use in Use])  # [uses, B, W]
    assert 0 < float(numbers.min()) < 1e-4
    assert 1 - 1e-4 < float(numbers.max()) < 1
    counts = torch.histc(numbers.float(), 100, 0, 1).double()
    expected = numbers.numel() / 100
    assert 50 < float(((counts - expected) ** 2 / expected).sum()) < 160, "chi-square of 99 degrees of freedom"
    bits = (numbers.flatten() * 2**30).long()
    ones = torch.stack([(bits >> bit & 1).double().mean() for bit in range(30)])
    assert ((ones - 0.5).abs() < 5 * 0.5 / len(bits) ** 0.5).all()
    centred = (numbers - 0.5) * 12**0.5
    for axis in range(3):
        others = [other for other in range(3) if other != axis]
        assert (centred.mean(others).abs() * (centred.numel() / centred.shape[axis]) ** 0.5 < 5).all()
        products = centred.narrow(axis, 1, centred.shape[axis] - 1) * centred.narrow(axis, 0, centred.shape[axis] - 1)
        assert abs(float(products.mean())) * products.numel() ** 0.5 < 5
    assert len(numbers.unique()) == numbers.numel()


def test_each_request_of_a_data_set_has_a_seed_of_its_own() -> None:
    rows = torch.arange(10_000)
    assert len(torch.cat([request_seeds(seed, rows) for seed in range(3)]).unique()) == 30_000
