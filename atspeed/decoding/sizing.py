"""How large intermediate results are made: as the data at hand need, or as they may become at most.

Most operations have results whose size depends on data: the children of some nodes, the nodes that are left to score.
Asking the device for such a size makes the host wait, and a size that changes cannot be replayed as a CUDA graph. So
whoever needs a size, or skips work that may have nothing to do, asks the catalog's :attr:`ItemTrie.sizing`.
"""

from torch import Tensor


class Measured:
    """Sizes are those of the data: least work; on a GPU each question makes the host wait.

    Attributes:
        least_depth: beams are at least so deep.
    """

    least_depth = 0

    def any(self, mask: Tensor) -> bool:
        """Return whether a mask is True anywhere, so that there is something to do."""
        return bool(mask.any())

    def all(self, mask: Tensor) -> bool:
        """Return whether a mask is True everywhere, so that there is no choice to make."""
        return bool(mask.all())

    def width(self, counts: Tensor, most: int) -> int:
        """Return how many columns hold the largest of some counts, of any shape, which are at most ``most``."""
        return min(int(counts.max()), most) if counts.numel() else 0

    def least(self, depth: Tensor) -> int:
        """Return the least of the beams' depths, ``[B]``."""
        return int(depth.min())


class Fixed(Measured):
    """Sizes are upper bounds, and nothing asks the device: the operations of a round are always the same.

    Args:
        least_depth: beams are at least so deep: as many as rounds have gone before, since each gains a level.
    """

    def __init__(self, least_depth: int) -> None:
        self.least_depth = least_depth

    def any(self, mask: Tensor) -> bool:
        """Return True: there may be."""
        return True

    def all(self, mask: Tensor) -> bool:
        """Return False: perhaps not everywhere."""
        return False

    def width(self, counts: Tensor, most: int) -> int:
        """Return ``most``."""
        return most

    def least(self, depth: Tensor) -> int:
        """Return :attr:`least_depth`."""
        return self.least_depth


MEASURED = Measured()
