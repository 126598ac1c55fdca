"""A draft's calibration against counts in plain Python."""

import json

import pytest
import torch

from atspeed.decoding import ItemTrie, PrefixScorer
from atspeed.decoding.beams import beams_by_depth
from atspeed.decoding.drafters.calibration import (
    SPARE,
    Calibration,
    LevelCalibration,
    beam_widths,
    calibrate,
    narrower_beams,
)
from tests.decoding.priced import level_calibration, similar_model
from tests.decoding.tiny import random_prompts, random_sids, tiny_model

VOCAB_SIZE = 12
GENERATOR = torch.Generator().manual_seed(3)
TRIE = ItemTrie(random_sids(GENERATOR, 300, [7, 8, 9]))
PROMPTS, MASK = random_prompts(GENERATOR, [3, 9, 5, 7, 4, 8, 6, 9, 2, 5], VOCAB_SIZE)
TARGET = tiny_model("llama", VOCAB_SIZE)
DRAFT = similar_model(TARGET)
NUM_BEAMS = 5


def scorer(model: torch.nn.Module, normalize: str = "vocabulary") -> PrefixScorer:
    return PrefixScorer(model, TRIE, PROMPTS, MASK, normalize)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    with torch.inference_mode():
        return calibrate(DRAFT, TRIE, [(PROMPTS, MASK, beams_by_depth(scorer(TARGET), NUM_BEAMS))])


def draft_ranking(row: int, start: dict[int, float], levels: int) -> list[int]:
    """All descendants of some beams so many levels down, by the beams' scores continued by the draft."""
    draft = scorer(DRAFT, "allowed")
    scored = start
    for _ in range(levels):
        draft.score(torch.cat([TRIE.path(torch.tensor([list(scored)])).flatten(1)] * len(PROMPTS)))
        nodes, log_probs = (part[row] for part in draft.children(torch.tensor([list(scored)] * len(PROMPTS))))
        scored = {
            int(node): score + float(value)
            for score, children, values in zip(scored.values(), nodes, log_probs, strict=True)
            for node, value in zip(children, values, strict=True)
            if node
        }
    return sorted(scored, key=lambda node: -scored[node])


@pytest.mark.parametrize(("depth", "level"), [(0, 0), (0, 1), (1, 1)])
def test_coverage_counts_requests_whose_beams_are_among_the_drafts_best(
    calibration: Calibration, depth: int, level: int
) -> None:
    with torch.inference_mode():
        beams = beams_by_depth(scorer(TARGET), NUM_BEAMS)
        covered = torch.zeros(len(SPARE))
        num_found = torch.zeros(len(SPARE))
        for row in range(len(PROMPTS)):
            start = dict(zip(beams[depth].nodes[row].tolist(), beams[depth].scores[row].tolist(), strict=True))
            ranking = draft_ranking(row, start, level - depth + 1)
            for index, spare in enumerate(SPARE):
                found = set(ranking[: NUM_BEAMS + spare]) & set(beams[level + 1].nodes[row].tolist())
                covered[index] += len(found) == NUM_BEAMS
                num_found[index] += len(found)
    entry = calibration.find(NUM_BEAMS, depth, level)
    assert entry is not None
    assert entry.requests == len(PROMPTS)
    assert entry.coverage == pytest.approx((covered / len(PROMPTS)).tolist())
    assert entry.num_found == pytest.approx((num_found / len(PROMPTS)).tolist())
    assert entry.coverage[0] < entry.coverage[-1] == 1


def test_every_smaller_width_and_start_is_calibrated(calibration: Calibration) -> None:
    assert beam_widths(NUM_BEAMS) == [1, 2, 5]
    found = {(entry.num_beams, entry.depth, entry.level) for entry in calibration.levels}
    assert found == {(width, depth, level) for width in (1, 2, 5) for depth, level in [(0, 0), (0, 1), (1, 1)]}
    assert all(entry.slope > 0 for entry in calibration.levels), "what the draft likes better is a beam more often"


def test_beams_of_a_narrower_search_come_from_a_wider_one() -> None:
    with torch.inference_mode():
        wide, narrow = (beams_by_depth(scorer(TARGET), width) for width in (NUM_BEAMS, 2))
    found = narrower_beams(wide, TRIE, 2)
    known = [beams.mask.any(1) for beams in found]
    assert known[1].all()
    assert known[2].sum() >= len(PROMPTS) / 2
    for ours, theirs, rows in zip(found, narrow, known, strict=True):
        assert ours.nodes[rows].equal(theirs.nodes[rows])
        torch.testing.assert_close(ours.scores[rows], theirs.scores[rows])  # calls of other sizes round differently


def test_a_request_whose_narrower_beams_are_lost_does_not_count() -> None:
    with torch.inference_mode():
        beams = beams_by_depth(scorer(TARGET), 2)
    first = TRIE.parent[beams[2].nodes] == beams[1].nodes[:, :1]
    lost = ~first.any(1)  # no child of the best first code is among the two best prefixes
    assert narrower_beams(beams, TRIE, 1)[2].mask.any(1).equal(~lost)
    assert lost.any()
    assert not lost.all()


def test_json_keeps_a_calibration(calibration: Calibration) -> None:
    assert Calibration.from_json(json.loads(json.dumps(calibration.to_json()))) == calibration


def test_the_nearest_width_serves_others() -> None:
    entries: list[LevelCalibration] = [level_calibration(width, 0, 0) for width in (1, 5, 20)]
    calibration = Calibration(tuple(entries))
    assert [calibration.find(width, 0, 0) for width in (2, 3, 9, 11, 100)] == [entries[i] for i in (0, 1, 1, 2, 2)]
    assert calibration.find(5, 1, 1) is None
