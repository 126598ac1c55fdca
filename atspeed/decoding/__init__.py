"""Speculative beam search over a catalog; no Lightning and no data sets in here.

Shapes: ``B`` requests, ``K`` beams, ``N`` draft beams, ``T`` tree nodes, ``S`` cache slots, ``W`` candidates, ``L``
levels, ``M`` trie nodes, ``V`` tokens.
"""

from atspeed.decoding.beams import Beams, next_beams
from atspeed.decoding.decoder import Decoded, SpeculativeDecoder, search
from atspeed.decoding.drafters import Drafter, HybridDrafter, ModelDrafter, NoDrafter, Proposal, TrieDrafter
from atspeed.decoding.filters import ItemFilter
from atspeed.decoding.sampling import LosslessSampling, RelaxedSampling, SamplingVerifier
from atspeed.decoding.scorer import PrefixScorer, ScoredPrefixes
from atspeed.decoding.trie import END, ROOT, ItemTrie
from atspeed.decoding.verifiers import StrictTopK, Verifier

__all__ = [
    "END",
    "ROOT",
    "Beams",
    "Decoded",
    "Drafter",
    "HybridDrafter",
    "ItemFilter",
    "ItemTrie",
    "LosslessSampling",
    "ModelDrafter",
    "NoDrafter",
    "PrefixScorer",
    "Proposal",
    "RelaxedSampling",
    "SamplingVerifier",
    "ScoredPrefixes",
    "SpeculativeDecoder",
    "StrictTopK",
    "TrieDrafter",
    "Verifier",
    "next_beams",
    "search",
]
