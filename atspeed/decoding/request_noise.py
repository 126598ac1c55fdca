"""Random numbers of a request that depend on nothing but its seed and what they are for.

They come from SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014), whose
n-th output is a function of its seed and n: no state is kept, so neither the order of draws, nor padding, nor the other
requests of a batch can change a number.
"""

from enum import IntEnum
from typing import NamedTuple

import torch
from torch import Tensor

STEP, FIRST_FACTOR, SECOND_FACTOR = (  # of SplitMix64, as signed integers
    constant - (1 << 64) for constant in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)
BITS = 52  # of a random number; with one more, the largest would round to 1


class Use(IntEnum):
    """What the random number of a node is for; each use has its own."""

    DRAFT = 0
    """The draft draws the node."""
    TEST = 1
    """The node was proposed, and is accepted or not."""
    RESIDUAL = 2
    """The node is drawn from what the target likes better than the draft."""
    TARGET = 3
    """The node is drawn from the target."""


class RequestNoise(NamedTuple):
    """The random numbers of some nodes of the trie: one for each request, node and use, whatever round it is.

    Within a level the numbers of nodes and uses are independent, since its candidates are distinct nodes; so are those
    of different levels, whose nodes differ. The prefixes of a level are chosen once. A draft may draw them several
    times, in later rounds again, with the same numbers: that changes no law, because what is known when it draws again
    (the prefixes above) was chosen by the numbers of the levels above. And it saves tokens, because what is drawn again
    has mostly been scored. So nothing but the draft's draws of this level may make use of these numbers: how many nodes
    a drafter draws must not depend on what it drew, or on what has been scored, at the same level.

    Attributes:
        seeds: of the requests, ``[B]``, int64.
        nodes: ``[B, W]``, int64.
    """

    seeds: Tensor
    nodes: Tensor

    def of(self, use: Use) -> Tensor:
        """Return a number between 0 and 1, both excluded, for each node, ``[B, W]``, float64."""
        stream = _output(self.seeds, torch.full_like(self.seeds, use))
        bits = _shifted(_output(stream[:, None], self.nodes), 64 - BITS)
        return (bits.double() + 0.5) * 2.0**-BITS


def request_seeds(seed: int, rows: Tensor) -> Tensor:
    """Return a seed for each request of a data set, all of them different, ``[B]``, int64.

    Args:
        seed: of the data set.
        rows: where the requests are in it, ``[B]``, int64.
    """
    return _output(torch.full_like(rows, seed), rows)


def _output(seed: Tensor, index: Tensor) -> Tensor:
    """Return outputs of SplitMix64, counted from 0: 64 bits as int64, whose arithmetic wraps around."""
    bits = seed + (index + 1) * STEP
    bits = (bits ^ _shifted(bits, 30)) * FIRST_FACTOR
    bits = (bits ^ _shifted(bits, 27)) * SECOND_FACTOR
    return bits ^ _shifted(bits, 31)


def _shifted(bits: Tensor, count: int) -> Tensor:
    """Shift 64 bits to the right, and zeros in from the left."""
    return (bits >> count) & ((1 << (64 - count)) - 1)
