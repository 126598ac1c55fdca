"""Lossless sampling verification."""

import torch
from torch import Tensor

from atspeed.decoding.verifiers.rejection import draw, first_valid, normalised
from atspeed.decoding.verifiers.sampling import SamplingVerifier


class LosslessSampling(SamplingVerifier):
    """Recursive rejection sampling without replacement (RSD, arXiv 2402.14160): the law is exactly the target's.

    Proposals are taken in the order in which the draft drew them. One is accepted with probability ``min(1, p / q)``;
    after a rejection p becomes the residual ``max(0, p − q)``, and q goes on without the proposal, renormalised. After
    an acceptance p starts anew, without what has been chosen. What the proposals do not give is drawn from p.
    """

    name = "lossless"

    def choose(
        self, target: Tensor, draft: Tensor, drawn: Tensor, num_beams: int, generator: torch.Generator | None
    ) -> Tensor:
        """Choose the prefixes of a level; see :meth:`SamplingVerifier.choose`."""
        residual, proposed = target.exp(), draft.exp()
        thresholds = torch.rand(drawn.shape, generator=generator, device=drawn.device, dtype=target.dtype)
        accepted = torch.full_like(drawn, -1)
        for turn, (place, threshold) in enumerate(zip(drawn.T, thresholds.T, strict=True)):
            unfinished = (accepted >= 0).sum(1) < num_beams
            if not unfinished.any():
                break
            tested = unfinished & (place >= 0)
            at = place.clamp(min=0)[:, None]
            residual, proposed = normalised(residual), normalised(proposed)
            accepts = tested & (threshold * proposed.gather(1, at)[:, 0] < residual.gather(1, at)[:, 0])
            accepted[:, turn] = torch.where(accepts, place, -1)
            target = target.scatter(1, at, target.gather(1, at).masked_fill(accepts[:, None], -torch.inf))
            rest = torch.where(accepts[:, None], target.exp(), (residual - proposed).clamp(min=0))
            residual = torch.where(tested[:, None], rest, residual)
            proposed = proposed.scatter(1, at, proposed.gather(1, at).masked_fill(tested[:, None], 0))
        # A rejection leaves some residual; where rounding left none, p itself is what is left.
        residual = torch.where(residual.sum(1, keepdim=True) > 0, residual.log(), target)
        following = draw(residual, 1, generator)
        target = target.scatter(1, following.clamp(min=0), -torch.inf)
        return first_valid(torch.cat([accepted, following, draw(target, num_beams, generator)], dim=1), num_beams)
