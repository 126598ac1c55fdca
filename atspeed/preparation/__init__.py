"""From a team's data to what training needs: data sets read, reported and written anew, and semantic IDs."""

from atspeed.preparation.preparation import Preparation
from atspeed.preparation.semantic_ids import SemanticIds

__all__ = ["Preparation", "SemanticIds"]
