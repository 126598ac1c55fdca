"""Services for tests: in this process, or as a real one."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from starlette.testclient import TestClient

from atspeed.recommender import Recommender
from atspeed.serving.app import create_app
from atspeed.serving.service_settings import ServiceSettings

ROOT = Path(__file__).parents[2]
RECOMMENDATIONS = "/v1/recommendations"


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    """Wait for a condition, for so long at most."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.01)


@contextmanager
def app_client(
    load: Callable[[], Recommender], state: Path | None = None, wait: bool = True, **settings: Any
) -> Iterator[TestClient]:
    """A client of an app in this process, once it is ready."""
    app = create_app(load, ServiceSettings(**settings), state)
    with TestClient(app, raise_server_exceptions=False) as client:
        if wait:
            wait_until(lambda: client.get("/ready").status_code == 200)
        yield client


def problem(response: httpx.Response, status: int) -> str:
    """Check that a response is a problem with a status, and return its detail."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    content = response.json()
    assert content["status"] == status
    assert content["title"]
    assert content["instance"] == response.headers["X-Request-ID"]
    return content["detail"]


class Gate:
    """A recommender that answers when it is told to, and how its requests came in batches."""

    def __init__(self, recommender: Recommender) -> None:
        self.recommender = recommender
        self.opened = threading.Event()
        self.batches: list[int] = []
        self.warm = False

    def __getattr__(self, name: str) -> object:
        return getattr(self.recommender, name)

    def answer(self, requests: list) -> list:
        if self.warm:
            self.batches.append(len(requests))
            self.opened.wait(30)
        return self.recommender.answer(requests)


class ServerProcess:
    """``python -m atspeed serve`` as a process of its own, on a free port."""

    def __init__(self, bundle: Path, *options: str, environment: dict[str, str] | None = None) -> None:
        command = [sys.executable, "-m", "atspeed", "serve", "--bundle", str(bundle), "--port", "0", *options]
        variables = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **(environment or {})}
        self.log = bundle.parent / f"server-{time.monotonic_ns()}.log"
        with self.log.open("w") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=variables)
        wait_until(lambda: bool(self._address()) or self.process.poll() is not None, 60)
        assert self.process.poll() is None, self.log.read_text()
        self.client = httpx.Client(base_url=self._address(), timeout=30)

    def _address(self) -> str:
        found = re.search(r"http://127.0.0.1:\d+", self.log.read_text())
        return found[0] if found else ""

    def wait_ready(self) -> "ServerProcess":
        wait_until(lambda: self.client.get("/ready").status_code == 200, 60)
        return self

    def lines(self) -> list[dict[str, Any]]:
        """The log so far."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, and return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(60)

    def __enter__(self) -> "ServerProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
