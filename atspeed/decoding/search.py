"""The speculative loop: draft, one target call, verify."""

import logging
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from atspeed.checks import require_at_least
from atspeed.decoding.beams import Beams
from atspeed.decoding.cost.cost_model import CallShape
from atspeed.decoding.drafters.drafter import Drafter
from atspeed.decoding.scorer import PrefixScorer
from atspeed.decoding.trie import ROOT, ItemTrie
from atspeed.decoding.verifiers.verifier import Verifier

log = logging.getLogger(__name__)

MOST_LAST_CODES = 100
"""Codes of a request that are scored in advance for what closes them. So many cost a target of 3.2 billion parameters
about as much as the call that they save (docs/results, Intel Xeon)."""


@dataclass
class Decoded:
    """The answers to a batch of requests.

    Attributes:
        leaves: trie leaves of the top-K semantic IDs, best first, ``[B, K]``; root where the catalog has fewer.
        scores: their log-probabilities, ``[B, K]``, float32; minus infinity at padding.
        target_calls: target forward passes per request, ``[B]``.
        draft_calls: draft forward passes per request, ``[B]``.
        accepted: how many times each level came without a target call of its own, ``[B, L - 1]``, int64: column
            ``l`` is level ``l``, 0 for the first code. The last level needs no draft and has no column.
        drafted: how many times each level was proposed, or followed from what earlier rounds had proposed,
            ``[B, L - 1]``.
        loss_bound: answers that score above it are the first ones of strict verification's answer, in the same order;
            minus infinity under strict verification, infinity where answers are sampled, ``[B]``, float32.
        target_shapes: the size of each target forward pass of the batch.
        draft_shapes: the size of each draft forward pass of the batch.
    """

    leaves: Tensor
    scores: Tensor
    target_calls: Tensor
    draft_calls: Tensor
    accepted: Tensor
    drafted: Tensor
    loss_bound: Tensor
    target_shapes: list[CallShape] = field(default_factory=list)
    draft_shapes: list[CallShape] = field(default_factory=list)

    @property
    def num_exact(self) -> Tensor:
        """Answers that are certainly the first ones of strict verification's answer, ``[B]``, int64; K: all of it."""
        return (self.scores > self.loss_bound[:, None]).sum(1)

    @property
    def accepted_levels(self) -> Tensor:
        """Levels that came without a target call of their own, ``[B]``."""
        return self.accepted.sum(1)

    @property
    def drafted_levels(self) -> Tensor:
        """Levels that were proposed, ``[B]``."""
        return self.drafted.sum(1)

    def updated(self, rows: Tensor, other: "Decoded") -> "Decoded":
        """Return these answers, with others to the requests at ``rows`` (int64)."""
        parts: dict[str, Any] = {name: part for name, part in vars(self).items() if isinstance(part, Tensor)}
        return replace(self, **{name: part.index_put((rows,), getattr(other, name)) for name, part in parts.items()})


def search(
    target: PrefixScorer,
    draft: PrefixScorer | None,
    drafter: Drafter,
    verifier: Verifier,
    num_beams: int,
    seeds: Tensor | None = None,
    drop_finished: bool = True,
) -> Decoded:
    r"""Find the top-K semantic IDs: rounds of drafting, one target call and verification.

    A round for one request of K = 2, whose beams are the nodes 1 and 2, over semantic IDs of four codes::

        beams       1     2            drafter.propose: two levels below the beams
                   / \   / \
        proposal  5   6 7   8          target.score([1, 2, 5, 6, 7, 8, 15, 16, 21]): one forward pass
                 /|       \
               15 16      21           verifier.advance (strict): the best two children of 1 and 2 are 5 and 7. Both
                                       have been scored, so their level is accepted without a call of its own. The
                                       best two children of 5 and 7 are 16 and 19: 19 has not been scored, so they are
                                       the beams of the next round.

    Args:
        target: the target's scorer, with nothing scored yet.
        draft: the draft's scorer, if the drafter needs one.
        drafter: who proposes.
        verifier: what is accepted.
        num_beams: beam width ``K``.
        seeds: of a verifier that samples, one per request, ``[B]``, int64; from torch's own generator if not given.
        drop_finished: let requests leave the scorers' batch when they are done; without it the scorers end with all
            requests and all that was scored.

    Raises:
        ValueError: if ``num_beams`` is less than 1, the verifier cannot serve the catalog, or the seeds do not fit the
            batch.
        RuntimeError: if a verifier does not advance beams that the target has scored.
    """
    trie = target.trie
    require_at_least(1, num_beams=num_beams)
    verifier.check(trie)
    if num_beams > trie.num_leaves:
        _say_that_all_are_returned(num_beams, trie.num_leaves)
        num_beams = trie.num_leaves
    seeds = seeds_or_random(seeds, target.calls, verifier)
    rows = torch.arange(len(seeds), device=seeds.device)  # the requests still in the batch
    progress, result = Progress.at_root(len(seeds), num_beams, trie, seeds.device), None
    for _ in range(trie.num_calls):
        progress = run_round(progress, target, draft, drafter, verifier, seeds)
        active = progress.beams.is_open.nonzero()[:, 0]
        if active.shape == rows.shape:
            continue
        answers = progress.answers(target, draft)
        result = result.updated(rows, answers) if result else answers
        if active.shape[0] == 0:
            return result
        if drop_finished:
            rows, seeds, progress = rows[active], seeds[active], progress.keep(active)
            for scorer in (target, draft):
                if scorer is not None:
                    scorer.keep(active)
    raise RuntimeError(f"{type(verifier).__name__} left a request where it was after a target call")


