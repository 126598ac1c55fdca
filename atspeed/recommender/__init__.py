"""From decoded semantic IDs to recommended items; recommenders without a model."""

from atspeed.recommender.baselines import TransitionCounts, recommend_popular

__all__ = ["TransitionCounts", "recommend_popular"]
