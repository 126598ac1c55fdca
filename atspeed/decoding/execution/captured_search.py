"""The rounds of a search for one shape of requests, with fixed shapes throughout."""

import logging
import time
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import Cache, DynamicCache

from atspeed.decoding.cuda_graphs import warm_up
from atspeed.decoding.execution.execution import Engine, Requests
from atspeed.decoding.execution.fixed_catalog import FixedCatalog
from atspeed.decoding.execution.fixed_scorer import FixedScorer
from atspeed.decoding.execution.operation_counter import OperationCounter
from atspeed.decoding.execution.slot_cache import slot_cache
from atspeed.decoding.search import Decoded, Progress, run_round

log = logging.getLogger(__name__)


class Shape(NamedTuple):
    """The shape of a batch of requests.

    Attributes:
        batch_size: B.
        prompt_length: P.
        draft_prompt_length: of the prompts that the draft reads; 0 without a draft.
        num_beams: K.
    """

    batch_size: int
    prompt_length: int
    draft_prompt_length: int
    num_beams: int


@dataclass(frozen=True)
class Capture:
    """What capturing a shape took.

    Attributes:
        shape: the shape.
        seconds: of warm-up and capture.
        slots: of the target's key-value cache, per request, for the prompt and the nodes of all rounds.
        draft_slots: of the draft's.
        operations: tensor operations of each round, in its order, outside the models.
        is_graph: whether rounds are CUDA graphs; on a CPU they are run as they are.
    """

    shape: Shape
    seconds: float
    slots: int
    draft_slots: int
    operations: tuple[int, ...]
    is_graph: bool


class _Round(NamedTuple):
    """What a round leaves; under CUDA graphs, the same tensors at each replay.

    Attributes:
        target: the target's scorer.
        draft: the draft's, if there is a draft.
        progress: where the search stands.
        answers: the semantic IDs found so far.
        is_open: whether a request needs another round, ``[]``, bool.
        may_end: whether that can be False before the last round.
    """

    target: FixedScorer
    draft: FixedScorer | None
    progress: Progress
    answers: Decoded
    is_open: Tensor
    may_end: bool


