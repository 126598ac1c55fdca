"""What every verifier is."""

from abc import ABC, abstractmethod

from torch import Tensor

from atspeed.decoding.beams import Beams, select_top
from atspeed.decoding.drafters.drafter import Proposal, Select
from atspeed.decoding.scorer import PrefixScorer
from atspeed.decoding.trie import ItemTrie


class Verifier(ABC):
    """Moves beams down as far as the scored nodes allow; a subclass is named by ``class_path`` in a config.

    Attributes:
        name: what reports call it.
        tolerance: share of a level's probability that may go unscored for the level to be accepted; 0: all K beams must
            be scored; None: prefixes are drawn.
    """

    name: str
    tolerance: float | None = 0.0

    def check(self, trie: ItemTrie) -> None:  # noqa: B027 (most verifiers serve any catalog)
        """Raise a ValueError if the verifier cannot serve a catalog."""

    def selection(self, seeds: Tensor) -> Select:
        """Return how a draft model selects its candidates: by default the best; seeds as of :meth:`advance`."""
        return select_top

    @abstractmethod
    def advance(
        self,
        beams: Beams,
        target: PrefixScorer,
        draft: PrefixScorer | None,
        proposal: Proposal,
        seeds: Tensor,
    ) -> Beams:
        """Return the beams after as many levels as the target's scores allow, each request by itself.

        Args:
            beams: where the search stands; the target has scored all prefixes.
            target: the target's scorer, after its call.
            draft: the draft's scorer, if the drafter has one.
            proposal: what was proposed in this round.
            seeds: of the random numbers of each request (:class:`RequestNoise`), ``[B]``, int64.
        """


def is_ready(beams: Beams, target: PrefixScorer) -> Tensor:
    """Return which requests can advance by a level: there are prefixes, all of them scored; ``[B]``, bool."""
    return beams.mask.any(1) & target.is_scored(beams.nodes).all(1)  # the root, which pads them, is scored
