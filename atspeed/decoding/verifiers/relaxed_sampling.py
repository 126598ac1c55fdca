"""Relaxed sampling verification: the paper's, near the target's law."""

from torch import Tensor

from atspeed.decoding.request_noise import RequestNoise
from atspeed.decoding.verifiers.rejection import independent_rejection, recursive_rejection
from atspeed.decoding.verifiers.sampling import SamplingVerifier


class RelaxedSampling(SamplingVerifier):
    """Relaxed sampling verification (AtSpeed, arXiv 2410.05165, Algorithm 2): faster, and close to the target's law.

    Each proposal is tested by itself (:func:`independent_rejection`). With more proposals than K, prefixes that the
    target likes better than the draft come up too seldom (docs/decoding.md has the distance). For K = 1 that would be a
    needless loss: there the tests depend on one another, as in :class:`LosslessSampling`, and the law is exact.
    """

    name = "relaxed"

    def choose(self, target: Tensor, draft: Tensor, drawn: Tensor, num_beams: int, noise: RequestNoise) -> Tensor:
        """Choose the prefixes of a level; see :meth:`SamplingVerifier.choose`."""
        rejection = recursive_rejection if num_beams == 1 else independent_rejection
        return rejection(target, draft, drawn, num_beams, noise)