class CapturedSearch:
    """Searches for batches of one shape: each round is one CUDA graph, or, on a CPU, the same function as it is.

    All that changes from batch to batch is copied into tensors that stay where they are: the requests, what they allow,
    and the catalog. A request that is done stays in the batch and does nothing.

    Args:
        engine: who answers.
        shape: of the requests; smaller batches and shorter prompts are padded to it.
        catalog: that of the engine, with room for others.
    """

    def __init__(self, engine: Engine, shape: Shape, catalog: FixedCatalog) -> None:
        start = time.perf_counter()
        self._engine, self._shape, self._device = engine, shape, engine.target.device
        self._catalog = catalog
        self._drafter = engine.drafter.with_fixed_widths(
            shape.num_beams, shape.batch_size, shape.prompt_length, engine.trie
        )
        self._inputs = _no_requests(shape, self._device)
        self._allowed = catalog.trie.in_room(None).repeat(shape.batch_size, 1)
        self._is_real = torch.ones(shape.batch_size, dtype=torch.bool, device=self._device)
        self._caches: tuple[Cache, Cache] = DynamicCache(), DynamicCache()
        self._graphs: list[tuple[torch.cuda.CUDAGraph, _Round]] = []
        operations = self._count_operations()  # the caches grow, and then have the sizes that are needed
        slots, draft_slots = (cache.get_seq_length() for cache in self._caches)
        self._caches = slot_cache(self._caches[0]), slot_cache(self._caches[1])
        if self._device.type == "cuda":
            self._capture()
        seconds = time.perf_counter() - start
        self.capture = Capture(shape, seconds, slots, draft_slots, operations, is_graph=bool(self._graphs))
        log.info("%s", self.capture)

    def answer(self, requests: Requests) -> Decoded:
        """Answer requests that fit the shape, from the catalog that is in place."""
        self._copy(requests)
        done: _Round | None = None
        for number in range(self._engine.trie.num_calls):
            if done is not None and done.may_end and not done.is_open:  # the one question to the device
                break
            done = self._replay(number, done)
        assert done is not None
        answers, count = done.answers, len(requests.prompts)
        tensors: dict[str, Any] = {name: part for name, part in vars(answers).items() if isinstance(part, Tensor)}
        return replace(answers, **{name: part[:count].clone() for name, part in tensors.items()})

    def _copy(self, requests: Requests) -> None:
        """Copy requests in: padded on the left, and the last one once more for each that is missing."""
        count = len(requests.prompts)
        pairs = [
            (self._inputs.prompts, requests.prompts),
            (self._inputs.prompt_mask, requests.prompt_mask),
            (self._inputs.seeds, requests.seeds),
            (self._allowed, self._catalog.trie.in_room(requests.allowed)),
        ]
        if self._engine.draft is not None:
            pairs.append((self._inputs.draft_prompts, requests.draft_prompts))
            pairs.append((self._inputs.draft_prompt_mask, requests.draft_prompt_mask))
        for mine, theirs in pairs:
            if mine.ndim == 2 and (missing := mine.shape[1] - theirs.shape[1]):
                mine[:, :missing] = 0
                mine = mine[:, missing:]
            mine[:count] = theirs
            mine[count:] = theirs[-1:]
        self._is_real.copy_(torch.arange(len(self._is_real), device=self._device) < count)

    def _count_operations(self) -> tuple[int, ...]:
        """Search once, and return the number of operations of each round."""
        models = [model for model in self._engine[:2] if model is not None]
        operations, done = [], None
        for number in range(self._engine.trie.num_calls):
            with OperationCounter(models) as counter:
                done = self._run(number, done)
            operations.append(counter.operations)
        return tuple(operations)

    def _capture(self) -> None:
        """Make a CUDA graph of each round, in an order in which they can share their memory: that of a search."""
        warm_up(self._run_all)
        done = None
        pool = torch.cuda.graph_pool_handle()
        for number in range(self._engine.trie.num_calls):
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool):
                done = self._run(number, done)
            self._graphs.append((graph, done))

    def _run_all(self) -> None:
        done = None
        for number in range(self._engine.trie.num_calls):
            done = self._run(number, done)

    def _replay(self, number: int, before: _Round | None) -> _Round:
        if not self._graphs:
            return self._run(number, before)
        graph, done = self._graphs[number]
        graph.replay()
        return done

    def _run(self, number: int, before: _Round | None) -> _Round:
        """Run a round, the first one from the requests that were copied in; nothing in it asks the device."""
        if number == 0 or before is None:
            target, draft, progress = self._begin()
        else:
            target, draft, progress = before[:3]
        target.trie = self._catalog.trie[number]
        if draft is not None and self._catalog.draft_trie is not None:
            draft.trie = self._catalog.draft_trie[number]
        progress = run_round(progress, target, draft, self._drafter, self._engine.verifier, self._inputs.seeds)
        answers, beams, is_open = progress.answers(target, draft), progress.beams, progress.beams.is_open
        return _Round(
            target,
            draft,
            progress._replace(
                beams=beams._replace(
                    nodes=beams.nodes * is_open[:, None],
                    scores=beams.scores.masked_fill(~is_open[:, None], -torch.inf),
                )
            ),
            # scorers add to their lists
            replace(answers, target_shapes=[*answers.target_shapes], draft_shapes=[*answers.draft_shapes]),
            is_open=(is_open & self._is_real).any(),
            may_end=not (target.only_beams and target.trie.has_one_length),
        )

    def _begin(self) -> tuple[FixedScorer, FixedScorer | None, Progress]:
        engine, inputs = self._engine, self._inputs
        for cache in self._caches:
            cache.reset()
        prompts, allowed = (inputs.prompts, inputs.prompt_mask), self._allowed
        trie, draft_trie = self._catalog.trie[0], self._catalog.draft_trie
        target = FixedScorer(engine.target, trie, *prompts, engine.normalize, allowed, self._caches[0])
        draft = None
        if engine.draft is not None and draft_trie is not None:
            prompts = inputs.draft_prompts, inputs.draft_prompt_mask
            draft = FixedScorer(engine.draft, draft_trie[0], *prompts, "allowed", allowed, self._caches[1])
        shape = self._shape
        return target, draft, Progress.at_root(shape.batch_size, shape.num_beams, trie, self._device)


def _no_requests(shape: Shape, device: torch.device) -> Requests:
    """Return tensors for requests."""

    def prompts(length: int) -> tuple[Tensor, Tensor]:
        tokens = torch.zeros(shape.batch_size, length, dtype=torch.long, device=device)
        return tokens, torch.ones_like(tokens, dtype=torch.bool)

    seeds = torch.zeros(shape.batch_size, dtype=torch.long, device=device)
    return Requests(*prompts(shape.prompt_length), *prompts(shape.draft_prompt_length), allowed=None, seeds=seeds)
