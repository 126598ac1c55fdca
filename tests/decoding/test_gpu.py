"""On a GPU answers are close, not identical."""

import pytest
import torch

from atspeed.decoding import ItemTrie, NoDrafter, SpeculativeDecoder, TrieDrafter
from tests.decoding.tiny import FAMILIES, random_prompts, random_sids, tiny_model


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
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
