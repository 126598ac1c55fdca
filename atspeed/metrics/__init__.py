"""Metrics of ranking, of diversity (how much of the catalog is used) and of speculation."""

from atspeed.metrics.diversity import CatalogCoverage, catalog_coverage
from atspeed.metrics.ranking import (
    HitRateAtK,
    MRRAtK,
    NDCGAtK,
    RecallAtK,
    hit_rate_at_k,
    mrr_at_k,
    ndcg_at_k,
    recall_at_k,
)
from atspeed.metrics.speculation import AnswerOverlap, ExactShare, Speculation, answer_overlap, exact_share

__all__ = [
    "AnswerOverlap",
    "CatalogCoverage",
    "ExactShare",
    "HitRateAtK",
    "MRRAtK",
    "NDCGAtK",
    "RecallAtK",
    "Speculation",
    "answer_overlap",
    "catalog_coverage",
    "exact_share",
    "hit_rate_at_k",
    "mrr_at_k",
    "ndcg_at_k",
    "recall_at_k",
]
