"""What the benchmarks measure, as records.

The JSON files hold these records field by field, in this order. Times are wall times; a batch is the unit of latency.
"""

from dataclasses import dataclass
from typing import Any

from atspeed.benchmark.growth_record import GrownFrom
from atspeed.benchmark.method_row import MethodRow
from atspeed.benchmark.prediction import Predictions


@dataclass(frozen=True)
class Environment:
    """Where a benchmark ran; the fields of :func:`atspeed.provenance.provenance`."""

    command: list[str]
    commit: str | None
    python: str
    versions: dict[str, str]
    device: str
    threads: int


@dataclass(frozen=True)
class BenchmarkEnvironment(Environment):
    """As :class:`Environment`, with the dtype of the target's linear layers, ``float32`` for example."""

    dtype: str


@dataclass(frozen=True)
class CoverageRow:
    """Share of requests whose ``num_beams`` target beams at a level all lie in the draft's best ``draft_beams``.

    Level 0 has the prefixes of one code.
    """

    level: int
    num_beams: int
    draft_beams: int
    coverage: float


@dataclass(frozen=True)
class BenchmarkSetting:
    """What ``benchmark`` measured: run folder, data source, catalog and models.

    Attributes:
        pack_weights: the setting: whether the engine was to run on packed weights.
        hf_generate_packed: whether ``hf_generate`` ran on packed weights, which it shares with the engine if the target
            is in bfloat16.
        tie_tolerance: by how much rounding may change a score in a near-tie; None in float32 on a CPU, where strict
            answers must be those of ``hf_generate``.
        target_grown: how the target was made, if it was grown from a smaller one.
        draft_grown: the same for the draft.
    """

    run: str
    source: str
    items: int
    levels: int
    target_parameters: int
    draft_parameters: int | None
    pack_weights: bool
    hf_generate_packed: bool = False
    tie_tolerance: float | None = None
    target_grown: GrownFrom | None = None
    draft_grown: GrownFrom | None = None


@dataclass(frozen=True)
class BenchmarkResult:
    """The content of ``benchmark.json``.

    Attributes:
        environment: where it ran.
        setting: what was measured.
        rows: by batch size, then beam width, then method.
        curves: points over the draft width, over epsilon and over the temperature, at the largest beam width and first
            batch size.
        coverage: of the draft; empty without a draft.
        predictions: what the cost of a call says of the strict rows.
        copy_gb_per_second: 10⁹ bytes per second, read and written, of a large copy on the device, by which the floor
            goes; None where no batch is profiled.
    """

    environment: BenchmarkEnvironment
    setting: BenchmarkSetting
    rows: list[MethodRow]
    curves: list[MethodRow]
    coverage: list[CoverageRow]
    predictions: Predictions
    copy_gb_per_second: float | None

    @property
    def batch_size(self) -> int:
        """The first batch size, which the figures show."""
        return self.rows[0].batch_size

    @property
    def num_beams(self) -> int:
        """The largest beam width, which most figures show."""
        return max(row.num_beams for row in self.rows)

    @property
    def main_rows(self) -> list[MethodRow]:
        """The rows of the largest beam width and the first batch size."""
        setting = self.num_beams, self.batch_size
        return [row for row in self.rows if (row.num_beams, row.batch_size) == setting]


@dataclass(frozen=True)
class DraftRow:
    """A draft with one method at one beam width.

    Attributes:
        draft: name of the draft.
        method: name of the method.
        num_beams: beam width K.
        target_calls: target forward passes per request.
        accepted_levels: accepted levels per target call.
        recall: Recall@K over all true items, a mean over users.
        difference: mean over requests of this draft's target calls less those of the first draft.
        interval: half the width of its 95 % confidence interval.
    """

    draft: str
    method: str
    num_beams: int
    target_calls: float
    accepted_levels: float
    recall: float
    difference: float
    interval: float


@dataclass(frozen=True)
class DraftCoverageRow:
    """As :class:`CoverageRow`, for one of several drafts."""

    draft: str
    level: int
    num_beams: int
    draft_beams: int
    coverage: float


@dataclass(frozen=True)
class ComparisonSetting:
    """On what ``benchmark-alignment`` compared drafts."""

    run: str
    items: int
    requests: int


@dataclass(frozen=True)
class ComparisonResult:
    """The content of ``alignment.json``."""

    environment: Environment
    setting: ComparisonSetting
    rows: list[DraftRow]
    coverage: list[DraftCoverageRow]


@dataclass(frozen=True)
class CandidateRow:
    """A candidate in a round of ``tune``.

    Attributes:
        round: ``first round`` or ``final``.
        candidate: name of the candidate.
        drafter: what a config says of its drafter: ``class_path`` and ``init_args``.
        batches: batches measured.
        latency_ms: milliseconds per batch, the median.
        speedup_vs_plain: median, over batches, of the time of plain beam search over this candidate's.
        interval: 95 % confidence interval of that median; None with fewer than six batches.
        target_calls: target forward passes per request.
        draft_calls: draft forward passes per request.
    """

    round: str
    candidate: str
    drafter: dict[str, Any]
    batches: int
    latency_ms: float
    speedup_vs_plain: float
    interval: tuple[float, float] | None
    target_calls: float
    draft_calls: float


@dataclass(frozen=True)
class TuneSetting:
    """On what ``tune`` measured."""

    run: str
    source: str
    items: int
    num_beams: int
    batch_size: int
    requests: int


@dataclass(frozen=True)
class TuneResult:
    """The content of ``tune.json``; ``chosen`` is the name of a candidate."""

    environment: Environment
    setting: TuneSetting
    rows: list[CandidateRow]
    chosen: str


@dataclass(frozen=True)
class CatalogRow:
    """A catalog of random items.

    Attributes:
        items: number of items.
        nodes: nodes of their trie.
        build_seconds: time to build the trie.
        build_peak_gb: peak memory of the process that built it, with all libraries and the items, 10⁹ bytes.
        bytes_a_node: memory of the trie's arrays per node.
        filter_ms: time to turn a boolean over items into one over nodes.
        plain_ms: milliseconds per request outside the model's forward passes, with ``NoDrafter``.
        trie_ms: the same with ``TrieDrafter``.
    """

    items: int
    nodes: int
    build_seconds: float
    build_peak_gb: float
    bytes_a_node: float
    filter_ms: float
    plain_ms: float
    trie_ms: float


@dataclass(frozen=True)
class CatalogsResult:
    """The content of ``catalogs.json``."""

    environment: Environment
    rows: list[CatalogRow]
