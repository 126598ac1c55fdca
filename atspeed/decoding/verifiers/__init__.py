"""Verifiers: which prefixes a request continues from after a target call."""

from atspeed.decoding.verifiers.bounded_top_k import BoundedTopK
from atspeed.decoding.verifiers.lossless_sampling import LosslessSampling
from atspeed.decoding.verifiers.relaxed_sampling import RelaxedSampling
from atspeed.decoding.verifiers.sampling import SamplingVerifier
from atspeed.decoding.verifiers.strict_top_k import StrictTopK
from atspeed.decoding.verifiers.verifier import Verifier

__all__ = ["BoundedTopK", "LosslessSampling", "RelaxedSampling", "SamplingVerifier", "StrictTopK", "Verifier"]
