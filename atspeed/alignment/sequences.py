"""The sequences at whose prefixes an alignment compares the two models, packed as a trie."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from atspeed.decoding import ROOT, ItemTrie, NoDrafter, PrefixScorer, StrictTopK, search


@dataclass(frozen=True)
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

    def combine(self, target_beams: Tensor, draft_beams: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
        """Put the sequences of the three sources side by side; those with a share of 0 are left out.

        Args:
            target_beams: leaves, ``[B, K]``, int64, root-padded.
            draft_beams: the same; ``[B, 0]`` if there are none.
            truth: leaf of the item that came next, ``[B]``, int64.

        Returns:
            leaves, ``[B, n]``, int64; and the share of each, ``[B, n]``, float32, the sum of a request's being 1.
        """
        sources = target_beams, draft_beams, truth[:, None]
        weights = self.target, self.draft, self.truth
        leaves = torch.cat(sources, dim=1)
        shares = torch.cat(
            [
                weight * (part != ROOT) / (part != ROOT).sum(1, keepdim=True).clamp(min=1)
                for weight, part in zip(weights, sources, strict=True)
            ],
            dim=1,
        )
        used = (shares > 0).any(0)
        return leaves[:, used], shares[:, used] / sum(weights)


class LevelPrefixes(NamedTuple):
    """The prefixes of one level that sequences pass through, each once, root-padded.

    Attributes:
        nodes: ``[B, W]``, int64, in ascending order except for the padding, which comes first.
        shares: share of the request's sequences through each prefix, ``[B, W]``, float32; 0 at padding.
        next_nodes: the node that each *sequence* continues with, ``[B, n]``, int64.
        prefix_index: index in ``nodes`` of the prefix that each sequence passes through, ``[B, n]``, int64.
        sequence_shares: share of each sequence, ``[B, n]``, float32.
    """

    nodes: Tensor
    shares: Tensor
    next_nodes: Tensor
    prefix_index: Tensor
    sequence_shares: Tensor

    def next_shares(self, children: Tensor) -> Tensor:
        """Return the share of a prefix's sequences that continues with each of its children.

        Args:
            children: the children of ``nodes``, root-padded, ``[B, W, C]``, int64.

        Returns:
            ``[B, W, C]``, float32.
        """
        index = self.prefix_index[..., None].expand(-1, -1, children.shape[2])  # [B, n, C]
        taken = (children.gather(1, index) == self.next_nodes[..., None]) * self.sequence_shares[..., None]
        total = torch.zeros(children.shape, device=children.device).scatter_add_(1, index, taken)  # [B, W, C]
        return total / self.shares.clamp(min=torch.finfo(total.dtype).tiny)[..., None]


def pack(trie: ItemTrie, leaves: Tensor, shares: Tensor) -> list[LevelPrefixes]:
    """Pack sequences as a trie: the prefixes of each level, from the root to those that lack one code.

    Two sequences ``a b c`` and ``a b d`` with shares of 0.5 become ::

        level  prefixes (shares)  prefix_index  next_nodes
        0      root (1.0)         0 0           a  a
        1      a    (1.0)         0 0           ab ab
        2      ab   (1.0)         0 0           abc abd

    Args:
        trie: the catalog.
        leaves: the sequences, ``[B, n]``, int64; root entries are padding; a leaf may come from several sources.
        shares: what each counts, ``[B, n]``, float32; those of a request sum to 1, padding has 0.

    Raises:
        ValueError: if the semantic IDs have different lengths.
    """
    if not trie.has_one_length:
        raise ValueError("the semantic IDs have different lengths; alignment compares the models level by level")
    path = trie.path(leaves).flip(-1)  # [B, n, L], first code to last
    nodes = torch.full_like(path[..., 0], ROOT)
    levels = []
    for level in range(trie.num_levels):
        unique = _unique(nodes)
        prefix_index = torch.searchsorted(unique, nodes)  # the first of equal ones
        total = torch.zeros(unique.shape, device=shares.device).scatter_add_(1, prefix_index, shares)
        next_nodes = path[..., level]
        levels.append(
            LevelPrefixes(
                nodes=unique, shares=total, next_nodes=next_nodes, prefix_index=prefix_index, sequence_shares=shares
            )
        )
        nodes = next_nodes.contiguous()
    return levels


def search_beams(scorer: PrefixScorer, num_beams: int) -> Tensor:
    """Return the leaves of plain beam search, ``[B, K]``, int64, root-padded; the scorer keeps what it has scored.

    One forward pass per level, whatever the data: processes that share a model's shards stay in step.
    """
    return search(scorer, None, NoDrafter(), StrictTopK(), num_beams, drop_finished=False).leaves


def _unique(nodes: Tensor) -> Tensor:
    """Return each row's distinct nodes, sorted, with the root in front as padding; ``[B, n]`` → ``[B, W ≤ n]``."""
    nodes = nodes.sort(1).values
    repeated = torch.nn.functional.pad(nodes[:, 1:] == nodes[:, :-1], (1, 0))
    nodes = nodes.masked_fill(repeated, ROOT).sort(1).values
    width = max(1, int((nodes != ROOT).sum(1).max()))
    return nodes[:, nodes.shape[1] - width :].contiguous()
