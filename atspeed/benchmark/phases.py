"""Where the time of a request goes."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from atspeed.data import RequestBatch
from atspeed.decoding import SpeculativeDecoder

PHASES = ("target", "draft", "drafting", "verification", "rest")


class Stopwatch:
    """Charges time to the phase that was entered last and not left yet."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)
        self._open: list[str] = []
        self._since = 0.0

    def enter(self, phase: str) -> None:
        """Charge what follows to ``phase``."""
        self._charge()
        self._open.append(phase)

    def leave(self) -> None:
        """Charge what follows to the phase that was entered before."""
        self._charge()
        self._open.pop()

    def _charge(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now


def measure_phases(decoder: SpeculativeDecoder, batches: list[RequestBatch], num_beams: int) -> dict[str, float]:
    """Decode batches once more under a stopwatch.

    Returns:
        milliseconds per batch of each phase: ``target`` and ``draft``, the forward passes of the two models;
        ``drafting``, choosing what to propose; ``verification``; and ``rest``, the remainder: scoring outside the
        forward passes (tree masks, key-value slots, log-probabilities of children) and the loop itself.
    """
    watch = Stopwatch(decoder.target.device)
    with _watched(decoder, watch):
        for batch in batches:
            watch.enter("rest")
            decoder(**batch.decoder_inputs, num_beams=num_beams)
            watch.leave()
    return {phase: 1000 * watch.seconds[phase] / len(batches) for phase in PHASES}


@contextmanager
def _watched(decoder: SpeculativeDecoder, watch: Stopwatch) -> Iterator[None]:
    def timed(function: Callable, phase: str) -> Callable:
        def call(*args: Any) -> Any:
            watch.enter(phase)
            result = function(*args)
            watch.leave()
            return result

        return call

    steps: list[tuple[Any, str, str]] = [
        (decoder.drafter, "propose", "drafting"),
        (decoder.verifier, "advance", "verification"),
    ]
    for owner, name, phase in steps:
        setattr(owner, name, timed(getattr(owner, name), phase))
    hooks = []
    for model, phase in ((decoder.target, "target"), (decoder.draft, "draft")):
        if model is None:
            continue
        # where a call needs many logits, base and head are called instead of the model (decoding/forward.py)
        for module in {model, model.base_model, model.get_output_embeddings()} - {None}:
            hooks.append(module.register_forward_pre_hook(lambda *_, phase=phase: watch.enter(phase)))
            hooks.append(module.register_forward_hook(lambda *_: watch.leave()))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for owner, name, _ in steps:
            delattr(owner, name)  # uncovers the method of the class
