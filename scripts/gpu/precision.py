"""What a target in low precision answers and takes: float32, bfloat16, and weights in int8 and in float8.

Usage: ``python -m scripts.gpu.precision --run runs/beauty --data ../shared/data/beauty --out results``; writes
``precision.json`` and ``precision.md``. The target of the run is grown to the width of LLaMA-7B, on the CPU, which
takes most of the time; ``--small`` measures it as it was trained. ``--tiny`` runs all of it on a CPU, with random
weights and random items. No GPU has run it yet.
"""

import argparse
import gc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from transformers import PreTrainedModel

from atspeed.benchmark.agreement import Answer, answers_of, overlap, score_gap
from atspeed.benchmark.loading import ModelLoader
from atspeed.benchmark.measurement import ItemsOf, items_by_tokens
from atspeed.benchmark.near_ties import TOLERANCES, count_near_ties, observed_noise
from atspeed.benchmark.reference import reference_for
from atspeed.data import AtSpeedLayout, EmbeddedCatalog, RecommendationData, RequestBatch
from atspeed.decoding import ItemTrie, NoDrafter, SpeculativeDecoder, TrieDrafter
from atspeed.decoding.cost import ModelSize
from atspeed.models import Exported, Grown, ModelSource, NewModel, WeightOnly, dtype_name
from scripts.gpu.measuring import Times, default_device, table, take_times, write_results

