"""Offline recommendations on a Ray cluster: Parquet to Parquet, one shard per file."""

import json
import logging
import os
import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from atspeed.checks import require_at_least
from atspeed.files import write_atomically
from atspeed.recommender import Recommender
from atspeed.recommender.answer_columns import ANSWER_FIELDS, answer_record
from atspeed.recommender.manifest import check_manifest

log = logging.getLogger(__name__)

SETTINGS = "_settings.json"  # readers of Parquet folders skip names that begin so
PARTIAL = ".partial"


@dataclass(frozen=True)
class Scoring:
    """How histories are answered; see :meth:`Recommender.recommend` and :meth:`Recommender.load`.

    Attributes:
        bundle: the folder, which every machine of the cluster sees under this path.
        k: how many recommendations.
        exclude_seen: leave out the items of each history; as the bundle says if not given.
        verification: how proposals are verified.
        seed: of a verification that samples.
        skip_unknown_items: leave out items of histories that the catalog does not have.
        device: where the models go.
        dtype: of the models.
        trust_code: run code that comes with a model.
    """

    bundle: str
    k: int | None = None
    exclude_seen: bool | None = None
    verification: str | None = None
    seed: int | None = None
    skip_unknown_items: bool = False
    device: str | None = None
    dtype: str | None = None
    trust_code: bool = False


