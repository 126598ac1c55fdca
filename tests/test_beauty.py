"""Exactness and call counts on the real catalog, with an untrained model."""

from pathlib import Path

import pytest
import torch

from atspeed.benchmark import HFGenerate
from atspeed.data import AtSpeedLayout, RecommendationData
from atspeed.decoding import ItemTrie, ModelDrafter, NoDrafter, SpeculativeDecoder, TrieDrafter
from atspeed.models import NewModel
from tests.modules.tiny import TINY


@pytest.mark.slow
@pytest.mark.parametrize("num_beams", [1, 5, 10, 20])
def test_strict_answers_on_beauty(beauty: Path, num_beams: int) -> None:
    data = RecommendationData(AtSpeedLayout(beauty), batch_size=4, num_test_users=8)
    data.setup()
    vocabulary = data.catalog.vocabulary
    target, draft = (NewModel("llama", TINY, seed).build(vocabulary, beauty) for seed in (0, 1))
    for model in (target, draft):
        torch.nn.init.normal_(model.lm_head.weight, std=0.5)
    trie = ItemTrie(data.catalog.tokens)
    reference = HFGenerate(target, data.catalog.tokens)
    for batch in data.test_dataloader():
        expected_tokens, expected_scores = reference(batch.prompts, batch.prompt_mask, num_beams)
        for drafter, calls in ((NoDrafter(), 4), (TrieDrafter(), 2), (ModelDrafter(), None)):
            decoder = SpeculativeDecoder(target, trie, drafter, draft=draft)
            decoded = decoder(batch.prompts, batch.prompt_mask, num_beams)
            assert trie.codes(decoded.leaves).equal(expected_tokens)
            torch.testing.assert_close(decoded.scores, expected_scores, atol=1e-4, rtol=0)
            if calls:
                assert decoded.target_calls.tolist() == [calls] * len(batch.users)