LLAMA_7B = {"hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32, "num_key_value_heads": 32}
TINY = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
GENERATE, PLAIN = "generate", "plain"
NOTES = (
    "identical, overlap, gap: share of requests with the same semantic IDs in the same order, share of semantic IDs in "
    "common, largest difference of scores at the same rank",
    "noise: largest difference of the scores of the same semantic ID; near-ties: share of the answers that differ "
    "which do so only in what the reference's own scores keep or drop by less than the noise (docs/benchmark.md)",
    "beside generate: of the same model; the noise is that of plain and trie, at most the tolerance of the dtype",
    "beside float32: plain beam search in float32; noise and near-ties by its scores, rounded weights included",
    "times: of the request of median length, by CUDA events, or wall time on a CPU; weights: what a call reads",
)


@dataclass(frozen=True)
class Agreement:
    """How answers agree with others.

    Attributes:
        identical: share of requests with the same semantic IDs in the same order.
        overlap: share of the other's semantic IDs that are in the answer, a mean over requests.
        score_gap: largest difference of scores at the same rank.
        noise: tolerance of the near-ties.
        differing: how many answers differ.
        near_ties: how many of these differ by near-ties only.
    """

    identical: float
    overlap: float
    score_gap: float
    noise: float
    differing: int
    near_ties: int

    @property
    def cells(self) -> tuple[object, ...]:
        """What the table shows."""
        share = self.near_ties / self.differing if self.differing else None
        return self.identical, self.overlap, self.score_gap, self.noise, share


@dataclass(frozen=True)
class PrecisionRow:
    """A method on a target in one precision.

    Attributes:
        precision: of the linear layers.
        method: generate, plain or trie.
        requests: how many were answered.
        times: of the request of median length.
        weight_gb: bytes of the weights that a call reads, 10⁹.
        beside_generate: agreement with ``transformers.generate`` on the same model; None for that itself.
        beside_float32: agreement with plain beam search in float32; None for that itself.
        illegal: semantic IDs returned that the catalog does not have.
        duplicates: semantic IDs returned that their answer has already.
    """

    precision: str
    method: str
    requests: int
    times: Times
    weight_gb: float
    beside_generate: Agreement | None
    beside_float32: Agreement | None
    illegal: int
    duplicates: int


@dataclass(frozen=True)
class Requests:
    """What is answered, and how many semantic IDs are wanted."""

    data: RecommendationData
    batches: list[RequestBatch]
    trie: ItemTrie
    items_of: ItemsOf
    num_beams: int

    def answerers(self, model: PreTrainedModel) -> dict[str, Callable[[RequestBatch], list[Answer]]]:
        """Return the methods on a model, each a function that answers a batch."""
        reference = reference_for(model, self.data.encoder)
        decoders = {
            PLAIN: SpeculativeDecoder(model, self.trie, NoDrafter()),
            "trie": SpeculativeDecoder(model, self.trie, TrieDrafter(max_nodes=256)),
        }

        def by_decoder(decoder: SpeculativeDecoder) -> Callable[[RequestBatch], list[Answer]]:
            def answer(batch: RequestBatch) -> list[Answer]:
                decoded = decoder(batch.prompts, batch.prompt_mask, self.num_beams)
                return answers_of(self.trie.tokens(decoded.leaves), decoded.scores)

            return answer

        return {
            GENERATE: lambda batch: answers_of(*reference(batch.prompts, batch.prompt_mask, self.num_beams)),
            **{name: by_decoder(decoder) for name, decoder in decoders.items()},
        }

    def agreement(
        self, answers: list[Answer], reference: list[Answer], model: PreTrainedModel, noise: float
    ) -> Agreement:
        """Compare answers with a reference; ``model`` is the reference's, whose scores tell what was nearly a tie."""
        arguments = (self.batches, model, self.trie, self.items_of, self.num_beams, noise)
        pairs = list(zip(answers, reference, strict=True))
        differing = sum(ours.sids != theirs.sids for ours, theirs in pairs)
        return Agreement(
            identical=1 - differing / len(pairs),
            overlap=sum(overlap(*pair) for pair in pairs) / len(pairs),
            score_gap=max(score_gap(*pair) for pair in pairs),
            noise=noise,
            differing=differing,
            near_ties=count_near_ties({"": answers}, reference, *arguments)[""],
        )


def measure(
    requests: Requests, model: PreTrainedModel, exact: tuple[PreTrainedModel, list[Answer]] | None
) -> tuple[list[PrecisionRow], list[Answer]]:
    """Return the rows of a model, and its answers by plain beam search.

    Args:
        requests: what to answer.
        model: the target.
        exact: the target in float32 and its answers by plain beam search; None if this is it.
    """
    methods = requests.answerers(model)
    answers = {name: [one for batch in requests.batches for one in run(batch)] for name, run in methods.items()}
    middle = requests.batches[len(requests.batches) // 2]
    noise = min(max(observed_noise(ours, answers[GENERATE]) for ours in answers.values()), TOLERANCES[model.dtype])
    rows = []
    for name, ours in answers.items():
        beside_float32 = None
        if exact is not None:
            beside_float32 = requests.agreement(ours, exact[1], exact[0], observed_noise(ours, exact[1]))
        elif name != PLAIN:
            beside_float32 = requests.agreement(ours, answers[PLAIN], model, noise)
        returned = [sid for answer in ours for sid in answer.sids]
        rows.append(
            PrecisionRow(
                precision=dtype_name(model),
                method=name,
                requests=len(ours),
                times=take_times(lambda run=methods[name]: run(middle)),
                weight_gb=ModelSize.of(model).bytes / 1e9,
                beside_generate=None if name == GENERATE else requests.agreement(ours, answers[GENERATE], model, noise),
                beside_float32=beside_float32,
                illegal=sum(sid not in requests.items_of for sid in returned),
                duplicates=len(returned) - sum(len({*answer.sids}) for answer in ours),
            )
        )
    return rows, answers[PLAIN]


def markdown(rows: list[PrecisionRow]) -> str:
    """Return the table."""
    compared = ("identical", "overlap", "gap", "noise", "near-ties")
    header = ["precision", "method", "weights, GB", "median ms", "p90 ms", "wall ms"]
    header += [f"{name}, beside {other}" for other in ("generate", "float32") for name in compared]
    cells = []
    for row in rows:
        agreements = (row.beside_generate, row.beside_float32)
        others = [value for one in agreements for value in (one.cells if one else (None,) * len(compared))]
        times = (row.times.median, row.times.p90, row.times.wall)
        cells.append([row.precision, row.method, row.weight_gb, *times, *others, row.illegal, row.duplicates])
    return table([*header, "illegal", "duplicates"], cells)


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--run", type=Path, default=Path("runs/beauty"), help="run folder with a trained target")
    parser.add_argument("--data", default="../shared/data/beauty", help="AtSpeed data that it was trained on")
    parser.add_argument("--layers", type=int, default=16, help="layers to grow to; LLaMA-7B has 32")
    parser.add_argument("--num_beams", type=int, default=20, help="beam width K")
    parser.add_argument("--num_requests", type=int, default=50, help="test users, evenly spread")
    parser.add_argument("--small", action="store_true", help="do not grow the target")
    parser.add_argument("--tiny", action="store_true", help="a random target and random items")
    arguments = parser.parse_args()

    data = RecommendationData(
        EmbeddedCatalog(num_users=40, num_items=200) if arguments.tiny else AtSpeedLayout(Path(arguments.data)),
        max_history=8 if arguments.tiny else 20,
    )
    data.num_test_users = 12 if arguments.tiny else arguments.num_requests
    data.setup("test")
    device = default_device()
    loader = ModelLoader(data, arguments.run, device, torch.get_num_threads())
    batches = data.batches_by_length(data.test_requests(), 1, device)
    items_of = items_by_tokens(data.encoder.spelling.sids)
    requests = Requests(data, batches, loader.trie, items_of, 5 if arguments.tiny else arguments.num_beams)

    base: ModelSource = NewModel("llama", {**TINY, "initializer_range": 0.1}) if arguments.tiny else Exported("target")
    shape = {"hidden_size": 128} if arguments.tiny else {**LLAMA_7B, "num_hidden_layers": arguments.layers}

    def grown(dtype: Literal["float32", "bfloat16"]) -> ModelSource:
        return Grown(base, **({} if arguments.small else shape), dtype=dtype)

    exact_model = loader.load(grown("float32"), data.encoder)
    rows, exact_answers = measure(requests, exact_model, None)
    half = grown("bfloat16")
    for source in (half, WeightOnly(half, "int8"), WeightOnly(half, "float8_e4m3fn")):
        model = loader.load(source, data.encoder)
        rows += measure(requests, model, (exact_model, exact_answers))[0]
        title = f"Precision of the target: K = {requests.num_beams}, {len(batches)} requests one at a time"
        write_results(arguments.out, "precision", title, NOTES, rows, markdown(rows))
        del model
        gc.collect()
    print((arguments.out / "precision.md").read_text())


if __name__ == "__main__":
    main()
