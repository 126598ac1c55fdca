"""Answers of every drafter and verifier as they were when ``tests/golden/answers.json`` was written.

Weights come from numpy, whose generators give the same numbers on every machine. To write the file anew after a
deliberate change: ``python -m tests.decoding.test_golden``.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from atspeed.catalog import CompactVocabulary
from atspeed.data import EmbeddedCatalog, RecommendationData
from atspeed.decoding import (
    HybridDrafter,
    LosslessSampling,
    ModelDrafter,
    NoDrafter,
    RelaxedSampling,
    SpeculativeDecoder,
    StrictTopK,
    TrieDrafter,
    request_seeds,
)
from atspeed.models import NewModel
from atspeed.recommender import response_trie
from tests.modules.tiny import TINY

FILE = Path(__file__).parents[1] / "golden" / "answers.json"
DRAFTERS = {
    "none": NoDrafter(),
    "trie": TrieDrafter(64),
    "hybrid": HybridDrafter(160),
    "draft": ModelDrafter(draft_beams=10, gamma=3),
}
VERIFIERS = {"strict": StrictTopK(), "lossless": LosslessSampling(0.7), "relaxed": RelaxedSampling(0.7)}
NUM_BEAMS = 5


def seeded_model(data: RecommendationData, seed: int) -> PreTrainedModel:
    model = NewModel("llama", TINY).build(CompactVocabulary(data.catalog.words), Path())
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.copy_(torch.from_numpy(rng.standard_normal(weight.shape) * 0.3))
    return model


def answers() -> Iterator[tuple[str, list[Any]]]:
    """Yield a name, and codes and scores per request, for every drafter and verifier."""
    source = EmbeddedCatalog(num_users=60, num_items=300, num_tastes=16, seed=0)
    data = RecommendationData(source, num_test_users=4, batch_size=4)
    data.setup()
    trie = response_trie(data.catalog, data.encoder)
    target, draft = (seeded_model(data, seed) for seed in (1, 2))
    (batch,) = data.test_dataloader()
    for drafter_name, drafter in DRAFTERS.items():
        for verifier_name, verifier in VERIFIERS.items():
            decoder = SpeculativeDecoder(target, trie, drafter, verifier, draft)
            seeds = request_seeds(7, batch.rows)
            decoded = decoder(batch.prompts, batch.prompt_mask, NUM_BEAMS, seeds=seeds)
            rows = zip(trie.tokens(decoded.leaves).tolist(), decoded.scores.tolist(), strict=True)
            yield f"{drafter_name}, {verifier_name}", [{"sids": sids, "scores": scores} for sids, scores in rows]


@pytest.mark.parametrize("verifier", VERIFIERS)
def test_answers_are_those_of_the_golden_file(verifier: str) -> None:
    expected = json.loads(FILE.read_text())
    found = {name: rows for name, rows in answers() if name.endswith(f", {verifier}")}
    assert len(found) == len(DRAFTERS)
    for name, rows in found.items():
        assert [row["sids"] for row in rows] == [row["sids"] for row in expected[name]], name
        for ours, theirs in zip(rows, expected[name], strict=True):
            assert ours["scores"] == pytest.approx(theirs["scores"], abs=1e-5, rel=0), name


if __name__ == "__main__":
    FILE.write_text("{\n" + ",\n".join(f"{json.dumps(n)}: {json.dumps(rows)}" for n, rows in answers()) + "\n}\n")
