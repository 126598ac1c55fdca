"""Speculative beam search over a catalog; no Lightning and no data sets in here."""

from atspeed.decoding.beams import Beams, first_beams, next_beams
from atspeed.decoding.decoder import Decoded, SpeculativeDecoder, search
from atspeed.decoding.drafters import Drafter, ModelDrafter, NoDrafter, TrieDrafter
from atspeed.decoding.scorer import PrefixScorer
from atspeed.decoding.trie import ROOT, ItemTrie
from atspeed.decoding.verifiers import StrictTopK, Verifier

__all__ = [
    "ROOT",
    "Beams",
    "Decoded",
    "Drafter",
    "ItemTrie",
    "ModelDrafter",
    "NoDrafter",
    "PrefixScorer",
    "SpeculativeDecoder",
    "StrictTopK",
    "TrieDrafter",
    "Verifier",
    "first_beams",
    "next_beams",
    "search",
]
