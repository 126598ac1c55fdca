"""Relaxed sampling verification."""

import torch
from torch import Tensor

from atspeed.decoding.verifiers.lossless_sampling import LosslessSampling
from atspeed.decoding.verifiers.rejection import draw, first_valid, without


class RelaxedSampling(LosslessSampling):
    """Relaxed sampling verification (AtSpeed, arXiv 2410.05165, Algorithm 2): faster, and close to the target's law.

    Each proposal is accepted with probability ``min(1, p / q)``, by itself; the first K of the accepted are kept. A
    shortfall is drawn without replacement from the residual ``max(0, p − q)``, and from p where the residual has too
    few candidates. With more proposals than K, prefixes that the target likes better than the draft come up too seldom
    (docs/decoding.md has the distance). For K = 1 that would be a needless loss: there it is
    :class:`LosslessSampling`, which is exact.
    """

    name = "relaxed"

    def choose(
        self, target: Tensor, draft: Tensor, drawn: Tensor, num_beams: int, generator: torch.Generator | None
    ) -> Tensor:
        """Choose the prefixes of a level; see :meth:`SamplingVerifier.choose`."""
        if num_beams == 1:
            return super().choose(target, draft, drawn, num_beams, generator)
        thresholds = torch.rand(drawn.shape, generator=generator, device=drawn.device, dtype=target.dtype)
        at = drawn.clamp(min=0)
        accepts = (drawn >= 0) & (thresholds.log() + draft.gather(1, at) < target.gather(1, at))
        accepted = torch.where(accepts, drawn, -1)
        residual = without((target.exp() - draft.exp()).clamp(min=0).log(), accepted)
        following = draw(residual, num_beams, generator)
        rest = draw(without(without(target, accepted), following), num_beams, generator)
        return first_valid(torch.cat([accepted, following, rest], dim=1), num_beams)
