"""Metrics of ranking."""

from atspeed.metrics.ranking import NDCGAtK, RecallAtK, ndcg_at_k, recall_at_k

__all__ = ["NDCGAtK", "RecallAtK", "ndcg_at_k", "recall_at_k"]
