"""Verifiers: which prefixes a request goes on with after a target call."""

from abc import ABC, abstractmethod

import torch

from atspeed.decoding.beams import Beams, next_beams
from atspeed.decoding.scorer import PrefixScorer


class Verifier(ABC):
    """Moves beams down as far as the scored nodes allow; a subclass is named by ``class_path`` in a config.

    Attributes:
        name: what reports call it.
    """

    name: str

    @abstractmethod
    def advance(self, beams: Beams, target: PrefixScorer) -> Beams:
        """Return the beams after as many levels as the target's scores allow, each request by itself."""


class StrictTopK(Verifier):
    """N-to-K verification: a level is accepted when the target has scored all of its K beams.

    So the result is that of plain beam search of width K, whatever was proposed (AtSpeed, arXiv 2410.05165).
    """

    name = "strict"

    def advance(self, beams: Beams, target: PrefixScorer) -> Beams:
        """Return the advanced beams; see :meth:`Verifier.advance`."""
        width = beams.nodes.shape[1]
        while True:
            ready = (target.is_scored(beams.nodes) | (beams.scores == -torch.inf)).all(1, keepdim=True)  # [B, 1]
            if not ready.any():
                return beams
            further = next_beams(target, beams, width)
            beams = Beams(*(torch.where(ready, new, old) for new, old in zip(further, beams, strict=True)))
