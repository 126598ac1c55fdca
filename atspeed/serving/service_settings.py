"""Limits and secrets of the service."""

from dataclasses import dataclass

from atspeed.checks import require_at_least
from atspeed.serving.schemas import MOST_REQUESTS


@dataclass(frozen=True)
class ServiceSettings:
    """How the service treats requests.

    Attributes:
        max_batch: most requests of a batch.
        max_wait_ms: how long a request waits for others when the device is idle.
        max_queue: while so many requests wait, others get 429. What waits is latency: with a queue of one batch, an
            accepted request waits for two batches at most before its own.
        timeout_ms: deadline of a request that names none, and the longest that it may name; past it, 504.
        max_requests: most requests of one POST, at most 1,024.
        max_history: most items of a history; a prompt has the last ones.
        max_listed: most items that a request allows or denies, values that its ``where`` has, or items that a change of
            the catalog names.
        max_body_bytes: of a POST, but for changes of the catalog; more is 413.
        max_catalog_body_bytes: of a change of the catalog.
        body_timeout_s: how long the body of a POST may take to arrive; longer is 408.
        log_histories: whether log lines have the histories of requests.
        changes_catalog: whether this process may change its catalog; not where it is one of several replicas.
        token: what clients must send, if anything.
        catalog_token: what changes of the catalog need; they are off without it.

    Raises:
        ValueError: if a limit is out of range.
    """

    max_batch: int = 16
    max_wait_ms: float = 2.0
    max_queue: int = 16
    timeout_ms: int = 5000
    max_requests: int = 64
    max_history: int = 1000
    max_listed: int = 10_000
    max_body_bytes: int = 1_000_000
    max_catalog_body_bytes: int = 50_000_000
    body_timeout_s: float = 10.0
    log_histories: bool = False
    changes_catalog: bool = True
    token: str | None = None
    catalog_token: str | None = None

    def __post_init__(self) -> None:
        names = ("max_batch", "max_queue", "timeout_ms", "max_requests", "max_history", "max_listed")
        require_at_least(1, **{name: getattr(self, name) for name in names})
        if self.max_requests > MOST_REQUESTS:
            raise ValueError(f"max_requests is {self.max_requests}; expected {MOST_REQUESTS} or less")
        require_at_least(1, max_body_bytes=self.max_body_bytes, max_catalog_body_bytes=self.max_catalog_body_bytes)
        require_at_least(0, max_wait_ms=self.max_wait_ms, body_timeout_s=self.body_timeout_s)
