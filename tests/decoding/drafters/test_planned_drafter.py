"""Widths that are set beforehand, by the price of a call."""

import numpy as np
import torch

from atspeed.decoding import ItemTrie, PrefixScorer, next_beams
from atspeed.decoding.beams import Beams, select_top
from atspeed.decoding.drafters.plan import make_plan
from atspeed.decoding.drafters.planned_drafter import PlannedDrafter, planned_widths
from tests.decoding.priced import calibration_of, cost_with
from tests.decoding.tiny import random_prompts, random_sids, tiny_model

SIDS = random_sids(torch.Generator().manual_seed(0), 300, [6, 5, 4, 7])
TRIE = ItemTrie(SIDS)
PROMPTS, MASK = random_prompts(torch.Generator().manual_seed(0), [7, 3], 12)


def widths(call_price: float, num_nodes: list[int], num_beams: int = 5, calibrated: bool = True) -> np.ndarray:
    calibration = calibration_of(num_beams, 4) if calibrated else None
    plan = make_plan(cost_with(call_price), cost_with(1, 0.01), calibration, num_beams, 4, 1, 32)
    return planned_widths(plan, num_nodes)


def test_nothing_is_planned_where_calls_are_cheap_and_more_the_dearer_they_are() -> None:
    many = [1000, 10_000, 100_000, 100_000]
    assert not widths(1, many).any()
    sums = [widths(price, many).sum() for price in (1, 30, 300, 3000)]
    assert sums == sorted(sums)
    assert sums[-1] > sums[1]
    planned = widths(3000, many)
    assert planned[3].sum() == planned[:, 3].sum() == 0
    assert planned[2, 1] == 0, "two levels below the second one are last codes"


def test_the_first_level_is_complete_where_it_is_small_and_no_width_exceeds_its_level() -> None:
    assert widths(300, [7, 1000, 10_000, 10_000])[0, 0] == 7
    assert widths(300, [7, 1000, 10_000, 10_000], calibrated=False)[0].tolist() == [7, 0, 0, 0]
    small = widths(3000, [6, 9, 11, 12])
    for depth in range(3):
        assert all(small[depth, level] <= [6, 9, 11, 12][depth + level] for level in range(3 - depth))


def test_each_request_gets_the_widths_of_its_own_depth() -> None:
    target, draft = (PrefixScorer(tiny_model("llama", 12, seed=seed), TRIE, PROMPTS, MASK) for seed in range(2))
    beams = Beams.at_root(2, 5, PROMPTS.device)
    target.score(beams.nodes)
    deeper = next_beams(target, beams)
    mixed = deeper.where(
        torch.tensor([True, False]),
        beams._replace(
            nodes=torch.nn.functional.pad(beams.nodes, (0, deeper.nodes.shape[1] - 1)),
            scores=torch.nn.functional.pad(beams.scores, (0, deeper.nodes.shape[1] - 1), value=-torch.inf),
        ),
        TRIE.sizing,
    )
    planned = np.array([[4, 3, 0, 0], [2, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]])
    proposal = PlannedDrafter(planned, PROMPTS.device).propose(mixed, target, draft, select_top)
    depths = [TRIE.depth(row[row > 0]).tolist() for row in proposal.nodes]
    assert depths == [[2, 2], [1] * 4 + [2] * 3]
