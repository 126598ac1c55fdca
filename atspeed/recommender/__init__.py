"""From decoded semantic IDs to recommended items; the seen-item filter; recommenders without a model. No Lightning."""

from atspeed.recommender.answers import Answer, Recommendation, answers
from atspeed.recommender.baselines import TransitionCounts, recommend_popular
from atspeed.recommender.seen_items import unseen_items

__all__ = ["Answer", "Recommendation", "TransitionCounts", "answers", "recommend_popular", "unseen_items"]
