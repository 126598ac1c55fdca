"""Which answers differ by what rounding may swap: said where equality cannot be, in bfloat16 or on a GPU."""

from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import PreTrainedModel

from atspeed.benchmark.agreement import SID, Answer
from atspeed.benchmark.measurement import ItemsOf
from atspeed.data import RequestBatch
from atspeed.decoding import Beams, ItemTrie, PrefixScorer, next_beams
from atspeed.decoding.beams import select_top
from atspeed.decoding.indexing import index_of
from atspeed.decoding.trie import ROOT

TOLERANCES = {torch.float32: 1e-3, torch.float16: 0.02, torch.bfloat16: 0.15}
"""Dtype of a target → by how much rounding may change the score of a prefix at most; see docs/benchmark.md."""


def tie_tolerance(target: PreTrainedModel) -> float | None:
    """Return the largest tolerance of near-ties; None where strict answers must be those of ``transformers.generate``.

    Those of a target on a CPU must be, in float32 and float64.
    """
    if target.device.type == "cpu" and target.dtype in (torch.float32, torch.float64):
        return None
    return TOLERANCES.get(target.dtype, TOLERANCES[torch.float32])


def observed_noise(answers: list[Answer], reference: list[Answer]) -> float:
    """Return the largest difference of the scores that two calls of a model gave to a semantic ID of the same request.

    Args:
        answers: to all requests.
        reference: others to the same requests; with calls of other shapes, so that they round otherwise.

    >>> observed_noise([Answer([(5,), (6,)], [-1.0, -2.0])], [Answer([(6,), (8,)], [-2.25, -3.0])])
    0.25
    """
    noise = 0.0
    for ours, theirs in zip(answers, reference, strict=True):
        scores = dict(zip(*theirs, strict=True))
        noise = max([noise, *(abs(score - scores[sid]) for sid, score in zip(*ours, strict=True) if sid in scores)])
    return noise


def is_near_tie(answer: Answer, reference: Answer, gaps: Mapping[SID, float], tolerance: float) -> bool:
    """Return whether rounding explains how two answers differ.

    It does if each semantic ID in both has scores within ``tolerance`` of each other, so that the order changes only
    among nearly equal ones, and each semantic ID in one of them only was within ``tolerance`` of the border of the
    beam at some level.

    Args:
        answer: an answer.
        reference: another one to the same request.
        gaps: how far from the border each semantic ID was that only one of them has; see :func:`border_gaps`.
        tolerance: by how much rounding may change a score.

    >>> reference = Answer([(5,), (6,)], [-1.0, -2.0])
    >>> is_near_tie(Answer([(6,), (5,)], [-1.05, -1.1]), reference, {}, 0.15)  # 6 scores -1.05 and -2
    False
    >>> is_near_tie(Answer([(5,), (8,)], [-1.1, -2.1]), reference, {(6,): 0.02, (8,): 0.02}, 0.15)
    True
    """
    theirs = dict(zip(reference.sids, reference.scores, strict=True))
    in_both = [abs(score - theirs[sid]) for sid, score in zip(*answer, strict=True) if sid in theirs]
    in_one = {*answer.sids} ^ {*reference.sids}
    return all(difference <= tolerance for difference in [*in_both, *(gaps[sid] for sid in in_one)])


def count_near_ties(
    answers_by: Mapping[str, list[Answer]],
    reference: list[Answer],
    batches: list[RequestBatch],
    target: PreTrainedModel,
    trie: ItemTrie,
    items_of: ItemsOf,
    num_beams: int,
    tolerance: float,
) -> dict[str, int]:
    """Return how many answers of each method differ from the reference's by near-ties only.

    Args:
        answers_by: method → its answers to all requests.
        reference: those of ``transformers.generate``.
        batches: the requests, in the same order.
        target: the model; plain beam search is run once more for a batch with answers that differ by more than order.
        trie: the catalog.
        items_of: its items by the codes of their semantic ID.
        num_beams: beam width K.
        tolerance: see :func:`is_near_tie`.
    """
    counts, start = dict.fromkeys(answers_by, 0), 0
    for batch in batches:
        rows = range(start, start + len(batch.users))
        start = rows.stop
        exchanged = [
            sorted({sid for answers in answers_by.values() for sid in {*answers[row].sids} ^ {*reference[row].sids}})
            for row in rows
        ]
        gaps = _gaps_by_sid(exchanged, batch, target, trie, items_of, num_beams)
        for name, answers in answers_by.items():
            counts[name] += sum(
                answers[row].sids != reference[row].sids and is_near_tie(answers[row], reference[row], known, tolerance)
                for row, known in zip(rows, gaps, strict=True)
            )
    return counts


