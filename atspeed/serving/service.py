"""What lives from the start of the service to its end."""

import asyncio
import itertools
import logging
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from atspeed.recommender import Recommender, ServedCatalog
from atspeed.serving.batcher import Answered, Batcher
from atspeed.serving.catalog_versions import CatalogVersions
from atspeed.serving.problems import ProblemError
from atspeed.serving.service_settings import ServiceSettings

log = logging.getLogger(__name__)

LOADING, WARMING_UP, READY, DRAINING, FAILED = "loading", "warming up", "ready", "draining", "failed"


class Service:
    """Loads a recommender, answers requests in batches, and changes the catalog between two of them.

    Args:
        load: returns the recommender; called in a thread.
        settings: limits and secrets.
        state: folder of the accepted catalog versions; None: they last as long as the process.

    Attributes:
        status: ``loading``, ``warming up``, ``ready``, ``draining`` or ``failed``.
        failure: why it failed.
    """

    def __init__(self, load: Callable[[], Recommender], settings: ServiceSettings, state: Path | None = None) -> None:
        self.settings = settings
        self.status = LOADING
        self.failure: BaseException | None = None
        self.batcher = Batcher(settings.max_batch, settings.max_wait_ms / 1000, settings.max_queue)
        self.metrics = self.batcher.metrics
        self._load = load
        self._state = state
        self._changing = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to load, in the running event loop."""
        self.starting = asyncio.create_task(self._start())
        self._tasks.append(self.starting)

    async def _start(self) -> None:
        start = time.perf_counter()
        try:
            self._recommender = await asyncio.to_thread(self._load)
            self.versions = await asyncio.to_thread(self._read_versions)
            self.status = WARMING_UP
            batching = asyncio.create_task(self.batcher.run(self._recommender))
            batching.add_done_callback(self._on_end)
            self._tasks.append(batching)
            await asyncio.to_thread(warm_up, self._recommender, self.settings.max_batch)
        except Exception as error:
            self._fail(error)
            return
        self._note_catalog()
        if self.status == WARMING_UP:  # it may be draining by now
            self.status = READY
            self.metrics.ready.set(1)
        log.info("ready after %.1f s", time.perf_counter() - start)

    def _on_end(self, batching: asyncio.Task[None]) -> None:
        if not batching.cancelled() and (error := batching.exception()):
            self._fail(error)  # nothing would be answered any more

    def _fail(self, error: BaseException) -> None:
        self.status, self.failure = FAILED, error
        self.metrics.ready.set(0)
        log.error("the service failed: %s", error, exc_info=error)

    def _read_versions(self) -> CatalogVersions:
        bundle = self._recommender.bundle
        versions = CatalogVersions(self._state, bundle.items, bundle.fingerprint)
        if versions.newest > 1:
            self._recommender.served = self._recommender.build(versions.table(versions.newest), versions.newest)
            log.info("catalog version %d is served again", versions.newest)
        return versions

    def drain(self) -> None:
        """Accept no more requests; what was accepted is answered."""
        if self.status != FAILED:
            self.status = DRAINING
        self.metrics.ready.set(0)

    async def stop(self) -> None:
        """Stop answering."""
        self.drain()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def is_loading(self) -> bool:
        """Whether the recommender is still being loaded or warmed up, in a thread that cannot be stopped."""
        return not self.starting.done()

    @property
    def recommender(self) -> Recommender:
        """The recommender.

        Raises:
            ProblemError: 503 if the service is not ready.
        """
        if self.status != READY:
            raise ProblemError(503, f"the service is {self.status}", retry_after=1)
        return self._recommender

    async def answer(self, requests: list, timeout_ms: int | None) -> list[Answered]:
        """Answer requests; see :meth:`Batcher.answer`."""
        longest = self.settings.timeout_ms
        return await self.batcher.answer(requests, min(timeout_ms or longest, longest) / 1000)

    async def change_catalog(self, change: Callable[[pa.Table], pa.Table]) -> ServedCatalog:
        """Serve another catalog, which is built beside the one that is served, then saved, and then takes its place.

        Args:
            change: from the items that are served now to those that are to be served.

        Raises:
            ProblemError: 409 if another change is under way, 422 if the models cannot serve the items.
        """
        recommender = self.recommender
        if self._changing.locked():
            raise ProblemError(409, "another change of the catalog is under way; wait for it", retry_after=1)
        async with self._changing:
            try:
                items = await asyncio.to_thread(change, recommender.served.items)
                served = await asyncio.to_thread(recommender.build, items, self.versions.newest + 1)
            except ValueError as error:
                raise ProblemError(422, str(error)) from error
            await asyncio.to_thread(self.versions.add, items)
            recommender.served = served
            self._note_catalog()
            kept = "in memory only, until the process ends (no state folder)" if self._state is None else "saved"
            log.info("catalog version %d is served: %d items, %s", served.version, served.catalog.num_items, kept)
            return served

    async def roll_back(self, version: int | None) -> ServedCatalog:
        """Serve the items of an older version again, under a new number.

        Args:
            version: its number; the one before the newest if not given.

        Raises:
            ProblemError: see :meth:`change_catalog`.
        """
        older = [number for number in self.versions.known() if number < self.versions.newest]
        if version is None and not older:
            raise ProblemError(422, "this is the first version of the catalog; there is none before it")
        number = older[-1] if version is None else version
        return await self.change_catalog(lambda _: self.versions.table(number))

    def _note_catalog(self) -> None:
        served = self._recommender.served
        self.metrics.catalog_version.set(served.version)
        self.metrics.catalog_items.set(served.catalog.num_items)


def warm_up(recommender: Recommender, max_batch: int) -> None:
    """Answer requests of several lengths in batches of several sizes: first calls take longer than others."""
    served = recommender.served
    names = itertools.cycle(served.catalog.names)
    for batch_size in (1, max_batch):
        for num_items in (1, served.encoder.max_items):
            histories = [[next(names) for _ in range(num_items)] for _ in range(batch_size)]
            recommender.answer([recommender.request(history) for history in histories])