class BundleScorer:
    """Answers batches of histories, for ``Dataset.map_batches`` with ``batch_format="pyarrow"`` and an actor pool.

    An actor loads the bundle once. The columns of a batch stay; those of the answers (docs/predict.md) are added::

        ray.data.read_parquet("histories").map_batches(
            BundleScorer, fn_constructor_args=[Scoring("/shared/recommender", k=10)], batch_format="pyarrow",
            batch_size=256, compute=ray.data.ActorPoolStrategy(size=4), num_gpus=1,
        )

    Args:
        scoring: the bundle and how it answers.
    """

    def __init__(self, scoring: Scoring) -> None:
        self.scoring = scoring
        self.recommender = Recommender.load(
            scoring.bundle, device=scoring.device, dtype=scoring.dtype, check="size", trust_code=scoring.trust_code
        )

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return a batch with its answers.

        Args:
            batch: with the column ``history``, lists of item names (strings or integers), oldest first.

        Raises:
            ValueError: if there is no such column, the batch has columns named as those of answers, or a history cannot
                be answered.
        """
        if "history" not in batch.column_names:
            raise ValueError(f"the column history is missing; there are {batch.column_names}")
        if taken := [field.name for field in ANSWER_FIELDS if field.name in batch.column_names]:
            raise ValueError(f"there is a column {taken[0]} already, and answers have one of that name; rename it")
        scoring = self.scoring
        answers = self.recommender.recommend(
            batch["history"].to_pylist(),
            scoring.k,
            exclude_seen=scoring.exclude_seen,
            verification=scoring.verification,
            seed=scoring.seed,
            skip_unknown_items=scoring.skip_unknown_items,
        )
        records = [answer_record(answer) for answer in answers]
        for field in ANSWER_FIELDS:
            batch = batch.append_column(field, pa.array([record[field.name] for record in records], field.type))
        return batch


class ShardScorer:
    """Answers whole files, each into one file of the same name that appears when it is complete.

    Args:
        scoring: the bundle and how it answers.
        fingerprint: of the bundle.
        output: folder of the results.
        batch_rows: rows in memory at a time.

    Raises:
        ValueError: if the bundle has another fingerprint: it was replaced since the job began.
    """

    def __init__(self, scoring: Scoring, fingerprint: str, output: str, batch_rows: int) -> None:
        self.score = BundleScorer(scoring)
        if self.score.recommender.bundle.fingerprint != fingerprint:
            raise ValueError(f"{scoring.bundle} was replaced since the job began; put the former bundle back")
        self.output = Path(output)
        self.batch_rows = batch_rows

    def __call__(self, shards: dict[str, Any]) -> dict[str, Any]:
        """Answer the files of ``shards["path"]``, and return how many rows each has."""
        return {"path": shards["path"], "rows": [self._answer(Path(path)) for path in shards["path"]]}

    def _answer(self, source: Path) -> int:
        # another worker may be at the same shard, if it is only believed to be dead: each has a file of its own
        partial = self.output / f".{source.name}.{secrets.token_hex(4)}{PARTIAL}"
        rows = 0
        try:
            tables = self._tables(source)
            first = next(tables)
            with pq.ParquetWriter(partial, first.schema) as writer:
                writer.write_table(first)
                rows += first.num_rows
                for table in tables:
                    writer.write_table(table)
                    rows += table.num_rows
            os.replace(partial, self.output / source.name)
        finally:
            partial.unlink(missing_ok=True)
        return rows

    def _tables(self, source: Path) -> Iterator[pa.Table]:
        with pq.ParquetFile(source) as file:
            start = 0
            for batch in file.iter_batches(self.batch_rows):
                try:
                    answered = self.score(pa.Table.from_batches([batch]))
                except ValueError as error:
                    raise ValueError(f"{source}, from row {start}: {error}") from error
                yield answered
                start += batch.num_rows
            if start == 0:
                yield self.score(file.schema_arrow.empty_table())


def score_parquet(
    source: Path | str,
    output: Path | str,
    scoring: Scoring,
    concurrency: int = 1,
    num_cpus: float = 1,
    num_gpus: float = 0,
    batch_rows: int = 1024,
) -> int:
    """Answer the histories of a folder of Parquet files, on the Ray cluster that this process is connected to.

    A shard is a file: its answers are a file of the same name, which appears when it is complete. Repeating the call
    after whatever was killed skips what is complete, so each row is answered once. Within a call, Ray repeats the
    shards of workers that die. Only one call at a time may write to a folder.

    Args:
        source: folder with ``*.parquet``: the column ``history`` and any others, such as ``user``.
        output: folder of the results, on a file system that all machines share.
        scoring: the bundle and how it answers.
        concurrency: workers, each with the models in memory.
        num_cpus: CPUs of a worker.
        num_gpus: GPUs of a worker.
        batch_rows: rows that a worker has in memory at a time.

    Returns:
        how many shards were answered now.

    Raises:
        ImportError: without the extra ``ray``.
        FileNotFoundError: if there is no bundle or no file.
        ValueError: if ``output`` has something else than results of these files with these settings.
    """
    try:
        import ray.data
    except ModuleNotFoundError as error:
        raise ImportError("score_parquet needs Ray; install it with: pip install 'atspeed[ray]'") from error
    require_at_least(1, concurrency=concurrency, batch_rows=batch_rows)
    # workers may have another working folder
    source, output = Path(source).absolute(), Path(output).absolute()
    scoring = replace(scoring, bundle=str(Path(scoring.bundle).absolute()))
    shards = sorted(source.glob("*.parquet"))
    if not shards:
        raise FileNotFoundError(f"{source} has no *.parquet")
    fingerprint = check_manifest(Path(scoring.bundle), "full")  # once here; workers compare sizes
    claim(output, shards, scoring, fingerprint)
    _remove_partials(output)
    remaining = [str(shard) for shard in shards if not (output / shard.name).is_file()]
    log.info("%d of %d shards are complete", len(shards) - len(remaining), len(shards))
    if not remaining:
        return 0
    done = (
        ray.data.from_items([{"path": path} for path in remaining], override_num_blocks=len(remaining))
        .map_batches(
            ShardScorer,
            fn_constructor_args=[scoring, fingerprint, str(output), batch_rows],
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=concurrency),
            num_cpus=num_cpus,
            num_gpus=num_gpus,
        )
        .take_all()
    )
    _remove_partials(output)
    if unseen := [shard.name for shard in shards if not (output / shard.name).is_file()]:
        raise FileNotFoundError(f"{output} has no {unseen[0]}, which was written: do all machines share this folder?")
    log.info("answered %d histories of %d shards", sum(row["rows"] for row in done), len(done))
    return len(done)


def _remove_partials(output: Path) -> None:
    """Remove what workers that were killed had written."""
    for leftover in output.glob(f".*{PARTIAL}"):
        leftover.unlink(missing_ok=True)


def claim(output: Path, shards: list[Path], scoring: Scoring, fingerprint: str) -> None:
    """Note in the output folder what its results depend on; refuse a folder with results of something else.

    Files without results may come, go and change: a shard that could not be answered is mended and the call repeated.
    """
    described = {**asdict(scoring), "bundle": fingerprint}
    del described["device"], described["trust_code"]  # the answers do not depend on them
    states = {shard: shard.stat() for shard in shards}
    described["shards"] = {shard.name: [state.st_size, state.st_mtime_ns] for shard, state in states.items()}
    file = output / SETTINGS
    found = json.loads(file.read_text()) if file.is_file() else {**described, "shards": {}}
    changed = sorted(name for name in described if name != "shards" and found.get(name) != described[name])
    if changed:
        was = "; ".join(f"{name} was {found.get(name)} and is {described[name]}" for name in changed)
        raise ValueError(
            f"{output} has results of other settings: {was}. Repeat the former settings to go on, or choose another "
            "output"
        )
    for result in sorted(output.glob("*.parquet")):
        if result.name not in found["shards"]:
            raise ValueError(f"{result} is not a result of this job; choose another output")
        if found["shards"][result.name] != described["shards"].get(result.name):
            raise ValueError(
                f"the input of {result} has changed or gone since it was answered; delete that result to answer it "
                "anew, or choose another output"
            )
    output.mkdir(parents=True, exist_ok=True)
    write_atomically(file, lambda partial: partial.write_text(json.dumps(described, indent=2) + "\n"))
