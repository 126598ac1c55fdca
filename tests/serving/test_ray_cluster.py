"""The service and offline scoring on a local Ray cluster of two worker nodes."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from atspeed.recommender import Recommender
from tests.recommender.tiny_bundle import write_tiny_bundle
from tests.serving.running import RECOMMENDATIONS, problem, wait_until

ray = pytest.importorskip("ray", reason="needs the extra ray")
from ray import serve  # noqa: E402
from ray._private.state import actors  # noqa: E402
from ray.cluster_utils import Cluster  # noqa: E402

from atspeed.serving.ray import NAME, build  # noqa: E402
from atspeed.serving.ray_data import Scoring, score_parquet  # noqa: E402

HISTORIES = [[f"item-{(7 * row + step) % 140}" for step in range(row % 6)] for row in range(30)]
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    PORT = free.getsockname()[1]
pytestmark = [pytest.mark.distributed, pytest.mark.nightly]  # a cluster takes 10 seconds to start


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Two worker nodes of one CPU, and a head without any."""
    before = dict(os.environ)
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_TQDM="0", OMP_NUM_THREADS="1")
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[2])
    size = {"object_store_memory": 80_000_000}
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **size})
    for _ in range(2):
        nodes.add_node(num_cpus=1, **size)
    ray.init(address=nodes.address, log_to_driver=False, logging_level="ERROR")
    yield
    serve.shutdown()
    ray.shutdown()
    nodes.shutdown()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(autouse=True)
def environment(cluster: None) -> Iterator[None]:
    """What Ray sets in a test is set back, so that a test leaves no trace."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def write_shards(folder: Path, num_shards: int, repeat: int = 1) -> list[tuple[str, list[str]]]:
    folder.mkdir()
    rows = [(f"u{row}", history) for row, history in enumerate(HISTORIES * repeat)]
    for shard in range(num_shards):
        users, histories = zip(*rows[shard::num_shards], strict=True)
        table = pa.table({"user": users, "history": pa.array(histories, pa.list_(pa.string()))})
        pq.write_table(table, folder / f"part-{shard}.parquet")
    return rows


def check_results(folder: Path, rows: list[tuple[str, list[str]]], recommender: Recommender) -> None:
    """Check that each row is there once, with the answer of the recommender."""
    table = pq.read_table(folder)
    assert table.column_names == ["user", "history", "recommended", "target_calls"]
    found = {row["user"]: row for row in table.to_pylist()}
    assert len(found) == table.num_rows == len(rows)
    expected = recommender.recommend(HISTORIES, k=3)
    for number, (user, history) in enumerate(rows):
        answer = expected[number % len(HISTORIES)]
        assert found[user]["history"] == history
        assert [each["sid"] for each in found[user]["recommended"]] == [each.sid for each in answer.recommended]
        scores = [each.score for each in answer.recommended]
        assert [each["score"] for each in found[user]["recommended"]] == pytest.approx(scores, abs=1e-4)
    assert not list(folder.glob(".*partial"))


def test_files_are_answered_shard_by_shard(bundle: Path, recommender: Recommender, tmp_path: Path) -> None:
    rows = write_shards(tmp_path / "in", 3)
    out, scoring = tmp_path / "out", Scoring(str(bundle), k=3)
    assert score_parquet(tmp_path / "in", out, scoring, concurrency=2, batch_rows=4) == 3
    check_results(out, rows, recommender)
    (out / "part-1.parquet").unlink()
    (out / ".part-1.parquet.beef.partial").write_text("killed here")
    assert score_parquet(tmp_path / "in", out, scoring) == 1
    check_results(out, rows, recommender)
    assert score_parquet(tmp_path / "in", out, scoring) == 0
    with pytest.raises(ValueError, match="has results of other settings: k was 3 and is 2"):
        score_parquet(tmp_path / "in", out, Scoring(str(bundle), k=2))
    with pytest.raises(FileNotFoundError, match=r"has no \*.parquet"):
        score_parquet(tmp_path, out, scoring)
    with pytest.raises(FileNotFoundError, match="is no bundle"):
        score_parquet(tmp_path / "in", out, Scoring(str(tmp_path), k=2))
    with pytest.raises(ValueError, match="batch_rows is 0; expected 1 or more"):
        score_parquet(tmp_path / "in", out, scoring, batch_rows=0)


def workers(name: str) -> list[int]:
    """Process ids of this cluster's actors of a class; ray.util.state would need a dashboard."""
    found = [actor for actor in actors().values() if actor["State"] == "ALIVE"]
    return [actor["Pid"] for actor in found if name in actor["ActorClassName"]]


def test_a_worker_killed_in_the_middle_of_a_shard(bundle: Path, recommender: Recommender, tmp_path: Path) -> None:
    rows = write_shards(tmp_path / "in", 2, repeat=40)
    out = tmp_path / "out"
    with ThreadPoolExecutor(1) as pool:
        scoring = Scoring(str(bundle), k=3)
        job = pool.submit(score_parquet, tmp_path / "in", out, scoring, concurrency=1, batch_rows=8)
        wait_until(lambda: bool(list(out.glob(".*partial"))), 60)
        time.sleep(0.3)
        (worker,) = workers("MapWorker")
        os.kill(worker, signal.SIGKILL)
        job.result(300)
    check_results(out, rows, recommender)


