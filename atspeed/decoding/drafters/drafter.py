"""What every drafter is."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from torch import Tensor
from transformers import PreTrainedModel

from atspeed.decoding.beams import Beams
from atspeed.decoding.scorer import PrefixScorer
from atspeed.decoding.trie import ItemTrie

DraftType = TypeVar("DraftType", PrefixScorer, PreTrainedModel)
Select = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]
"""Candidate nodes and scores ``[B, W]`` and a width N → nodes and scores ``[B, N]``, as :func:`select_top`."""


class Proposal(NamedTuple):
    """What a drafter proposes in a round.

    Attributes:
        nodes: the token tree, ``[B, T]``, int64, root-padded; each node comes with its ancestors below the beams.
        drawn: for each level below the beams, the nodes that the draft selected and their scores under it, ``[B, N]``
            each, in the order of selection; empty where a drafter does not select by the draft's probabilities alone.
        most: how many nodes of a request are no padding at most; T if not given.
    """

    nodes: Tensor
    drawn: list[tuple[Tensor, Tensor]]
    most: int | None = None


class Drafter(ABC):
    """Proposes nodes for the target to score in one call; a subclass is named by ``class_path`` in a config.

    Whatever is proposed, strict answers stay exact: the decoder adds the target's own beams, and a level counts only
    when the target has scored all of its beams.

    Attributes:
        needs_draft: whether it proposes with a draft model.
        needs_cost: whether it goes by what calls of both models cost and by the draft's calibration, which who makes a
            decoder keeps on the models (:func:`keep_cost`, :func:`keep_calibration`); otherwise costs are measured.
    """

    needs_draft: bool = False
    needs_cost: bool = False

    def prepare(  # noqa: B027 (most drafters have nothing to prepare)
        self, target: PreTrainedModel, draft: PreTrainedModel | None, tolerance: float | None
    ) -> None:
        """Get ready to draft for a target; called once by the decoder.

        Args:
            target: the target.
            draft: the draft, if :attr:`needs_draft`.
            tolerance: of the verifier; see :attr:`Verifier.tolerance`.
        """

    def with_fixed_widths(self, num_beams: int, batch_size: int, prompt_tokens: int, trie: ItemTrie) -> "Drafter":
        """Return a drafter that makes all its choices on the device: itself, unless it takes some on the host.

        Args:
            num_beams: the beam width K.
            batch_size: requests of a batch.
            prompt_tokens: tokens of their prompts.
            trie: the catalog, or one like those to come.
        """
        return self

    @abstractmethod
    def propose(self, beams: Beams, target: PrefixScorer, draft: PrefixScorer | None, select: Select) -> Proposal:
        """Return nodes below ``beams``; leaves, and nodes that are scored or not allowed, cost nothing.

        Args:
            beams: where the target's search stands; prefixes are best first under strict verification.
            target: the target's scorer, to look at: its trie and what a request allows.
            draft: the draft model's scorer, if :attr:`needs_draft`.
            select: how the draft's candidates are selected, which the verifier decides: the best, or at random.
                At random the same numbers come again in later rounds (:class:`RequestNoise`), so how many candidates of
                a level are selected must depend neither on what was selected of it nor on what of it has been scored.
        """


def require_draft(draft: DraftType | None, drafter: Drafter) -> DraftType:
    """Return the draft, or its scorer; raise ``ValueError`` if the decoder has none."""
    if draft is None:
        raise ValueError(f"{type(drafter).__name__} needs a draft model; give the decoder one, or choose TrieDrafter")
    return draft
