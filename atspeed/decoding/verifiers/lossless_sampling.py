"""Lossless sampling verification: the target's law, exactly."""

from torch import Tensor

from atspeed.decoding.request_noise import RequestNoise
from atspeed.decoding.verifiers.rejection import recursive_rejection
from atspeed.decoding.verifiers.sampling import SamplingVerifier


class LosslessSampling(SamplingVerifier):
    """Recursive rejection sampling without replacement (RSD, arXiv 2402.14160): the law is exactly the target's.

    See :func:`recursive_rejection` for the algorithm.
    """

    name = "lossless"

    def choose(self, target: Tensor, draft: Tensor, drawn: Tensor, num_beams: int, noise: RequestNoise) -> Tensor:
        """Choose the prefixes of a level; see :meth:`SamplingVerifier.choose`."""
        return recursive_rejection(target, draft, drawn, num_beams, noise)
