"""Dynamic batching: a bounded queue, and one worker thread that answers batches from it."""

import asyncio
import logging
import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

from atspeed.recommender import Answer, Recommender, Request
from atspeed.serving.metrics import Metrics
from atspeed.serving.problems import ProblemError

log = logging.getLogger(__name__)

SMOOTHING = 0.1  # weight of the last batch in the moving average of a request's share of the time


class Answered(NamedTuple):
    """An answer, and what it took.

    Attributes:
        answer: the answer.
        wait_seconds: from arrival to decoding.
        decode_seconds: of its batch.
        batch_size: requests of its batch.
    """

    answer: Answer
    wait_seconds: float
    decode_seconds: float
    batch_size: int


@dataclass(eq=False)
class Job:
    """A request that waits or is being answered; ``answered`` is cancelled when nobody waits for it any more."""

    request: Request
    answered: "asyncio.Future[Answered]"
    arrived: float = field(default_factory=time.perf_counter)


class Batcher:
    """Answers requests in batches, one after the other, in a thread of its own.

    A batch has requests of one method and one version of the catalog: the one that has waited longest, and those whose
    histories are nearest to its history in length. While a batch is decoded, the next one gathers. Where nothing is
    being decoded, a request waits ``max_wait`` for others. The one that has waited longest is always in the next batch,
    so none waits for ever.

    A request leaves the queue when its deadline passes or its connection closes. If a batch fails, its requests are
    retried one by one, so that one that cannot be answered does not take the others with it.

    Everything but the answering runs in the event loop, so nothing needs a lock.

    Args:
        max_batch: most requests of a batch.
        max_wait: seconds.
        max_queue: while so many requests wait, no more are accepted.
    """

    def __init__(self, max_batch: int, max_wait: float, max_queue: int) -> None:
        self.max_batch = max_batch
        self.max_wait = max_wait
        self.max_queue = max_queue
        self.metrics = Metrics(lambda: len(self._queue))
        self._queue: list[Job] = []  # oldest first
        self._decoding: list[Job] = []
        self._arrival = asyncio.Event()
        self._worker = ThreadPoolExecutor(1, "decoder")
        self._seconds_per_request = 0.0

    @property
    def is_idle(self) -> bool:
        """Whether no request waits or is being answered."""
        return not self._queue and not self._decoding

    async def answer(self, requests: Sequence[Request], timeout: float) -> list[Answered]:
        """Answer requests, in their order, all or none.

        Args:
            requests: made by :meth:`Recommender.request`.
            timeout: seconds.

        Raises:
            ProblemError: 429 if they do not fit the queue, 504 if the time is up, 500 if one cannot be answered.
        """
        if len(self._queue) >= self.max_queue:  # a POST of many requests may reach beyond it
            raise ProblemError(
                429,
                f"{len(self._queue)} requests wait, of at most {self.max_queue}; try again later",
                retry_after=max(1, math.ceil(len(self._queue) * self._seconds_per_request)),
            )
        jobs = [Job(request, asyncio.get_running_loop().create_future()) for request in requests]
        self._queue += jobs
        self._arrival.set()
        try:
            async with asyncio.timeout(timeout):
                return list(await asyncio.gather(*(job.answered for job in jobs)))
        except TimeoutError:
            raise ProblemError(
                504, f"not answered within {1000 * timeout:.0f} ms; try again later", retry_after=1
            ) from None
        finally:
            for job in jobs:
                job.answered.cancel()  # nothing happens to those that are done
            self._queue = [job for job in self._queue if not job.answered.cancelled()]

    async def run(self, recommender: Recommender) -> None:
        """Answer what arrives, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._gather()
            self._decoding = self._take()
            if not self._decoding:
                continue
            start = time.perf_counter()
            requests = [job.request for job in self._decoding]
            results = await loop.run_in_executor(self._worker, answer_all, recommender, requests)
            seconds = time.perf_counter() - start
            share = seconds / len(results)
            self._seconds_per_request += SMOOTHING * (share - self._seconds_per_request)
            self.metrics.count_batch([each for each in results if isinstance(each, Answer)], seconds)
            for job, result in zip(self._decoding, results, strict=True):
                self._finish(job, result, start, seconds)
            self._decoding = []

    async def _gather(self) -> None:
        """Return when there is a batch to take."""
        while not self._queue:
            self._arrival.clear()
            await self._arrival.wait()
        full_at = self._queue[0].arrived + self.max_wait
        while self._queue and len(self._matching()) < self.max_batch:
            left = full_at - time.perf_counter()
            if left <= 0:
                return
            self._arrival.clear()
            try:
                await asyncio.wait_for(self._arrival.wait(), left)
            except TimeoutError:
                return

    def _matching(self) -> list[Job]:
        """Return the jobs that may share a batch with the oldest."""
        oldest = self._queue[0].request
        return [job for job in self._queue if job.request.shares_batch(oldest)]

    def _take(self) -> list[Job]:
        """Remove the next batch from the queue."""
        if not self._queue:
            return []
        oldest = self._queue[0].request
        by_length = sorted(self._matching(), key=lambda job: abs(job.request.num_items - oldest.num_items))
        batch = by_length[: self.max_batch]
        taken = set(map(id, batch))
        self._queue = [job for job in self._queue if id(job) not in taken]
        return batch

    def _finish(self, job: Job, result: Answer | Exception, start: float, seconds: float) -> None:
        waited = start - job.arrived
        self.metrics.wait_seconds.observe(waited)
        if job.answered.done():  # nobody waits any more
            return
        if isinstance(result, Exception):
            job.answered.set_exception(ProblemError(500, "this request could not be answered; the log says why"))
        else:
            job.answered.set_result(Answered(result, waited, seconds, len(self._decoding)))


def answer_all(recommender: Recommender, requests: Sequence[Request]) -> list[Answer | Exception]:
    """Answer a batch; if that fails, each of its requests alone.

    Returns:
        an answer for each request, or what was raised when it was answered alone.
    """
    try:
        return list(recommender.answer(requests))
    except Exception as error:
        if len(requests) == 1:
            log.exception("a request could not be answered")
            return [error]
        log.warning("a batch of %d failed, and is retried one by one: %r", len(requests), error)
        return [answer_all(recommender, [request])[0] for request in requests]