class Progress(NamedTuple):
    """How far the search of a batch of requests has come.

    Attributes:
        beams: where it stands.
        accepted: see :class:`Decoded`.
        drafted: the same.
    """

    beams: Beams
    accepted: Tensor
    drafted: Tensor

    @classmethod
    def at_root(cls, batch_size: int, num_beams: int, trie: ItemTrie, device: torch.device) -> "Progress":
        """Return where every search starts."""
        counts = torch.zeros(batch_size, trie.num_levels - 1, dtype=torch.long, device=device)
        return cls(Beams.at_root(batch_size, num_beams, device), counts, counts)

    def keep(self, rows: Tensor) -> "Progress":
        """Return the progress of the requests at ``rows`` (int64)."""
        return Progress(self.beams.keep(rows), self.accepted[rows], self.drafted[rows])

    def answers(self, target: PrefixScorer, draft: PrefixScorer | None) -> Decoded:
        """Return the semantic IDs found so far: the answers to the requests that are done."""
        beams = self.beams
        return Decoded(
            leaves=beams.leaves,
            scores=beams.leaf_scores + target.prefix_scores[:, None],
            target_calls=target.calls,
            draft_calls=torch.zeros_like(target.calls) if draft is None else draft.calls,
            accepted=self.accepted,
            drafted=self.drafted,
            loss_bound=beams.loss_bound + target.prefix_scores,
            target_shapes=target.shapes,
            draft_shapes=[] if draft is None else draft.shapes,
        )


def run_round(
    progress: Progress,
    target: PrefixScorer,
    draft: PrefixScorer | None,
    drafter: Drafter,
    verifier: Verifier,
    seeds: Tensor,
) -> Progress:
    """Draft, call the target once and verify: every open request advances by one level or more."""
    trie, (beams, accepted, drafted) = target.trie, progress
    proposal = drafter.propose(beams, target, draft, verifier.selection(seeds))
    closed = _last_codes(beams, proposal.nodes, trie)
    if proposal.nodes.shape[1] or closed.shape[1]:
        most = beams.nodes.shape[1] + closed.shape[1]
        most += proposal.nodes.shape[1] if proposal.most is None else proposal.most
        target.score(torch.cat([beams.nodes, proposal.nodes, closed], dim=1), most=most)
    else:
        target.score_beams(beams.nodes)
    advanced = verifier.advance(beams, target, draft, proposal, seeds)
    if not target.only_beams:
        now_accepted, now_drafted = _count_levels(trie, beams.depth, advanced.depth, proposal.nodes)
        accepted, drafted = accepted + now_accepted, drafted + now_drafted
    return Progress(advanced, accepted, drafted)


def seeds_or_random(seeds: Tensor | None, requests: Tensor, verifier: Verifier) -> Tensor:
    """Return a seed for each of the requests ``[B]``, int64; drawn from torch's own generator if not given."""
    if seeds is not None:
        if seeds.shape != requests.shape or seeds.dtype != torch.long:
            raise ValueError(
                f"seeds has the shape {list(seeds.shape)} and dtype {seeds.dtype}; expected [{len(requests)}], a seed "
                "per request, and torch.int64"
            )
        return seeds.to(requests.device)
    if verifier.tolerance is not None:  # nothing is drawn, so torch's generator is left alone
        return torch.zeros_like(requests)
    return torch.randint(torch.iinfo(torch.long).max, requests.shape, device=requests.device)


def _last_codes(beams: Beams, proposed: Tensor, trie: ItemTrie) -> Tensor:
    """Return the last codes below beams and proposals, root-padded, where something closes them; ``[B, W]``, int64.

    Mostly a prefix that lacks one code has one or two items. So what closes their semantic IDs is scored with the level
    before, and takes no call of its own: below all beams, if that is not too much, then below proposals in their order.

    Args:
        beams: whose call is being made.
        proposed: what a drafter adds to it, ``[B, T]``, int64, root-padded.
        trie: of the target's responses.
    """
    if trie.max_depth == trie.num_levels:
        return proposed[:, :0]
    at = trie.num_levels - 1
    below_beams = trie.num_children.take(beams.nodes) * (beams.mask & (beams.depth == at)[:, None])
    below_proposed = trie.num_children.take(proposed) * ((proposed != ROOT) & (trie.depth(proposed) == at))
    count = torch.cat([below_beams, below_proposed], dim=1)
    fits = (count.cumsum(1) <= MOST_LAST_CODES) & (below_beams.sum(1, keepdim=True) <= MOST_LAST_CODES)
    nodes = torch.cat([beams.nodes, proposed], dim=1)
    return trie.children(nodes, fits & (count > 0), limit=MOST_LAST_CODES).values


def _count_levels(trie: ItemTrie, before: Tensor, after: Tensor, proposed: Tensor) -> tuple[Tensor, Tensor]:
    """Return which levels a round accepted, and which had been drafted, ``[B, L - 1]``, bool each.

    The call itself is good for one level; those that came beyond it were accepted.

    Args:
        trie: the catalog.
        before: depth of the beams before the round, ``[B]``.
        after: depth of the beams after it, ``[B]``.
        proposed: the proposed nodes, ``[B, T]``.
    """
    lengths = torch.arange(1, trie.num_levels, device=before.device)  # codes of the prefixes of each level, [L - 1]
    below = lengths > before[:, None]
    accepted = drafted = below & (lengths < after[:, None])
    if proposed.shape[1]:
        drafted = accepted | below & (lengths <= trie.depth(proposed).amax(1, keepdim=True))
    return accepted, drafted


@lru_cache
def _say_that_all_are_returned(num_beams: int, num_leaves: int) -> None:  # once, not for every batch
    log.info("num_beams is %d, the catalog has %d semantic IDs: all are returned", num_beams, num_leaves)
