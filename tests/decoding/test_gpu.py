"""On a GPU answers are close, not identical."""

import pytest
import torch

from atspeed.decoding import (
    BoundedTopK,
    Captured,
    Drafter,
    HybridDrafter,
    ItemFilter,
    ItemTrie,
    LosslessSampling,
    ModelDrafter,
    NoDrafter,
    RelaxedSampling,
    SamplingVerifier,
    SpeculativeDecoder,
    StrictTopK,
    TrieDrafter,
    Verifier,
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


@pytest.mark.parametrize("drafter", [NoDrafter(), TrieDrafter(20), HybridDrafter(40), ModelDrafter(6, 2)])
@pytest.mark.parametrize("verifier", [StrictTopK(), BoundedTopK(0.1), LosslessSampling(), RelaxedSampling()])
def test_rounds_replay_as_graphs_that_ask_nothing(drafter: Drafter, verifier: Verifier) -> None:
    generator = torch.Generator().manual_seed(0)
    trie = ItemTrie(random_sids(generator, 60, [4, 5, 6]))
    target, draft = (tiny_model("llama", 12, seed=seed).cuda() for seed in range(2))
    captured = Captured((5,), batch_sizes=(2,), prompt_lengths=(16,))
    eager, graphs = (
        SpeculativeDecoder(target, trie, drafter, verifier, draft, execution=execution)
        for execution in (None, captured)
    )
    for lengths in ([9, 4], [16, 1], [3]):
        prompts, mask = random_prompts(generator, lengths, 12)
        seeds = torch.arange(len(lengths)).cuda()
        wanted = (torch.rand(len(lengths), 60, generator=generator) < 0.7).cuda()
        for item_filter in (None, ItemFilter(wanted)):
            ours, expected = (
                decoder(prompts.cuda(), mask.cuda(), 5, item_filter, seeds) for decoder in (graphs, eager)
            )
            torch.testing.assert_close(ours.scores, expected.scores, atol=1e-2, rtol=1e-2)
    assert [capture.is_graph for capture in captured.captures] == [True]
    (search,) = captured._searches.values()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for number in range(3):
            search._replay(number, None)
    finally:
        torch.cuda.set_sync_debug_mode("default")
        for model in (target, draft):
            model.cpu()


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
