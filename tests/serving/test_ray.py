"""What needs no Ray cluster; test_ray_cluster.py has the tests on one."""

import asyncio
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

pytest.importorskip("ray", reason="needs the extra ray")
from ray.serve.schema import ServeDeploySchema

from atspeed.recommender.manifest import check_manifest, write_manifest
from atspeed.serving.problems import ProblemError
from atspeed.serving.ray import build
from atspeed.serving.ray_data import BundleScorer, Scoring, ShardScorer, claim, score_parquet
from tests.recommender.tiny_bundle import write_tiny_bundle

ROOT = Path(__file__).parents[2]
HISTORY = pa.list_(pa.string())


def test_a_batch_keeps_its_columns(worker: ShardScorer) -> None:
    answered = worker.score(pa.table({"history": [["item-3"], []], "weight": [0.5, 1.5]}))
    assert answered.column_names == ["history", "weight", "recommended", "target_calls"]
    assert [len(row) for row in answered["recommended"].to_pylist()] == [2, 2]


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"user": ["x"]}, r"the column history is missing; there are \['user'\]"),
        ({"history": [["item-3"]], "target_calls": [2]}, "a column target_calls already"),
        ({"history": ["item-3"]}, "history 0: the history is 'item-3'; expected a list"),
        ({"history": pa.array([["item-3"], None], HISTORY)}, "history 1: the history is None; expected a list"),
        ({"history": pa.array([["item-3", None]], HISTORY)}, "the history has None; expected names"),
        ({"history": [[3.0]]}, "the history has 3.0; expected names"),
    ],
)
def test_columns_that_are_no_histories_are_refused(bundle: Path, batch: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BundleScorer(Scoring(str(bundle), k=2, skip_unknown_items=True))(pa.table(batch))


class Job:
    """A job of one file, which a worker has answered."""

    def __init__(self, folder: Path, worker: ShardScorer) -> None:
        self.source, self.output, self.worker = folder / "in", folder / "out", worker
        self.source.mkdir()
        self.scoring, worker.output = worker.score.scoring, self.output
        self.write("a", [["item-3"], [], ["item-4"]])
        self.claim()
        self.answer("a")

    def write(self, name: str, histories: list) -> None:
        pq.write_table(pa.table({"history": pa.array(histories, HISTORY)}), self.source / f"{name}.parquet")

    def claim(self) -> None:
        fingerprint = self.worker.score.recommender.bundle.fingerprint
        claim(self.output, sorted(self.source.glob("*.parquet")), self.scoring, fingerprint)

    def answer(self, name: str) -> pa.Table:
        self.worker({"path": [str(self.source / f"{name}.parquet")]})
        return pq.read_table(self.output / f"{name}.parquet")

    def repeat(self) -> int:
        return score_parquet(str(self.source), str(self.output), self.scoring)


@pytest.fixture(scope="module")
def worker(bundle: Path) -> ShardScorer:
    return ShardScorer(Scoring(str(bundle), k=2), check_manifest(bundle, "size"), output="", batch_rows=2)


@pytest.fixture
def job(worker: ShardScorer, tmp_path: Path) -> Job:
    return Job(tmp_path, worker)


def test_a_job_that_is_complete_does_nothing(job: Job) -> None:
    job.scoring = replace(job.scoring, device="cpu")  # which changes no answer
    assert job.repeat() == 0


def another_k(job: Job) -> None:
    job.scoring = replace(job.scoring, k=3)


def another_bundle(job: Job) -> None:
    job.scoring = replace(job.scoring, bundle=str(write_tiny_bundle(job.source.with_name("other"), num_beams=4)))


def output_beside_input(job: Job) -> None:
    job.output = job.source


def another_input(job: Job) -> None:
    before = (job.source / "a.parquet").stat()
    job.write("a", [["item-5"], [], ["item-6"]])
    os.utime(job.source / "a.parquet", ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert (job.source / "a.parquet").stat().st_size == before.st_size


def renamed_input(job: Job) -> None:
    (job.source / "a.parquet").rename(job.source / "c.parquet")


def another_result(job: Job) -> None:
    (job.output / "b.parquet").write_bytes((job.output / "a.parquet").read_bytes())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (another_k, r"results of other settings: k was 2 and is 3\. Repeat the former settings"),
        (another_bundle, "results of other settings: bundle was .* and is"),
        (output_beside_input, "a.parquet is not a result of this job; choose another output"),
        (another_input, "the input of .*a.parquet has changed or gone since it was answered; delete that result"),
        (renamed_input, "the input of .*a.parquet has changed or gone"),
        (another_result, "b.parquet is not a result of this job"),
    ],
)
def test_results_of_something_else_are_refused(job: Job, change: Callable[[Job], None], message: str) -> None:
    change(job)
    with pytest.raises(ValueError, match=message):
        job.repeat()


