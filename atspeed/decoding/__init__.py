"""Speculative beam search over a catalog; no Lightning and no data sets in here.

The shape letters are those of :mod:`atspeed`.
"""

from atspeed.decoding.beams import Beams, next_beams
from atspeed.decoding.decoder import SpeculativeDecoder
from atspeed.decoding.drafters.drafter import Drafter, Proposal
from atspeed.decoding.drafters.hybrid_drafter import HybridDrafter
from atspeed.decoding.drafters.model_drafter import ModelDrafter
from atspeed.decoding.drafters.no_drafter import NoDrafter
from atspeed.decoding.drafters.price_aware_drafter import PriceAwareDrafter
from atspeed.decoding.drafters.trie_drafter import TrieDrafter
from atspeed.decoding.execution import Captured, Eager, Execution
from atspeed.decoding.filters import ItemFilter
from atspeed.decoding.request_noise import RequestNoise, request_seeds
from atspeed.decoding.scored_prefixes import ScoredPrefixes
from atspeed.decoding.scorer import PrefixScorer
from atspeed.decoding.search import Decoded, search
from atspeed.decoding.trie import END, ROOT, ItemTrie
from atspeed.decoding.verifiers.bounded_top_k import BoundedTopK
from atspeed.decoding.verifiers.lossless_sampling import LosslessSampling
from atspeed.decoding.verifiers.relaxed_sampling import RelaxedSampling
from atspeed.decoding.verifiers.sampling import SamplingVerifier
from atspeed.decoding.verifiers.strict_top_k import StrictTopK
from atspeed.decoding.verifiers.verifier import Verifier

__all__ = [
    "END",
    "ROOT",
    "Beams",
    "BoundedTopK",
    "Captured",
    "Decoded",
    "Drafter",
    "Eager",
    "Execution",
    "HybridDrafter",
    "ItemFilter",
    "ItemTrie",
    "LosslessSampling",
    "ModelDrafter",
    "NoDrafter",
    "PrefixScorer",
    "PriceAwareDrafter",
    "Proposal",
    "RelaxedSampling",
    "RequestNoise",
    "SamplingVerifier",
    "ScoredPrefixes",
    "SpeculativeDecoder",
    "StrictTopK",
    "TrieDrafter",
    "Verifier",
    "next_beams",
    "request_seeds",
    "search",
]
