"""On a GPU answers are close, not identical."""

import pytest
import torch

from atspeed.decoding import (
    HybridDrafter,
    ItemFilter,
    ItemTrie,
    LosslessSampling,
    ModelDrafter,
    NoDrafter,
    RelaxedSampling,
    SamplingVerifier,
    SpeculativeDecoder,
    TrieDrafter,
)
from tests.decoding.tiny import FAMILIES, random_prompts, random_sids, tiny_model

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.mark.parametrize("drafter", [TrieDrafter("auto"), HybridDrafter(40), ModelDrafter(6, 2)])
@pytest.mark.parametrize("verifier", [None, LosslessSampling(), RelaxedSampling()])
def test_drafters_verifiers_and_filters_run_on_a_gpu(drafter: object, verifier: SamplingVerifier | None) -> None:
    generator = torch.Generator().manual_seed(0)
    trie = ItemTrie(random_sids(generator, 60, [4, 5, 6]))
    prompts, mask = random_prompts(generator, [9, 4], 12)
    target, draft = (tiny_model("llama", 12, seed=seed).cuda() for seed in range(2))
    wanted = torch.rand(2, 60, generator=generator) < 0.7
    decoder = SpeculativeDecoder(target, trie, drafter, verifier, draft)  # type: ignore[arg-type]
    decoded = decoder(prompts.cuda(), mask.cuda(), 5, ItemFilter(wanted.cuda()), torch.arange(2).cuda())
    for model in (target, draft):
        model.cpu()
    for row in range(2):
        allowed = trie.leaves(wanted[row].nonzero()[:, 0].cuda()).tolist()
        assert len(set(decoded.leaves[row].tolist())) == 5
        assert set(decoded.leaves[row].tolist()) <= set(allowed)


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_on_a_gpu_are_those_of_the_cpu(family: str) -> None:
    generator = torch.Generator().manual_seed(0)
    trie = ItemTrie(random_sids(generator, 60, [4, 5, 6]))
    prompts, mask = random_prompts(generator, [9, 4], 12)
    model = tiny_model(family, 12)
    expected = SpeculativeDecoder(model, trie, NoDrafter())(prompts, mask, 5)
    decoder = SpeculativeDecoder(model.cuda(), trie, TrieDrafter())
    decoded = decoder(prompts.cuda(), mask.cuda(), 5)
    model.cpu()
    torch.testing.assert_close(decoded.scores.cpu(), expected.scores, atol=1e-2, rtol=1e-2)
