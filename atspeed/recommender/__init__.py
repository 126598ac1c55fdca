"""From decoded semantic IDs to recommended items; the seen-item filter; recommenders without a model. No Lightning."""

from atspeed.recommender.answers import Answer, Recommendation, answers
from atspeed.recommender.baselines import TransitionCounts, recommend_popular
from atspeed.recommender.response_trie import draft_tokens, response_trie
from atspeed.recommender.seen_items import unseen_items

__all__ = [
    "Answer",
    "Recommendation",
    "TransitionCounts",
    "answers",
    "draft_tokens",
    "recommend_popular",
    "response_trie",
    "unseen_items",
]
