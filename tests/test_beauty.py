"""Exactness and call counts on the real catalog, with an untrained model."""

from pathlib import Path

import pytest
import torch

from atspeed.benchmark.reference import reference_for
from atspeed.data import AtSpeedLayout, RecommendationData
from atspeed.decoding import ModelDrafter, NoDrafter, SpeculativeDecoder, TrieDrafter
from atspeed.models import NewModel
from atspeed.recommender import response_trie
from tests.modules.tiny import TINY


@pytest.mark.slow
@pytest.mark.parametrize("num_beams", [1, 5, 10, 20])
def test_strict_answers_on_beauty(beauty: Path, num_beams: int) -> None:
    data = RecommendationData(AtSpeedLayout(beauty), batch_size=4, num_test_users=8)
    data.setup()
    target, draft = (NewModel("llama", TINY, seed).build(data.encoder.vocabulary, beauty) for seed in (0, 1))
    for model in (target, draft):
        torch.nn.init.normal_(model.lm_head.weight, std=0.5)
    trie = response_trie(data.catalog, data.encoder)
    reference = reference_for(target, data.encoder)
    for batch in data.test_dataloader():
        expected_tokens, expected_scores = reference(batch.prompts, batch.prompt_mask, num_beams)
        for drafter, calls in ((NoDrafter(), 4), (TrieDrafter(), 2), (ModelDrafter(), None)):
            decoder = SpeculativeDecoder(target, trie, drafter, draft=draft)
            decoded = decoder(batch.prompts, batch.prompt_mask, num_beams)
            assert trie.tokens(decoded.leaves).equal(expected_tokens)
            torch.testing.assert_close(decoded.scores, expected_scores, atol=1e-4, rtol=0)
            if calls:
                assert decoded.target_calls.tolist() == [calls] * len(batch.users)
