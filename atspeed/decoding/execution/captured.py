"""A search with fixed shapes, whose rounds replay as CUDA graphs."""

import itertools
import logging
import threading
from collections.abc import Iterable
from typing import Any

from transformers import PreTrainedModel

from atspeed.checks import require_at_least
from atspeed.decoding.execution.captured_search import Capture, CapturedSearch, Shape
from atspeed.decoding.execution.eager import Eager
from atspeed.decoding.execution.execution import Engine, Execution, Requests
from atspeed.decoding.execution.fixed_catalog import FixedCatalog
from atspeed.decoding.search import Decoded

log = logging.getLogger(__name__)
MOVING_ROTARY = ("dynamic", "longrope")
"""Rotary embeddings that look at the positions at hand to choose their frequencies, which asks the device."""


class Captured(Execution):
    """Runs each round, the draft's calls and the selection included, as one CUDA graph.

    Batches and prompts are padded to the next of the given sizes. For each combination of sizes the rounds are captured
    once: beforehand where the decoder knows how long prompts may be, otherwise when the first such batch comes.
    Everything has its largest size: key-value slots for prompt and nodes of all rounds, nodes of a call, children of a
    node. So it pays where launching operations and waiting for the device take longer than computing a bit more: on a
    GPU. On a CPU the same functions are run as they are, which is for tests.

    What has another shape is answered by :class:`Eager`, with one log line for each shape; so is everything if the
    rotary embedding of a model depends on the prompts' lengths (``longrope``, ``dynamic``).

    Args:
        num_beams: the beam widths K to capture.
        batch_sizes: sizes of batches.
        prompt_lengths: lengths of prompts, in tokens.
        room: for catalogs to come, as a share of the first one: one that fits is copied into place, another one is
            captured anew.
    """

    def __init__(
        self,
        num_beams: tuple[int, ...],
        batch_sizes: tuple[int, ...] = (1, 4, 16),
        prompt_lengths: tuple[int, ...] = (64, 128, 256, 512),
        room: float = 0.25,
    ) -> None:
        sizes = {"num_beams": num_beams, "batch_sizes": batch_sizes, "prompt_lengths": prompt_lengths}
        for name, values in sizes.items():
            if not values:
                raise ValueError(f"{name} is empty; give Captured the sizes to capture, or choose Eager")
            require_at_least(1, **{f"{name}[{index}]": value for index, value in enumerate(values)})
        require_at_least(0, room=room)
        self.num_beams = tuple(num_beams)
        self.batch_sizes = tuple(sorted(batch_sizes))
        self.prompt_lengths = tuple(sorted(prompt_lengths))
        self.room = room
        self._eager = Eager()
        self._catalogs: dict[tuple[Any, ...], FixedCatalog] = {}
        self._searches: dict[tuple[tuple[Any, ...], Shape], CapturedSearch] = {}
        self._told: set[str] = set()
        self._lock = threading.Lock()  # a capture has one set of tensors

    @property
    def captures(self) -> list[Capture]:
        """What has been captured."""
        return [search.capture for search in self._searches.values()]

    def release(self) -> None:
        """Drop what has been captured, and its memory."""
        self._searches.clear()
        self._catalogs.clear()

    def prepare(self, engine: Engine, prompt_tokens: int, draft_prompt_tokens: int) -> None:
        """Capture all sizes up to the longest prompts; see :meth:`Execution.prepare`."""
        lengths, draft_lengths = self._lengths_up_to(prompt_tokens), self._lengths_up_to(draft_prompt_tokens)
        pairs: Iterable[tuple[int, int]] = itertools.product(lengths, draft_lengths)
        if engine.draft is None:
            pairs = [(length, 0) for length in lengths]
        elif prompt_tokens == draft_prompt_tokens:  # both models read the same prompts
            pairs = zip(lengths, lengths, strict=True)
        for (length, draft_length), batch_size, num_beams in itertools.product(pairs, self.batch_sizes, self.num_beams):
            shape = Shape(batch_size, length, draft_length, num_beams)
            if not self._obstacle(engine, num_beams):
                with self._lock:
                    self._search(engine, shape)

    def _lengths_up_to(self, tokens: int) -> list[int]:
        """Return the lengths that prompts of up to so many tokens are padded to."""
        shorter = [length for length in self.prompt_lengths if length < tokens]
        return [*shorter, *self.prompt_lengths[len(shorter) : len(shorter) + 1]]

    def answer(self, engine: Engine, requests: Requests, num_beams: int) -> Decoded:
        """Answer a batch of requests; see :meth:`Execution.answer`."""
        shape = self._shape(engine, requests, num_beams)
        if isinstance(shape, str):
            self._tell(shape)
            return self._eager.answer(engine, requests, num_beams)
        with self._lock:
            search = self._search(engine, shape)
            self._catalogs[engine[:5]].load(engine)
            return search.answer(requests)

    def _search(self, engine: Engine, shape: Shape) -> CapturedSearch:
        key = engine[:5]  # all but the catalog
        if key not in self._catalogs or not self._catalogs[key].has_room_for(engine):
            self._searches = {others: search for others, search in self._searches.items() if others[0] != key}
            self._catalogs.pop(key, None)  # the old memory first
            self._catalogs[key] = FixedCatalog(engine, self.room)
        if (key, shape) not in self._searches:
            self._searches[key, shape] = CapturedSearch(engine, shape, self._catalogs[key])
        return self._searches[key, shape]

    def _shape(self, engine: Engine, requests: Requests, num_beams: int) -> Shape | str:
        """Return the smallest shape that requests fit, or why there is none."""
        if obstacle := self._obstacle(engine, num_beams):
            return obstacle
        batch_size, prompt_length = requests.prompts.shape
        draft_prompt_length = requests.draft_prompts.shape[1] if engine.draft is not None else 0
        if batch_size > self.batch_sizes[-1] or max(prompt_length, draft_prompt_length) > self.prompt_lengths[-1]:
            return (
                f"{batch_size} requests of up to {max(prompt_length, draft_prompt_length)} tokens, and up to "
                f"{self.batch_sizes[-1]} of {self.prompt_lengths[-1]} are captured"
            )
        return Shape(
            _next(batch_size, self.batch_sizes),
            _next(prompt_length, self.prompt_lengths),
            _next(draft_prompt_length, (0, *self.prompt_lengths)),
            num_beams,
        )

    def _obstacle(self, engine: Engine, num_beams: int) -> str | None:
        """Return what keeps a search from being captured, whatever the requests."""
        for name, model in (("target", engine.target), ("draft", engine.draft)):
            if model is not None and (rotary := moving_rotary(model)):
                return f"the {name} has a {rotary} rotary embedding"
        if num_beams not in self.num_beams:
            return f"num_beams is {num_beams}, and {list(self.num_beams)} are captured"
        if num_beams > engine.trie.num_leaves:
            return f"num_beams is {num_beams}, and the catalog has {engine.trie.num_leaves} semantic IDs"
        return None

    def _tell(self, reason: str) -> None:
        if reason not in self._told:
            self._told.add(reason)
            log.info("not captured, so the search is run eagerly: %s", reason)


def _next(size: int, sizes: tuple[int, ...]) -> int:
    return min(each for each in sizes if each >= size)


def moving_rotary(model: PreTrainedModel) -> str | None:
    """Return the type of a model's rotary embedding if it depends on the positions at hand, else None."""
    config = model.config.get_text_config()
    parameters = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    layers = [parameters, *(value for value in parameters.values() if isinstance(value, dict))]
    types = [each.get("rope_type", each.get("type")) for each in layers]
    return next((name for name in types if name in MOVING_ROTARY), None)
