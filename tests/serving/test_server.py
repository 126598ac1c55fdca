"""The real process: signals, exit codes, restarts, connections that close."""

import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from atspeed.recommender import Recommender
from tests.cli.running import run_here
from tests.serving.running import RECOMMENDATIONS, ServerProcess, problem, wait_until

HISTORIES = [[f"item-{(11 * row + step) % 140}" for step in range(1 + row % 6)] for row in range(40)]
pytestmark = pytest.mark.e2e


def test_sigterm_under_load_finishes_what_was_accepted(bundle: Path, recommender: Recommender) -> None:
    with ServerProcess(
        bundle, "--max_batch", "2", "--max_queue", "100", "--timeout_ms", "20000"
    ).wait_ready() as server:

        def ask(history: list[str]) -> list[list[str]] | int | None:
            try:
                response = server.client.post(RECOMMENDATIONS, json={"history": history, "k": 3})
            except httpx.TransportError:  # not accepted any more
                return None
            if response.status_code != 200:
                return response.status_code
            return [each["sid"] for each in response.json()["recommendations"]]

        with ThreadPoolExecutor(len(HISTORIES)) as pool:
            futures = [pool.submit(ask, history) for history in HISTORIES]
            wait_until(lambda: any(future.done() for future in futures))
            code = server.end(signal.SIGTERM)
            found = [future.result() for future in futures]
        assert code == 0
        answered = [(ours, history) for ours, history in zip(found, HISTORIES, strict=True) if isinstance(ours, list)]
        assert len(answered) >= 10
        for ours, history in answered:
            assert ours == [each.sid for each in recommender.recommend([history], k=3)[0].recommended]
        assert {each for each in found if isinstance(each, int)} <= {503}
        logged = [line for line in server.lines() if line.get("route") == RECOMMENDATIONS]
        assert sum(line["status"] == 200 for line in logged) == len(answered)
        assert {line["status"] for line in logged} <= {200, 503}


def test_a_second_signal_ends_at_once_and_a_client_that_leaves_is_dropped(bundle: Path) -> None:
    with ServerProcess(bundle).wait_ready() as server:
        address = server.client.base_url
        with socket.create_connection((address.host, address.port)) as connection:
            connection.sendall(
                b"POST /v1/recommendations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                b"Content-Length: 100\r\n\r\n{"
            )
            time.sleep(0.2)
        wait_until(lambda: any(line.get("status") == 499 for line in server.lines()))
        slow = socket.create_connection((address.host, address.port))
        slow.sendall(b"POST /v1/recommendations HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        time.sleep(0.2)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        assert server.process.poll() is None  # it waits for the body
        assert server.end(signal.SIGTERM) == 128 + signal.SIGTERM
        slow.close()


@pytest.mark.nightly
def test_killed_and_started_again_it_serves_the_accepted_catalog(bundle: Path, tmp_path: Path) -> None:
    state, token = tmp_path / "state", {"ATSPEED_CATALOG_TOKEN": "catalog"}
    with ServerProcess(bundle, "--state", str(state), environment=token).wait_ready() as server:
        problem(server.client.post("/v1/catalog", json={"remove": ["item-3"]}), 401)
        headers = {"Authorization": "Bearer catalog"}
        assert server.client.post("/v1/catalog", json={"remove": ["item-3"]}, headers=headers).status_code == 200
        with ThreadPoolExecutor(8) as pool:
            futures = [
                pool.submit(server.client.post, RECOMMENDATIONS, json={"history": history}) for history in HISTORIES[:8]
            ]
            server.end(signal.SIGKILL)
            assert all(future.exception() or future.result().status_code in (200, 422) for future in futures)
    with ServerProcess(bundle, "--state", str(state), environment=token).wait_ready() as server:
        answer = server.client.post(RECOMMENDATIONS, json={"history": ["item-5"]}).json()
        assert answer["catalog_version"] == 2
        problem(server.client.get("/v1/items/item-3"), 404)
        assert server.end() == 0


@pytest.mark.nightly
def test_what_cannot_start_says_why_and_ends_with_one(tmp_path: Path, bundle: Path) -> None:
    with ServerProcess(tmp_path, "--state", str(tmp_path)) as server:
        assert server.process.wait(60) == 1
        assert "is no bundle: it has no manifest.json" in server.log.read_text()
    assert "--demo makes a bundle of its own" in run_here("serve", "--demo", "--bundle", str(bundle), code=2)
    for option, value, message in (
        ("--max_batch", "0", "max_batch is 0; expected 1 or more"),
        ("--max_requests", "2000", "max_requests is 2000; expected 1024 or less"),
    ):
        assert message in run_here("serve", "--bundle", str(bundle), option, value, code=2)
