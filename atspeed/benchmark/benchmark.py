"""Side-by-side measurement: every request goes through every method in turn."""

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.progress import track
from torch import Tensor
from transformers import PreTrainedModel

from atspeed.benchmark.draft_coverage import measure_coverage
from atspeed.benchmark.floor import FloorMeter, weight_bytes
from atspeed.benchmark.growth_record import grown_from
from atspeed.benchmark.loading import ModelLoader, pick_device
from atspeed.benchmark.measurement import items_by_tokens
from atspeed.benchmark.method import Method
from atspeed.benchmark.near_ties import tie_tolerance
from atspeed.benchmark.prediction import Predictions, Predictor
from atspeed.benchmark.reference import reference_for
from atspeed.benchmark.report.output import report
from atspeed.benchmark.report.tables import tables_of
from atspeed.benchmark.rows import BenchmarkEnvironment, BenchmarkResult, BenchmarkSetting, CoverageRow
from atspeed.benchmark.side_by_side import SideBySide
from atspeed.checks import require_at_least
from atspeed.data import RecommendationData, RequestBatch
from atspeed.decoding import (
    BoundedTopK,
    ModelDrafter,
    NoDrafter,
    RelaxedSampling,
    SpeculativeDecoder,
    StrictTopK,
)
from atspeed.decoding.cost import ModelSize, measured_cost
from atspeed.models import ModelSource, dtype_name, is_packed, pack_linears
from atspeed.provenance import provenance
from atspeed.recommender.calibration_file import load_calibration
from atspeed.recommender.cost_file import load_costs


@dataclass(frozen=True)
class Loaded:
    """What was loaded for a run.

    Attributes:
        setting: what is measured.
        draft: the draft, if there is one.
        draft_tokens: see :class:`SpeculativeDecoder`.
        compared: all who are compared.
    """

    setting: BenchmarkSetting
    draft: PreTrainedModel | None
    draft_tokens: Tensor | None
    compared: SideBySide


