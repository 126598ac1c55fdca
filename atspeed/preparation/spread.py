"""A number that differs from case to case."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Spread:
    """The least, the mean and the most of some values."""

    least: int
    mean: float
    most: int

    @classmethod
    def of(cls, values: Tensor, typical: Tensor | None = None) -> "Spread":
        """Return the spread of whole numbers of any shape, with the mean of ``typical`` if that is given."""
        mean = (values if typical is None else typical).double().mean()
        return cls(int(values.min()), float(mean), int(values.max()))
