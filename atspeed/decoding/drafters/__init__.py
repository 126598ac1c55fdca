"""Drafters: who proposes the token tree of a round."""

from atspeed.decoding.drafters.drafter import Drafter, Proposal, Select
from atspeed.decoding.drafters.hybrid_drafter import HybridDrafter
from atspeed.decoding.drafters.model_drafter import ModelDrafter
from atspeed.decoding.drafters.no_drafter import NoDrafter
from atspeed.decoding.drafters.price_aware_drafter import PriceAwareDrafter
from atspeed.decoding.drafters.trie_drafter import TrieDrafter

__all__ = [
    "Drafter",
    "HybridDrafter",
    "ModelDrafter",
    "NoDrafter",
    "PriceAwareDrafter",
    "Proposal",
    "Select",
    "TrieDrafter",
]
