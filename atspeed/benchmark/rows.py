"""What the benchmarks measure, as records.

The JSON files hold these records field by field, in this order. Times are wall times; a batch is the unit of latency.
"""

from dataclasses import dataclass
from typing import Any

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
    """As :class:`Environment`, with the dtype of the target, ``float32`` for example."""

    dtype: str


@dataclass(frozen=True)
class Latency:
    """Milliseconds per batch."""

    median: float
    mean: float
    p90: float


@dataclass(frozen=True)
class MethodRow:
    """A method at one beam width and batch size; None where a column does not apply.

    Attributes:
        method: name of the method.
        drafter: class of the drafter; None for ``transformers.generate``.
        draft_beams: draft width N of a ``ModelDrafter``.
        verification: ``strict``, ``bounded``, ``relaxed`` or ``lossless``; None for ``transformers.generate``.
        temperature: of a sampling verifier.
        epsilon: of ``BoundedTopK``.
        num_beams: beam width K.
        batch_size: requests decoded together.
        requests: requests measured.
        latency_ms: milliseconds per batch.
        requests_per_second: requests over the time of all batches.
        speedup_vs_hf: median, over batches, of the time of ``transformers.generate`` over this method's.
        speedup_vs_plain: the same for plain beam search by this engine.
        total_speedup_vs_hf: time of all batches of ``transformers.generate`` over this method's.
        target_calls: target forward passes per request; None for ``transformers.generate``, which does not count them.
        draft_calls: draft forward passes per request.
        accepted_levels: accepted levels per target call.
        acceptance_rate: accepted levels over drafted levels; None where nothing was drafted.
        acceptance_by_level: the same for each level but the last.
        identical_to_hf: share of requests with the answer of ``transformers.generate``; None for bounded and sampling
            verifiers.
        near_ties: how many of the requests with another answer differ by near-ties only
            (:func:`atspeed.benchmark.agreement.is_near_tie`); None likewise.
        max_score_gap: largest difference of log-probabilities at the same rank; None likewise.
        overlap_with_hf: share of the semantic IDs of ``transformers.generate`` that the method returns too, in any
            order; a mean over requests.
        overlap_with_plain: the same for plain beam search, whose answers are those of strict verification.
        exact_share: share of an answer that is certainly that of strict verification, a mean over requests; None
            unless verification is bounded.
        illegal_rate: share of the semantic IDs returned that the catalog does not have.
        duplicate_rate: share of the semantic IDs returned that their answer has already.
        recall: Recall@K over all true items, a mean over users.
        recall_error: standard error of that mean; None for one request.
        recall_difference: mean over users of this method's recall less that of plain beam search.
        recall_difference_interval: half the width of its 95 % confidence interval; None for one request.
        ndcg: NDCG@K, a mean over users.
        ndcg_error: its standard error, as ``recall_error``.
        ndcg_difference: as ``recall_difference``.
        ndcg_difference_interval: as ``recall_difference_interval``.
        phases_ms: milliseconds per batch of each phase; None for points of a curve and ``transformers.generate``.
        trie_target_calls: for a method with a draft, the fewest target calls of a strict ``TrieDrafter`` method.
    """

    method: str
    drafter: str | None
    draft_beams: int | None
    verification: str | None
    temperature: float | None
    epsilon: float | None
    num_beams: int
    batch_size: int
    requests: int
    latency_ms: Latency
    requests_per_second: float
    speedup_vs_hf: float
    speedup_vs_plain: float
    total_speedup_vs_hf: float
    target_calls: float | None
    draft_calls: float | None
    accepted_levels: float | None
    acceptance_rate: float | None
    acceptance_by_level: tuple[float | None, ...]
    identical_to_hf: float | None
    near_ties: int | None
    max_score_gap: float | None
    overlap_with_hf: float
    overlap_with_plain: float
    exact_share: float | None
    illegal_rate: float
    duplicate_rate: float
    recall: float
    recall_error: float | None
    recall_difference: float
    recall_difference_interval: float | None
    ndcg: float
    ndcg_error: float | None
    ndcg_difference: float
    ndcg_difference_interval: float | None
    phases_ms: dict[str, float] | None
    trie_target_calls: float | None


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
class GrownFrom:
    """How a model was made from a small, trained one (:class:`atspeed.models.Grown`), whose function it computes.

    Attributes:
        base: source of the small model, such as ``Exported(stage='target')``.
        base_parameters: its parameters.
        base_shape: its sizes, by their name in the configuration.
        shape: those that it was grown to.
    """

    base: str
    base_parameters: int
    base_shape: dict[str, int]
    shape: dict[str, int]

    def __str__(self) -> str:
        """Return a clause that a sentence on the model can end with."""
        sizes = ", ".join(
            f"{name} {self.base_shape[name]} → {size}" if size != self.base_shape[name] else f"{name} {size}"
            for name, size in self.shape.items()
        )
        return (
            f"grown from {self.base} of {self.base_parameters / 1e6:.1f} M parameters ({sizes}); the function is that "
            "of the small model"
        )


@dataclass(frozen=True)
class BenchmarkSetting:
    """What ``benchmark`` measured: run folder, data source, catalog and models.

    Attributes:
        pack_weights: the setting: whether the engine was to run on packed weights.
        tie_tolerance: by how much two scores may differ in a near-tie.
        hf_generate_packed: whether ``hf_generate`` ran on packed weights, which it shares with the engine if the target
            is in bfloat16.
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
    tie_tolerance: float
    hf_generate_packed: bool = False
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
    """

    environment: BenchmarkEnvironment
    setting: BenchmarkSetting
    rows: list[MethodRow]
    curves: list[MethodRow]
    coverage: list[CoverageRow]
    predictions: Predictions

    @property
    def claims_equality(self) -> bool:
        """Whether strict answers must be those of ``transformers.generate``: in float32 on a CPU, not elsewhere."""
        return self.environment.dtype == "float32" and self.environment.device.startswith("cpu")

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
