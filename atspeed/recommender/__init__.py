"""From decoded semantic IDs to recommended items; the seen-item filter; recommenders without a model. No Lightning."""

from atspeed.recommender.answering_method import Method
from atspeed.recommender.answers import Answer, Recommendation, answers
from atspeed.recommender.baselines import TransitionCounts, recommend_popular
from atspeed.recommender.bundle import Bundle, BundleSettings, write_bundle
from atspeed.recommender.catalog_edit import edit_items
from atspeed.recommender.popular_items import PopularItems
from atspeed.recommender.recommender import Recommender
from atspeed.recommender.request import Request
from atspeed.recommender.response_trie import draft_tokens, response_trie
from atspeed.recommender.seen_items import unseen_items
from atspeed.recommender.served_catalog import ServedCatalog

__all__ = [
    "Answer",
    "Bundle",
    "BundleSettings",
    "Method",
    "PopularItems",
    "Recommendation",
    "Recommender",
    "Request",
    "ServedCatalog",
    "TransitionCounts",
    "answers",
    "draft_tokens",
    "edit_items",
    "recommend_popular",
    "response_trie",
    "unseen_items",
    "write_bundle",
]