def test_a_file_that_cannot_be_answered_is_named_and_may_be_mended(job: Job) -> None:
    job.write("b", [["item-3"], [], [], ["nope"]])
    job.claim()
    with pytest.raises(ValueError, match=r"b.parquet, from row 2: history 1: item 'nope' is not in the catalog"):
        job.answer("b")
    assert sorted(file.name for file in job.output.iterdir()) == ["_settings.json", "a.parquet"]
    job.write("b", [])
    job.claim()
    answered = job.answer("b")
    assert answered.num_rows == 0
    assert answered.schema == pq.read_schema(job.output / "a.parquet")
    assert job.repeat() == 0


def test_a_worker_refuses_a_bundle_that_was_replaced(job: Job) -> None:
    with pytest.raises(ValueError, match="was replaced since the job began"):
        ShardScorer(job.scoring, "0" * 64, str(job.output), 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "bundle is missing"),
        ({"bundle": "x", "colour": "red"}, r"no setting 'colour'; there are .*max_batch.*num_gpus"),
        ({"bundle": "x", "max_batch": "many"}, "max_batch is 'many'; expected a number"),
        ({"bundle": "x", "max_batch": "0"}, "max_batch is 0; expected 1 or more"),
        ({"bundle": "x", "token": "secret"}, "no setting 'token'"),
        ({"bundle": "x", "changes_catalog": "true"}, "no setting 'changes_catalog'"),
        ({"bundle": "x", "check": "none"}, "check is 'none'; expected one of full, size"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(arguments)


def test_a_bad_bundle_is_refused_before_replicas_are_replaced(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is no bundle"):
        build({"bundle": str(tmp_path)})
    bundle = write_tiny_bundle(tmp_path / "bundle")
    file = bundle / "recommender.json"
    record = json.loads(file.read_text())
    file.write_text(json.dumps({**record, "verifier": {"class_path": "antigravity.Verifier", "init_args": {}}}))
    write_manifest(bundle)
    with pytest.raises(ValueError, match="outside atspeed"):
        build({"bundle": str(bundle), "trust_code": "false"})


@pytest.mark.filterwarnings("ignore:coroutine")  # Ray's class has an async __del__
def test_ray_is_told_when_the_service_has_failed(bundle: Path) -> None:
    make = build({"bundle": str(bundle)})._bound_deployment.func_or_class

    async def run() -> None:
        replica = make.__new__(make)
        await replica.__init__()
        service = replica.app.state.service
        service.start()
        await service.starting
        replica.check_health()
        service.batcher.max_wait = None  # ends the task that answers
        with pytest.raises(ProblemError, match="not answered within 50 ms"):
            await service.answer([service.recommender.request(["item-3"])], 50)
        with pytest.raises(RuntimeError, match="the service has failed"):
            replica.check_health()
        await service.stop()

    asyncio.run(run())


def test_the_example_config_fits(bundle: Path) -> None:
    config = yaml.safe_load((ROOT / "deploy" / "ray-serve.yaml").read_text())
    (application,) = ServeDeploySchema.model_validate(config).applications
    assert application.import_path == "atspeed.serving.ray:build"
    deployment = build({**application.args, "bundle": str(bundle)})._bound_deployment
    assert deployment.ray_actor_options["num_gpus"] == 1
    assert deployment.max_queued_requests > 0
