"""What Prometheus reads."""

from collections.abc import Callable, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from atspeed import __version__
from atspeed.recommender import Answer

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The metrics of one app, in a registry of its own.

    Args:
        queue_depth: returns how many requests wait.
    """

    def __init__(self, queue_depth: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()

        def make(cls: Any, name: str, text: str, labels: Sequence[str] = (), **settings: Any) -> Any:
            return cls(f"atspeed_{name}", text, labels, registry=self.registry, **settings)

        self.requests = make(Counter, "requests", "HTTP requests by route, status and outcome", ("route", "status"))
        self.recommendations = make(Counter, "recommendations", "Requests for recommendations by outcome", ("outcome",))
        self.request_seconds = make(Histogram, "request_seconds", "Time of HTTP requests", ("route",), buckets=SECONDS)
        self.wait_seconds = make(Histogram, "wait_seconds", "Time between arrival and decoding", buckets=SECONDS)
        self.decode_seconds = make(Histogram, "decode_seconds", "Time of decoding a batch", buckets=SECONDS)
        self.batch_size = make(Histogram, "batch_size", "Requests of a batch", buckets=SIZES)
        self.target_calls = make(Counter, "target_calls", "Target forward passes, summed over requests")
        self.draft_calls = make(Counter, "draft_calls", "Draft forward passes, summed over requests")
        self.accepted_levels = make(Counter, "accepted_levels", "Levels that came without a target call of their own")
        self.catalog_version = make(Gauge, "catalog_version", "Version of the catalog that is served")
        self.catalog_items = make(Gauge, "catalog_items", "Items of that version")
        self.ready = make(Gauge, "ready", "1 if the service is ready for requests")
        make(Gauge, "queue_depth", "Requests that wait").set_function(queue_depth)
        make(Gauge, "build_info", "Version of atspeed", ("version",)).labels(__version__).set(1)

    def count_batch(self, answers: Sequence[Answer], decode_seconds: float) -> None:
        """Count a batch that was decoded."""
        self.batch_size.observe(len(answers))
        self.decode_seconds.observe(decode_seconds)
        self.target_calls.inc(sum(answer.target_calls for answer in answers))
        self.draft_calls.inc(sum(answer.draft_calls for answer in answers))
        self.accepted_levels.inc(sum(answer.accepted_levels for answer in answers))

    def text(self) -> bytes:
        """Return all metrics in Prometheus's text format."""
        return generate_latest(self.registry)
