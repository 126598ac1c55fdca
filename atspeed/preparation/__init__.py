"""Reading a data set of any format, reporting what is in it, and writing it in another."""

from atspeed.preparation.preparation import Preparation

__all__ = ["Preparation"]