class Benchmark:
    """Measures ``transformers.generate``, plain beam search and speculative methods in one run.

    For each beam width and batch size, every request goes through all methods one after the other, in an order that
    changes from batch to batch. So a slow moment of the machine affects all of them, and none always profits from the
    caches that another leaves. The first batches warm up and do not count. Requests are sorted by length, so that a
    batch has little padding.

    At the largest beam width and the first batch size, the points of three curves (over the draft width, over epsilon
    and over the temperature) are measured too. They use ``ModelDrafter``, and each costs about as much as one more
    method there.

    Args:
        target: the model whose answer counts.
        methods: the speculative methods, name → drafter, verifier and execution. One of the name ``plain`` takes the
            place of plain beam search under ``Eager``, which is measured otherwise: the same under another execution.
        draft: the model of the drafters that need one.
        num_beams: the beam widths K.
        batch_sizes: requests decoded together; a latency is per batch. They replace ``data.batch_size``.
        num_requests: test users, evenly spread over the file, or ``null``: all; replaces ``data.num_test_users``.
        coverage_beams: the draft widths N of the coverage curve, if there is a draft.
        draft_widths: the draft widths N of the curve of target calls under strict verification, if there is a draft.
        epsilons: those of the curve of what bounded verification loses and saves, if there is a draft.
        temperatures: those of the same curve of relaxed verification, if there is a draft; leave it empty for semantic
            IDs of different lengths.
        num_warmup: number of batches to warm up with.
        profiled_batches: on about how many batches to measure phases and floor; 0 leaves them out, and predictions.
        num_threads: CPU threads of torch.
        pack_weights: let the engine run on packed weights (:func:`atspeed.models.pack_linears`). ``hf_generate``
            runs the model as ``transformers`` loads it if its dtype is float32. A bfloat16 target is not copied:
            ``hf_generate`` then runs on the packed weights too, and setting and table say so.
        seed: of the sampling methods, and of the order of methods.
        device: where to run; a GPU if there is one.
        out: the run folder, where models are looked up; ``benchmark`` in it gets ``benchmark.json``, ``report.html``,
            its figures as PNG files, and TensorBoard events with the same figures; ``cost/target.json`` what a target
            call costs.
    """

    def __init__(
        self,
        target: ModelSource,
        methods: dict[str, Method],
        draft: ModelSource | None = None,
        num_beams: tuple[int, ...] = (1, 5, 10, 20),
        batch_sizes: tuple[int, ...] = (1,),
        num_requests: int | None = 100,
        coverage_beams: tuple[int, ...] = (20, 40, 80, 160, 320),
        draft_widths: tuple[int, ...] = (20, 40, 80),
        epsilons: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2),
        temperatures: tuple[float, ...] = (0.25, 0.5, 1.0),
        num_warmup: int = 3,
        profiled_batches: int = 20,
        num_threads: int = 2,
        pack_weights: bool = True,
        seed: int = 0,
        device: str | None = None,
        out: Path = Path("runs/default"),
    ) -> None:
        require_at_least(1, num_requests=num_requests, num_threads=num_threads)
        for name, values in (
            ("num_beams", num_beams),
            ("batch_sizes", batch_sizes),
            ("coverage_beams", coverage_beams),
            ("draft_widths", draft_widths),
        ):
            require_at_least(1, **{f"{name}[{index}]": value for index, value in enumerate(values)})
        self.methods = {"plain": Method(NoDrafter()), **methods}
        plain = self.methods["plain"]
        if not (isinstance(plain.drafter, NoDrafter) and isinstance(plain.verifier, StrictTopK)):
            raise ValueError(
                f"methods.plain is {type(plain.drafter).__name__} with {type(plain.verifier).__name__}; the others are "
                "compared with plain beam search, NoDrafter with StrictTopK: give this method another name"
            )
        self.target_source = target
        self.draft_source = draft
        self.num_beams = num_beams
        self.batch_sizes = batch_sizes
        self.num_requests = num_requests
        self.coverage_beams = coverage_beams
        self.curves = {
            **{f"draft, N = {width}": Method(ModelDrafter(width)) for width in draft_widths},
            **{f"bounded, ε = {value:g}": Method(ModelDrafter(), BoundedTopK(value)) for value in epsilons},
            **{f"relaxed, T = {value:g}": Method(ModelDrafter(), RelaxedSampling(value)) for value in temperatures},
        }
        self.num_warmup = num_warmup
        self.profiled_batches = profiled_batches
        self.num_threads = num_threads
        self.pack_weights = pack_weights
        self.seed = seed
        self.device = pick_device(device)
        self.out = Path(out)

    def run(self, data: RecommendationData) -> BenchmarkResult:
        """Measure, print the tables, write the files and return the content of ``benchmark.json``."""
        from atspeed.benchmark.report.page import write_report  # matplotlib: only where it draws, not in every command

        data.num_test_users = self.num_requests
        data.setup("test")
        loaded = self.load(data)
        requests, rows, predicted = data.test_requests(), [], []
        for batch_size in self.batch_sizes:
            batches = data.batches_by_length(requests, batch_size, self.device)
            for width in self.num_beams:
                with_curves = (batch_size, width) == (self.batch_sizes[0], max(self.num_beams))
                names = [name for name in loaded.compared.decoders if with_curves or name in self.methods]
                measured, predictions = loaded.compared.measure(names, {*self.methods}, width, batch_size, batches)
                rows += measured
                predicted += predictions
        meter = loaded.compared.floor_meter
        result = BenchmarkResult(
            environment=BenchmarkEnvironment(**provenance(self.device), dtype=dtype_name(loaded.compared.target)),
            setting=loaded.setting,
            rows=[row for row in rows if row.method not in self.curves],
            curves=[row for row in rows if row.method in self.curves],
            coverage=self._measure_coverage(loaded, data.batches_by_length(requests, 1, self.device)),
            predictions=Predictions.of(loaded.compared.predictor.cost, predicted),
            copy_gb_per_second=meter.bandwidth / 1e9 if meter else None,
        )
        folder, tables = self.out / "benchmark", tables_of(result)
        report(result, folder / "benchmark.json", tables, write_report(result, tables, folder))
        return result

    def load(self, data: RecommendationData) -> Loaded:
        """Load the models, and put together all who are compared; the data are set up already."""
        loader = ModelLoader(data, self.out, self.device, self.num_threads)
        target = loader.load(self.target_source, data.encoder)
        needs_draft = any(method.drafter.needs_draft for method in self.methods.values())
        draft = loader.load(self.draft_source, data.draft_encoder) if self.draft_source and needs_draft else None
        target_parameters = target.num_parameters()  # counted before packing, which hides them
        draft_parameters = draft.num_parameters() if draft else None
        sizes = ModelSize.of(target), ModelSize.of(draft) if draft else None
        num_bytes = weight_bytes(target), weight_bytes(draft) if draft else 0
        # hf_generate runs the model as transformers loads it, but of a bfloat16 target, large as a rule, there is no
        # second copy.
        reference = target if target.dtype == torch.bfloat16 else copy.deepcopy(target)
        if self.pack_weights:
            for model in (target, draft):
                if model is not None:
                    pack_linears(model)
        setting = BenchmarkSetting(
            run=str(self.out),
            source=type(data.source).__name__,
            items=data.catalog.num_items,
            levels=data.catalog.num_levels,
            target_parameters=target_parameters,
            draft_parameters=draft_parameters,
            pack_weights=self.pack_weights,
            hf_generate_packed=is_packed(reference),
            tie_tolerance=tie_tolerance(target),
            target_grown=grown_from(self.target_source, target, data.encoder.vocabulary, self.out),
            draft_grown=grown_from(self.draft_source, draft, data.draft_encoder.vocabulary, self.out),
        )
        needs_cost = any(method.drafter.needs_cost for method in self.methods.values())
        load_costs(self.out, target, self.target_source, draft if needs_cost else None, self.draft_source)
        load_calibration(draft, self.draft_source, self.target_source, self.out)
        methods = {**self.methods, **(self.curves if draft else {})}
        compared = SideBySide(
            target=target,
            trie=loader.trie,
            items_of=items_by_tokens(data.encoder.spelling.sids),
            reference=reference_for(reference, data.encoder),
            methods=methods,
            decoders={
                name: SpeculativeDecoder(
                    target,
                    loader.trie,
                    method.drafter,
                    method.verifier,
                    draft,
                    draft_tokens=loader.draft_tokens,
                    execution=method.execution,
                )
                for name, method in methods.items()
            },
            predictor=Predictor(measured_cost(target), *sizes),
            floor_meter=FloorMeter(target, draft, *num_bytes) if self.profiled_batches else None,
            tie_tolerance=setting.tie_tolerance,
            num_warmup=self.num_warmup,
            profiled_batches=self.profiled_batches,
            seed=self.seed,
        )
        return Loaded(setting, draft, loader.draft_tokens, compared)

    def _measure_coverage(self, loaded: Loaded, batches: list[RequestBatch]) -> list[CoverageRow]:
        if loaded.draft is None or not self.coverage_beams:
            return []
        tracked = track(batches, "coverage", transient=True)
        return measure_coverage(
            loaded.compared.target,
            loaded.draft,
            loaded.compared.trie,
            loaded.draft_tokens,
            tracked,
            self.num_beams,
            self.coverage_beams,
        )
