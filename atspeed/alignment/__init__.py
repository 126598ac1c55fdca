"""What an alignment compares the two models on: packed sequences, the comparison, and the target cache."""

from atspeed.alignment.comparison import compare
from atspeed.alignment.sequences import LevelPrefixes, SequenceShares, pack, search_beams
from atspeed.alignment.target_cache import TargetCache

__all__ = ["LevelPrefixes", "SequenceShares", "TargetCache", "compare", "pack", "search_beams"]