def test_a_job_killed_as_a_whole_goes_on(bundle: Path, recommender: Recommender, tmp_path: Path) -> None:
    rows = write_shards(tmp_path / "in", 4, repeat=20)
    out = tmp_path / "out"
    code = (
        "import ray, sys\nfrom pathlib import Path\nfrom atspeed.serving.ray_data import Scoring, score_parquet\n"
        f"ray.init(address={ray.get_runtime_context().gcs_address!r}, log_to_driver=False)\n"
        f"score_parquet(Path({str(tmp_path / 'in')!r}), Path({str(out)!r}), Scoring({str(bundle)!r}, k=3),"
        " batch_rows=8)"
    )
    job = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: len(list(out.glob("part-*.parquet"))) >= 1, 180)
    job.kill()
    job.wait()
    done = {file.name: file.stat().st_mtime_ns for file in out.glob("part-*.parquet")}
    assert 1 <= len(done) < 4
    time.sleep(2)  # Ray ends the workers of the job that is gone
    score_parquet(tmp_path / "in", out, Scoring(str(bundle), k=3), batch_rows=64)
    check_results(out, rows, recommender)
    assert all((out / name).stat().st_mtime_ns == stamp for name, stamp in done.items())
    assert json.loads((out / "_settings.json").read_text())["k"] == 3


def deploy(bundle: Path, **arguments: Any) -> None:
    serve.run(build({"bundle": str(bundle), **arguments}), name=NAME, route_prefix="/")


@pytest.fixture(scope="module")
def client(cluster: None, bundle: Path) -> Iterator[httpx.Client]:
    """A client of two replicas."""
    serve.start(http_options={"host": "127.0.0.1", "port": PORT}, proxy_location="HeadOnly")
    deploy(bundle, min_replicas="2")
    with httpx.Client(base_url=f"http://127.0.0.1:{PORT}", timeout=30) as client:
        yield client


def test_a_replica_answers_and_keeps_its_catalog(client: httpx.Client, recommender: Recommender) -> None:
    asked = {"history": HISTORIES[5], "k": 3}
    response = client.post(RECOMMENDATIONS, json=asked, headers={"X-Request-ID": "mine"})
    (expected,) = recommender.recommend([HISTORIES[5]], k=3)
    sids = [each["sid"] for each in response.json()["recommendations"]]
    assert sids == [each.sid for each in expected.recommended]
    assert response.headers.get_list("X-Request-ID") == ["mine"]
    assert client.get("/ready").json() == {"status": "ready"}
    assert "several replicas" in problem(client.post("/v1/catalog", json={}), 404)


class Load:
    """Clients that ask all the time.

    Attributes:
        outcomes: what they got: ``answered`` by which of the recommenders, ``wrong``, a status, or an exception.
    """

    def __init__(self, url: str, *recommenders: Recommender, clients: int = 4) -> None:
        answers = [each.recommend(HISTORIES, k=3) for each in recommenders]
        self.expected = [[[each.sid for each in row.recommended] for row in rows] for rows in answers]
        self.outcomes: list[str] = []
        self.ended = threading.Event()
        self.pool = ThreadPoolExecutor(clients)
        self.futures = [self.pool.submit(self._ask, url, number) for number in range(clients)]

    def _ask(self, url: str, number: int) -> None:
        with httpx.Client(base_url=url, timeout=30) as client:
            row = number
            while not self.ended.is_set():
                row = (row + 1) % len(HISTORIES)
                try:
                    response = client.post(RECOMMENDATIONS, json={"history": HISTORIES[row], "k": 3})
                except httpx.TransportError as error:
                    self.outcomes.append(type(error).__name__)
                    continue
                if response.status_code == 200:
                    sids = [each["sid"] for each in response.json()["recommendations"]]
                    by = [str(number) for number, expected in enumerate(self.expected) if expected[row] == sids]
                    self.outcomes.append(f"answered {'or'.join(by)}" if by else "wrong")
                else:
                    self.outcomes.append(str(response.status_code))

    def answered(self) -> int:
        return sum(outcome.startswith("answered") for outcome in self.outcomes)

    def wait(self, more: int) -> None:
        """Wait for so many more answers."""
        before = self.answered()
        wait_until(lambda: self.answered() >= before + more, 120)

    def end(self) -> Counter[str]:
        self.ended.set()
        for future in self.futures:
            future.result(60)  # none hangs
        self.pool.shutdown()
        return Counter(self.outcomes)


def test_a_replica_killed_under_load_costs_errors_at_most(client: httpx.Client, recommender: Recommender) -> None:
    wait_until(lambda: len(workers("ServeReplica")) == 2, 60)
    load = Load(str(client.base_url), recommender)
    load.wait(30)
    os.kill(killed := workers("ServeReplica")[0], signal.SIGKILL)
    load.wait(60)
    wait_until(lambda: len(pids := workers("ServeReplica")) == 2 and killed not in pids, 120)  # it is replaced
    load.wait(60)
    outcomes = load.end()
    assert "wrong" not in outcomes
    assert load.answered() > 0.9 * outcomes.total()


def test_a_redeploy_under_load_loses_nothing(client: httpx.Client, recommender: Recommender, tmp_path: Path) -> None:
    other = write_tiny_bundle(tmp_path / "other", num_beams=3)
    load = Load(str(client.base_url), recommender, Recommender.load(other))
    load.wait(30)
    deploy(other, min_replicas=2)
    redeployed = len(load.outcomes)
    load.wait(30)
    outcomes = load.end()
    assert client.get("/v1/catalog").json()["num_beams"] == 3
    assert outcomes.keys() == {"answered 0", "answered 1", "answered 0or1"}
    assert "answered 0" not in load.outcomes[redeployed + len(load.futures) :]  # but those that were under way


def test_what_does_not_fit_the_queues_is_refused(client: httpx.Client, bundle: Path, recommender: Recommender) -> None:
    deploy(bundle, max_queue=2, max_batch=2)
    load = Load(str(client.base_url), recommender, clients=40)
    wait_until(lambda: len(load.outcomes) > 400, 120)
    assert load.end().keys() == {"answered 0", "429", "503"}  # 429 by the replica, 503 by Ray's proxy
