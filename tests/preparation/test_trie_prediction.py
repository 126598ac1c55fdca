"""The prediction against what ``TrieDrafter`` does with a model."""

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from atspeed.cli.shipped_configs import CONFIGS
from atspeed.data import EmbeddedCatalog
from atspeed.decoding import ItemTrie, SpeculativeDecoder, TrieDrafter
from atspeed.preparation.spread import Spread
from atspeed.preparation.trie_prediction import MAX_NODES, NUM_REQUESTS, TrieRow, conclude, predict_trie
from tests.decoding.tiny import random_prompts, random_sids, tiny_model

EMBEDDED = EmbeddedCatalog().load()
NOTHING = np.zeros(0, np.int64)


def random_trie(num_items: int, num_codes: list[int], seed: int = 0) -> ItemTrie:
    return ItemTrie(random_sids(torch.Generator().manual_seed(seed), num_items, num_codes))


def measure(trie: ItemTrie, num_beams: int, seed: int) -> tuple[list[int], list[int]]:
    """Return target calls and new tokens of some requests, one at a time, as the benchmark counts them."""
    vocab_size = int(trie.token.max()) + 1
    prompts, mask = random_prompts(torch.Generator().manual_seed(seed), [5] * 8, vocab_size)
    decoder = SpeculativeDecoder(tiny_model("llama", vocab_size, seed), trie, TrieDrafter(MAX_NODES))
    answers = [decoder(prompts[[row]], mask[[row]], num_beams) for row in range(len(prompts))]
    calls = [int(answer.target_calls) for answer in answers]
    return calls, [sum(shape.tokens for shape in answer.target_shapes) - 5 for answer in answers]


@pytest.mark.parametrize(
    ("trie", "interactions"),
    [
        (ItemTrie(EMBEDDED.catalog.codes), EMBEDDED.train.values),
        (random_trie(3000, [80, 80]), NOTHING),  # both levels fit: one call
        (random_trie(6000, [300, 60, 20]), NOTHING),  # at K = 20 the number of calls depends on the beams
        (random_trie(20_000, [500, 500, 500]), NOTHING),
    ],
)
def test_a_model_stays_within_the_prediction(trie: ItemTrie, interactions: np.ndarray) -> None:
    for row in predict_trie(trie, interactions, num_beams=(1, 20)):
        calls, tokens = measure(trie, row.num_beams, seed=1)
        for predicted, measured in ((row.target_calls, calls), (row.new_tokens, tokens)):
            assert predicted.least <= np.mean(measured) <= predicted.most
            assert predicted.least <= predicted.mean <= predicted.most
            if predicted.least == predicted.most:
                assert {*measured} == {predicted.least}, "the catalog alone decides"


def test_the_prediction_is_for_the_drafter_of_the_benchmark() -> None:
    methods = OmegaConf.load(CONFIGS / "benchmark.yaml").methods
    assert methods.trie.drafter == {"class_path": "TrieDrafter", "init_args": {"max_nodes": MAX_NODES}}


@pytest.mark.parametrize(
    ("num_items", "num_codes", "calls", "tokens"),
    [
        (3000, [40, 40, 40], 2, 60),  # 40 first codes, then 20 beams
        (20_000, [500, 500, 500], 3, 40),  # nothing fits: plain beam search, 20 beams of one code and 20 of two
    ],
)
def test_where_the_levels_decide_the_prediction_is_exact(
    num_items: int, num_codes: list[int], calls: int, tokens: int
) -> None:
    (row,) = predict_trie(random_trie(num_items, num_codes), NOTHING, num_beams=(20,))
    assert row == TrieRow(20, Spread(calls, calls, calls), Spread(tokens, tokens, tokens))


def test_where_the_beams_decide_the_prediction_is_a_range() -> None:
    (row,) = predict_trie(random_trie(20_000, [500, 500, 500]), NOTHING, num_beams=(10,))
    assert (row.target_calls.least, row.target_calls.most) == (2, 3)
    assert 2 < row.target_calls.mean < 3
    assert (row.new_tokens.mean * NUM_REQUESTS).is_integer(), "requests that ended early count as well"


def test_beams_below_popular_prefixes_have_more_to_score() -> None:
    trie = random_trie(20_000, [500, 500, 500])
    crowded = int(trie.num_items[1:501].argmax()) + 1
    items = trie.items[trie.first_item[crowded] : trie.first_item[crowded] + trie.num_items[crowded]]
    (even,) = predict_trie(trie, NOTHING, num_beams=(1,))
    (skewed,) = predict_trie(trie, items.numpy().repeat(10_000), num_beams=(1,))
    assert skewed.new_tokens.mean > even.new_tokens.mean
    assert predict_trie(trie, NOTHING, num_beams=(1,)) == [even], "the same each time"


def test_more_beams_than_the_catalog_has() -> None:
    (row,) = predict_trie(random_trie(4, [2, 2]), NOTHING, num_beams=(20,))
    assert row.target_calls == Spread(1, 1.0, 1)


def test_the_conclusion_follows_the_calls() -> None:
    two, three = (TrieRow(k, Spread(2, mean, 3), Spread(9, 99.6, 200)) for k, mean in ((1, 2.04), (20, 2.6)))
    assert conclude([two], 4) == (
        "No learned draft is needed: TrieDrafter answers in about 2.0 target calls and scores about 100 new tokens per "
        "request at K = 1 (plain beam search: 4 calls)."
    )
    assert "A learned draft is needed: TrieDrafter takes more than 2 target calls, 2.6 at K = 20" in conclude(
        [two, three], 4
    )
