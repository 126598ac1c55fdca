"""The process: uvicorn, signals and exit codes."""

import asyncio
import logging
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import uvicorn

from atspeed.checks import require_at_least
from atspeed.decoding.execution import Execution
from atspeed.recommender import Recommender
from atspeed.recommender.manifest import Check
from atspeed.serving.app import create_app
from atspeed.serving.limited_http import LimitedHttp
from atspeed.serving.logs import log_as_json
from atspeed.serving.security import read_token
from atspeed.serving.service import FAILED, Service
from atspeed.serving.service_settings import ServiceSettings

log = logging.getLogger(__name__)

LOOPBACK = ("127.0.0.1", "localhost", "::1")
TOKEN, CATALOG_TOKEN = "ATSPEED_TOKEN", "ATSPEED_CATALOG_TOKEN"
TICK = 0.1  # seconds between two looks at whether loading failed


class Server:
    """Serves a bundle over HTTP, one process per device.

    Clients need a token if the environment has one (``ATSPEED_TOKEN``, or ``ATSPEED_TOKEN_FILE`` names a file); changes
    of the catalog need ``ATSPEED_CATALOG_TOKEN`` or ``ATSPEED_CATALOG_TOKEN_FILE``, and are off without. SIGTERM or
    Ctrl-C: nothing more is accepted, what was accepted is answered, exit code 0; a second signal ends the process.

    Args:
        bundle: the folder, which ``python -m atspeed bundle`` wrote.
        host: address to listen on.
        port: port to listen on; 0: any free one.
        device: where the models go; a GPU if there is one.
        dtype: of the models, float32, bfloat16 or int8; the bundle's if not given.
        num_threads: CPU threads of torch; its own choice if not given.
        check: ``full`` compares the SHA-256 of every file at the start, ``size`` the sizes only.
        trust_code: import classes outside atspeed that the bundle names, and run code that comes with a model.
        state: folder of accepted catalog versions and measured costs; without it they last as long as the process.
        max_batch: most requests of a batch.
        max_wait_ms: how long a request waits for others when the device is idle.
        max_queue: while so many requests wait, others get 429.
        timeout_ms: deadline of a request that names none, and the longest that it may name.
        max_requests: most requests of one POST, at most 1,024.
        max_history: most items of a history.
        drain_seconds: how long accepted requests may take after the first signal.
        log_histories: whether log lines have the histories of requests.
        execution: how searches are run; ``Captured`` replays them as CUDA graphs, which are made before the service is
            ready.
    """

    def __init__(
        self,
        bundle: Path,
        host: str = "127.0.0.1",
        port: int = 8000,
        device: str | None = None,
        dtype: str | None = None,
        num_threads: int | None = None,
        check: Check = "full",
        trust_code: bool = False,
        state: Path | None = None,
        max_batch: int = 16,
        max_wait_ms: float = 2.0,
        max_queue: int = 16,
        timeout_ms: int = 5000,
        max_requests: int = 64,
        max_history: int = 1000,
        drain_seconds: int = 30,
        log_histories: bool = False,
        execution: Execution | None = None,
    ) -> None:
        self.bundle = bundle
        self.host = host
        self.port = port
        self.device = device
        self.dtype = dtype
        self.num_threads = num_threads
        self.check: Check = check
        self.trust_code = trust_code
        self.state = state
        self.execution = execution
        self.drain_seconds = drain_seconds
        require_at_least(1, drain_seconds=drain_seconds)
        self.settings = ServiceSettings(
            max_batch=max_batch,
            max_wait_ms=max_wait_ms,
            max_queue=max_queue,
            timeout_ms=timeout_ms,
            max_requests=max_requests,
            max_history=max_history,
            log_histories=log_histories,
            token=read_token(TOKEN),
            catalog_token=read_token(CATALOG_TOKEN),
        )

    def load(self) -> Recommender:
        """Check and load the bundle."""
        return Recommender.load(
            self.bundle,
            device=self.device,
            dtype=self.dtype,
            check=self.check,
            trust_code=self.trust_code,
            cost_folder=self.state / "cost" if self.state else None,
            execution=self.execution,
        )

    def run(self) -> int:
        """Serve until a signal comes, and return the exit code: 0, or 1 if it could not start or finish."""
        log_as_json()
        if self.num_threads is not None:
            torch.set_num_threads(self.num_threads)
        if self.host not in LOOPBACK and self.settings.token is None:
            log.warning("listening on %s without a token: whoever can reach it can use it (%s)", self.host, TOKEN)
        app = create_app(self.load, self.settings, self.state)
        config = uvicorn.Config(
            app,
            host=self.host,
            port=self.port,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=self.drain_seconds,
            http=LimitedHttp,
            ws="none",
        )
        server = SignalledServer(config, app.state.service)
        server.run()
        return server.exit_code


class SignalledServer(uvicorn.Server):
    """uvicorn with our reaction to signals, and without its re-raising of them at the end.

    Args:
        config: of uvicorn.
        service: which is drained.
    """

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self.service = service
        self.exit_code = 0

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """React to signals while the server runs."""
        loop = asyncio.get_running_loop()
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(each, self._on_signal, each)
        yield

    def _on_signal(self, number: int) -> None:
        if self.should_exit:
            log.warning("second signal: ending at once")
            os._exit(128 + number)
        log.info(
            "signal %d: accepting nothing more, %s", number, "idle" if self.service.batcher.is_idle else "finishing"
        )
        self.service.drain()
        self.should_exit = True

    async def startup(self, sockets: list | None = None) -> None:
        """Listen, and say where."""
        await super().startup(sockets)
        if self.started and not self.should_exit:
            port = self.servers[0].sockets[0].getsockname()[1]
            log.info("listening on http://%s:%d", self.config.host, port)

    async def on_tick(self, counter: int) -> bool:
        """Return whether to end: after a signal, or if loading failed."""
        if self.service.status == FAILED:
            self.exit_code = 1
            return True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list | None = None) -> None:
        """Wait for what was accepted."""
        was_loading, start = self.service.is_loading, time.monotonic()
        await super().shutdown(sockets)
        late = time.monotonic() - start >= (self.config.timeout_graceful_shutdown or 0)
        if late:
            log.error("the time to finish is up; requests were left unanswered")
            self.exit_code = 1
        if late or was_loading or not self.service.batcher.is_idle:  # Python would wait for threads, which may hang
            os._exit(self.exit_code)
