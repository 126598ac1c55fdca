"""What an alignment compares the two models on: packed sequences, the comparison, and the target cache."""

from atspeed.alignment.sequences import SequenceShares
from atspeed.alignment.target_cache import TargetCache

__all__ = ["SequenceShares", "TargetCache"]
