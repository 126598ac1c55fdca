"""What every request passes: tokens, limits, connections that close, an app below a prefix."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from atspeed.recommender import Answer, Recommender, Request
from atspeed.serving.app import create_app
from atspeed.serving.service import FAILED, READY
from atspeed.serving.service_settings import ServiceSettings
from tests.serving.running import RECOMMENDATIONS, Gate, app_client, problem, wait_until

BODY = b'{"history": ["item-3"]}'


@pytest.mark.parametrize("prefix", ["/api", "/v1", "/v"])
def test_a_prefix_opens_no_door(recommender: Recommender, prefix: str) -> None:
    app = create_app(lambda: recommender, ServiceSettings(token="secret", max_body_bytes=100))

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with app.router.lifespan_context(app):
            yield

    outer = Starlette(routes=[Mount(prefix, app=app)], lifespan=lifespan)
    with TestClient(outer) as client:
        wait_until(lambda: client.get(f"{prefix}/ready").status_code == 200)
        token = {"Authorization": "Bearer secret"}
        path = f"{prefix}{RECOMMENDATIONS}"
        assert "needs a token" in problem(client.post(path, json={"history": []}), 401)
        assert client.post(path, json={"history": []}, headers=token).status_code == 200
        problem(client.post(path, json={"history": ["x" * 100]}, headers=token), 413)
        assert "are off" in problem(client.post(f"{prefix}/v1/catalog", json={}, headers=token), 403)


def test_a_prefix_that_a_proxy_strips_opens_no_door(recommender: Recommender) -> None:
    app = create_app(lambda: recommender, ServiceSettings(token="secret"))
    with TestClient(app, root_path="/v") as client:  # the path of the request lacks it
        wait_until(lambda: client.get("/ready").status_code == 200)
        problem(client.post(RECOMMENDATIONS, json={"history": []}), 401)


def test_who_needs_a_token_is_told_its_scheme(recommender: Recommender) -> None:
    with app_client(lambda: recommender, token="secret") as client:
        assert client.post(RECOMMENDATIONS, json={"history": []}).headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", ""])
def test_a_body_that_does_not_say_it_is_json_is_refused(recommender: Recommender, media_type: str) -> None:
    with app_client(lambda: recommender) as client:
        refused = client.post(RECOMMENDATIONS, content=BODY, headers={"Content-Type": media_type})
        assert "send application/json" in problem(refused, 415)
        for allowed in ("application/json; charset=utf-8", "Application/JSON", "application/vnd.x+json"):
            assert client.post(RECOMMENDATIONS, content=BODY, headers={"Content-Type": allowed}).status_code == 200


async def call(app: FastAPI, receive: Callable[[], Any]) -> list[dict[str, Any]]:
    """Call an app as a server does, and return what it sends."""
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": RECOMMENDATIONS, "query_string": b"", "headers": headers}
    await app(scope, receive, send)
    return sent


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


def test_a_slow_body_is_not_waited_for(recommender: Recommender) -> None:
    async def slow() -> dict[str, Any]:
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b" ", "more_body": True}

    app = create_app(lambda: recommender, ServiceSettings(body_timeout_s=0.1))
    start, body = asyncio.run(asyncio.wait_for(call(app, slow), 10))
    assert start["status"] == 408
    assert b"did not arrive within 0.1 s" in body["body"]


def test_who_has_gone_is_dropped_before_decoding(gate: Gate) -> None:
    """The first request is being decoded, the second one waits; then the second one's client goes."""

    async def run() -> None:
        app = create_app(lambda: gate, ServiceSettings(max_wait_ms=0))
        service = app.state.service
        async with app.router.lifespan_context(app):
            await until(lambda: service.status == READY)
            gate.warm = True
            gone = asyncio.Event()

            def client(leaves: asyncio.Event) -> Callable[[], Any]:
                messages = [{"type": "http.request", "body": BODY, "more_body": False}]

                async def receive() -> dict[str, Any]:
                    if not messages:
                        await leaves.wait()
                    return messages.pop() if messages else {"type": "http.disconnect"}

                return receive

            first = asyncio.create_task(call(app, client(asyncio.Event())))
            await until(lambda: gate.batches == [1])
            second = asyncio.create_task(call(app, client(gone)))
            await until(lambda: len(service.batcher._queue) == 1)
            gone.set()
            await second
            assert not service.batcher._queue
            gate.opened.set()
            assert (await first)[0]["status"] == 200
            assert gate.batches == [1]
            assert b'atspeed_recommendations_total{outcome="closed"} 1.0' in service.metrics.text()

    asyncio.run(run())


def test_what_was_cancelled_is_told_so(gate: Gate) -> None:
    """As the server does when the time to finish is up."""

    async def run() -> None:
        app = create_app(lambda: gate, ServiceSettings(max_wait_ms=0))
        async with app.router.lifespan_context(app):
            await until(lambda: app.state.service.status == READY)
            gate.warm = True

            messages = [{"type": "http.request", "body": BODY, "more_body": False}]

            async def receive() -> dict[str, Any]:
                if not messages:
                    await asyncio.Event().wait()
                return messages.pop()

            asked = asyncio.create_task(call(app, receive))
            await until(lambda: gate.batches == [1])
            asked.cancel()
            start, body = await asked
            assert start["status"] == 503
            assert b"ended before this was answered" in body["body"]
            assert b'outcome="failed"} 1.0' in app.state.service.metrics.text()
            gate.opened.set()

    asyncio.run(run())


class Careless:
    """A recommender that forgets an answer once it is warm."""

    def __init__(self, recommender: Recommender) -> None:
        self.recommender = recommender
        self.warm = False

    def __getattr__(self, name: str) -> object:
        return getattr(self.recommender, name)

    def answer(self, requests: list[Request]) -> list[Answer]:
        return [] if self.warm else self.recommender.answer(requests)


def test_a_service_that_cannot_answer_any_more_is_not_ready(recommender: Recommender) -> None:
    careless = Careless(recommender)
    with app_client(lambda: careless, timeout_ms=200) as client:  # type: ignore[arg-type,return-value]
        careless.warm = True
        assert client.post(RECOMMENDATIONS, json={"history": ["item-3"]}).status_code >= 500
        assert client.get("/ready").json() == {"status": FAILED}
        assert "atspeed_ready 0.0" in client.get("/metrics").text
