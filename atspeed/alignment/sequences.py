"""The sequences that an alignment compares the models on, packed as a trie."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from atspeed.decoding import ROOT, ItemTrie


@dataclass
class SequenceShares:
    """How much the sequences of each source count; the shares are divided by their sum.

    Args:
        target: the target's beams.
        draft: the draft's own beams (on-policy), found by the draft as it is now and scored by the target.
        truth: the item that came next.
    """

    target: float = 1.0
    draft: float = 0.0
    truth: float = 0.0

    def __post_init__(self) -> None:
        values = self.target, self.draft, self.truth
        if min(values) < 0 or sum(values) == 0:
            raise ValueError(f"model.sources has the shares {values}; expected 0 or more, and not all 0")


class LevelPrefixes(NamedTuple):
    """The prefixes of one level that sequences pass through, each once, root-padded.

    Attributes:
        nodes: ``[B, W]``, int64, in ascending order but for the padding, which comes first.
        shares: share of the request's sequences through each, ``[B, W]``, float32; 0 where it is padding.
        next_nodes: the node that each *sequence* goes on with, ``[B, n]``.
        place: which of ``nodes`` each sequence passes through, ``[B, n]``.
        sequence_shares: share of each sequence, ``[B, n]``.
    """

    nodes: Tensor
    shares: Tensor
    next_nodes: Tensor
    place: Tensor
    sequence_shares: Tensor

    def next_shares(self, children: Tensor) -> Tensor:
        """Return the share of a prefix's sequences that goes on with each of its children; ``[B, W, C]``."""
        of_sequence = children.gather(1, self.place[..., None].expand(-1, -1, children.shape[2]))  # [B, n, C]
        taken = (of_sequence == self.next_nodes[..., None]) * self.sequence_shares[..., None]
        index = self.place[..., None].expand_as(taken)
        total = torch.zeros(children.shape, device=children.device).scatter_add_(1, index, taken)
        return total / self.shares.clamp(min=torch.finfo(total.dtype).tiny)[..., None]


def pack(trie: ItemTrie, leaves: Tensor, shares: Tensor) -> list[LevelPrefixes]:
    """Pack sequences as a trie: the prefixes of each level, from the root to those that lack one code.

    Args:
        trie: the catalog.
        leaves: the sequences, ``[B, n]``; root entries are padding; the same leaf may come from several sources.
        shares: what each counts, ``[B, n]``, float32; those of a request sum to 1, padding has 0.

    Raises:
        ValueError: if the semantic IDs are not of one length.
    """
    if not trie.has_one_length:
        raise ValueError("the semantic IDs have different lengths; alignment compares the models level by level")
    path = trie.path(leaves).flip(-1)  # [B, n, L], first to last
    nodes = torch.full_like(path[..., 0], ROOT)
    levels = []
    for level in range(trie.num_levels):
        unique = _unique(nodes)
        place = torch.searchsorted(unique, nodes)  # the first of equal ones
        total = torch.zeros(unique.shape, device=shares.device).scatter_add_(1, place, shares)
        levels.append(LevelPrefixes(unique, total, path[..., level], place, shares))
        nodes = path[..., level].contiguous()
    return levels


def _unique(nodes: Tensor) -> Tensor:
    """Return each row's distinct nodes, sorted, with the root in front as padding; ``[B, n]`` → ``[B, W ≤ n]``."""
    nodes = nodes.sort(1).values
    repeated = torch.nn.functional.pad(nodes[:, 1:] == nodes[:, :-1], (1, 0))
    nodes = nodes.masked_fill(repeated, ROOT).sort(1).values
    width = max(1, int((nodes != ROOT).sum(1).max()))
    return nodes[:, nodes.shape[1] - width :].contiguous()