def _gaps_by_sid(
    sids: list[list[SID]],
    batch: RequestBatch,
    target: PreTrainedModel,
    trie: ItemTrie,
    items_of: ItemsOf,
    num_beams: int,
) -> list[dict[SID, float]]:
    """Return the gap of each of a request's semantic IDs; infinite for what the catalog does not have."""
    if not any(sids):
        return [{} for _ in sids]
    legal = [[sid for sid in row if sid in items_of] for row in sids]
    leaves = [trie.leaves(torch.tensor([items_of[sid][0] for sid in row], dtype=torch.long)) for row in legal]
    padded = torch.nn.utils.rnn.pad_sequence(leaves, batch_first=True, padding_value=ROOT)
    gaps = border_gaps(PrefixScorer(target, trie, batch.prompts, batch.prompt_mask), num_beams, padded).tolist()
    known = [dict(zip(row, values, strict=False)) for row, values in zip(legal, gaps, strict=True)]
    return [
        {sid: known_in_row.get(sid, float("inf")) for sid in row} for row, known_in_row in zip(sids, known, strict=True)
    ]


@torch.inference_mode()
def border_gaps(scorer: PrefixScorer, num_beams: int, leaves: Tensor) -> Tensor:
    """Return how near plain beam search came to deciding otherwise on semantic IDs, float32 ``[B, W]``.

    At each level the beam has a border, between the K-th and the next candidate. The gap of a semantic ID is the
    smallest distance of its prefixes' scores to the other side of it, down to the level at which it was dropped. K = 2,
    and two levels::

        level 0   -1.0  -2.0 | -2.1  -4.0        a: kept by 2.1 - 1.0 = 1.1    c: dropped by 2.1 - 2.0 = 0.1
                   a     b      c     d          b: kept by 0.1                d: dropped by 2.0
        level 1   -1.5  -2.5 | -2.6              a1: min(1.1, 1.1) = 1.1       a2: min(1.1, 0.1) = 0.1
                   a1    a2     b1               b1: min(0.1, 0.1) = 0.1       c1, c2, …: 0.1, as c

    Args:
        scorer: of the target, with nothing scored yet.
        num_beams: beam width K.
        leaves: trie leaves, ``[B, W]``, int64, all at the same depth; padded with the root, whose gap means nothing.
    """
    trie = scorer.trie
    ancestors = [leaves]  # at each level, from the last to the first one
    for _ in range(trie.max_depth - 1):
        ancestors.append(trie.parent[ancestors[-1]])
    beams = Beams.at_root(len(leaves), num_beams, leaves.device)
    gaps = torch.full(leaves.shape, torch.inf, device=leaves.device)
    for prefixes in reversed(ancestors):
        scorer.score(beams.nodes)
        children, log_probs = scorer.children(beams.nodes)
        candidates = children.flatten(1), (beams.scores[..., None] + log_probs).flatten(1)
        nodes, scores = select_top(*candidates, max(num_beams + 1, children[0].numel()))
        rank, found = index_of(prefixes, nodes)  # none is found below a prefix that was dropped
        beyond = torch.where(rank < num_beams, scores[:, num_beams, None], scores[:, num_beams - 1, None])
        gap = (scores.gather(1, rank) - beyond).abs()
        gaps = torch.where(found, gaps.minimum(gap), gaps)
        beams = next_beams(scorer, beams)
    return gaps
