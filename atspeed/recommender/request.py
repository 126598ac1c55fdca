"""A request that has been checked against a version of the catalog."""

from dataclasses import dataclass

from torch import Tensor

from atspeed.recommender.answering_method import Method
from atspeed.recommender.served_catalog import ServedCatalog


@dataclass(frozen=True, eq=False)
class Request:
    """A request that has been checked; made by :meth:`Recommender.request`.

    Attributes:
        served: the version of the catalog that answers it.
        history: catalog indices, oldest first.
        skipped: items of the history that the catalog does not have.
        k: how many recommendations.
        exclude_seen: whether the items of the history are left out.
        item_mask: which items may be recommended, ``[num_items]``, bool; None: all.
        method: how it is answered.
        seed: of a verifier that samples.
    """

    served: ServedCatalog
    history: list[int]
    skipped: list[str]
    k: int
    exclude_seen: bool
    item_mask: Tensor | None
    method: Method
    seed: int

    @property
    def num_items(self) -> int:
        """Items of the history that the prompt has: requests of similar numbers make good batches."""
        return min(len(self.history), self.served.encoder.max_items)

    def shares_batch(self, other: "Request") -> bool:
        """Return whether two requests may be answered in one batch."""
        return self.served is other.served and self.method == other.method
