"""Requests that nobody should send: the answer is a client error, and the next request is answered."""

import json
import socket
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from starlette.testclient import TestClient

from atspeed.recommender import Recommender
from tests.serving.running import RECOMMENDATIONS, ServerProcess, app_client

schemathesis = pytest.importorskip("schemathesis", reason="needs the extra test")

TOKEN = "catalog"
NIGHTLY_EXAMPLES = 450  # for each of the routes with a body or parameters, right ones and wrong ones


@pytest.fixture(scope="module")
def client(bundle: Path) -> Iterator[TestClient]:
    with app_client(lambda: Recommender.load(bundle), catalog_token=TOKEN, max_wait_ms=0) as client:
        yield client


def send_cases(client: TestClient, examples: int) -> Counter[int]:
    """Send generated requests to every route, right ones and wrong ones; return how many had which status."""
    schema = schemathesis.openapi.from_dict(client.get("/openapi.json").json())
    statuses: Counter[int] = Counter()
    for result in schema.get_all_operations():
        operation = result.ok()
        for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):
            try:
                strategy = operation.as_strategy(generation_mode=mode)
                statuses += _send(client, strategy, examples)
            except Exception as error:
                if "Unsatisfiable" not in type(error).__name__ and "nothing" not in str(error):  # nothing can be wrong
                    raise
    return statuses


def _send(client: TestClient, strategy: object, examples: int) -> Counter[int]:
    from hypothesis import given

    statuses: Counter[int] = Counter()

    @settings(
        max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck), derandomize=True
    )
    @given(case=strategy)  # type: ignore[arg-type]
    def send(case: object) -> None:
        parts = case.as_transport_kwargs(base_url="http://testserver")  # type: ignore[attr-defined]
        headers = {**(parts.get("headers") or {}), "Authorization": f"Bearer {TOKEN}"}
        content = parts.get("data")
        if "json" in parts:
            content, headers["Content-Type"] = json.dumps(parts["json"]).encode(), "application/json"
        response = client.request(
            parts["method"], parts["url"], params=parts.get("params"), content=content, headers=_sendable(headers)
        )
        statuses[response.status_code] += 1
        too_late = response.status_code == 504 and b'"timeout_ms"' in (content or b"")  # 1 ms is a deadline, too
        assert response.status_code < 500 or too_late, (parts, response.text)
        if response.status_code >= 400:
            assert response.json()["status"] == response.status_code

    send()
    return statuses


def _sendable(headers: dict) -> dict:
    return {name: value for name, value in headers.items() if str(value).isascii() and str(value).isprintable()}


def test_generated_requests(client: TestClient) -> None:
    statuses = send_cases(client, 8)
    assert statuses[200] > 5
    assert statuses[400] + statuses[422] > 30
    assert client.post(RECOMMENDATIONS, json={"history": []}).status_code == 200


@pytest.mark.nightly
def test_many_generated_requests(client: TestClient) -> None:
    statuses = send_cases(client, NIGHTLY_EXAMPLES)
    print(f"\n{statuses.total()} requests: {dict(sorted(statuses.items()))}")
    assert statuses[400] + statuses[422] > 2000
    assert client.post(RECOMMENDATIONS, json={"history": []}).status_code == 200


CHANGES = {
    "deep": b'{"add": [{"item": "x", "sid": ' + b"[" * 900 + b"]" * 900 + b"}]}",
    "deeper": b'{"add": [{"item": "x", "sid": ' + b"[" * 100_000 + b"]" * 100_000 + b"}]}",
    "NaN": b'{"replace": [{"item": "item-3", "title": NaN}]}',
    "no text": b'{"replace": [{"item": "item-3", "title": 5}]}',
    "no list": b'{"replace": [{"item": "item-3", "sid": {"a": 1}}]}',
    "half a surrogate pair": b'{"replace": [{"item": "item-3", "title": "\\ud800"}]}',
    "half a surrogate pair as a column": b'{"replace": [{"item": "item-3", "\\ud800": 1}]}',
    "a count of 65 bits": b'{"replace": [{"item": "item-3", "train_interactions": 18446744073709551616}]}',
    "a count of 5,000 digits": b'{"replace": [{"item": "item-3", "train_interactions": ' + b"9" * 5000 + b"}]}",
}


@pytest.mark.parametrize("name", CHANGES)
def test_changes_of_the_catalog_that_nobody_should_send(client: TestClient, name: str) -> None:
    before = client.get("/v1/catalog").json()
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    assert client.post("/v1/catalog", content=CHANGES[name], headers=headers).status_code in (400, 422)
    assert client.get("/v1/catalog").json() == before


def test_the_largest_counts_leave_popular_items_a_score(client: TestClient) -> None:
    largest = [{"item": f"item-{number}", "train_interactions": 2**63 - 1} for number in (3, 4)]
    headers = {"Authorization": f"Bearer {TOKEN}"}
    assert client.post("/v1/catalog", json={"replace": largest}, headers=headers).status_code == 200
    popular = client.post(RECOMMENDATIONS, json={"history": [], "k": 3}).json()["recommendations"]
    assert all(each["score"] <= 0 for each in popular)
    assert client.post("/v1/catalog/rollback", json={}, headers=headers).status_code == 200


def post(body: bytes, *headers: str) -> bytes:
    head = ["POST /v1/recommendations HTTP/1.1", "Host: x", *headers]
    if not any(line.lower().startswith(("content-length", "transfer-encoding")) for line in headers):
        head.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*head, "", ""]).encode("latin-1") + body


JSON = "Content-Type: application/json"
FINE = b'{"history": ["item-3"], "k": 2}'
REQUESTS = {
    "deep": post(b"[" * 100_000 + b"]" * 100_000, JSON),
    "deep objects": post(b'{"a":' * 100_000, JSON),
    "huge integer": post(b'{"history": [], "k": ' + b"9" * 10_000 + b"}", JSON),
    "huge float": post(b'{"history": [], "k": 1e999}', JSON),
    "NaN": post(b'{"history": [NaN], "seed": -Infinity}', JSON),
    "invalid UTF-8": post(b'{"history": ["\xff\xfe"]}', JSON),
    "half a surrogate pair": post(b'{"history": ["\\ud800"], "skip_unknown_items": true}', JSON),
    "NUL": post(b'{"history": ["\\u0000"]}', JSON),
    "a NUL byte": post(b'{"history": ["\x00"]}', JSON),
    "no JSON": post(b"history=item-3", "Content-Type: application/x-www-form-urlencoded"),
    "no media type": post(FINE),
    "empty": post(b"", JSON),
    "a long name": post(json.dumps({"history": ["x" * 100_000]}).encode(), JSON),
    "many": post(json.dumps({"requests": [{"history": []}] * 10_000}).encode(), JSON),
    "too long": post(b" " * 2_000_000, JSON),
    "too long by its own account": post(b"", JSON, "Content-Length: 99999999999"),
    "a negative length": post(b"", JSON, "Content-Length: -5"),
    "two lengths": post(FINE, JSON, "Content-Length: 3", "Content-Length: 30"),
    "chunks that never end": post(b"FFFFFFFFFFFFFFFF\r\n" + b" " * 2_000_000, JSON, "Transfer-Encoding: chunked"),
    "no chunks": post(b"zz\r\n", JSON, "Transfer-Encoding: chunked"),
    "huge headers": post(FINE, JSON, "X-Long: " + "x" * 1_000_000),
    "many headers": post(FINE, JSON, *(f"X-{number}: 1" for number in range(20_000))),
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello\r\n\r\n",
    "another method": b"BREW /v1/recommendations HTTP/1.1\r\nHost: x\r\n\r\n",
    "a path with a NUL": b"GET /v1/items/%00 HTTP/1.1\r\nHost: x\r\n\r\n",
    "a path that is no ASCII": b"GET /v1/items/\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
    "a token that is no ASCII": b"POST /v1/catalog HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff\r\n\r\n",
    "a huge limit": b"GET /v1/items?limit=" + b"9" * 5000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "a length and chunks": post(b"2\r\n{}\r\n0\r\n\r\n", JSON, "Content-Length: 3", "Transfer-Encoding: chunked"),
    "a path out of the page": b"GET /page/../server.py HTTP/1.1\r\nHost: x\r\n\r\n",
    "an encoded path out of the page": b"GET /page/%2e%2e/server.py HTTP/1.1\r\nHost: x\r\n\r\n",
}


@pytest.fixture(scope="module")
def server(bundle: Path) -> Iterator[ServerProcess]:
    with ServerProcess(bundle, "--max_wait_ms", "0").wait_ready() as server:
        yield server


def exchange(server: ServerProcess, request: bytes, seconds: float = 15) -> bytes:
    """Send bytes, and return what comes back until the connection is closed or a response is complete."""
    address = server.client.base_url.host, server.client.base_url.port
    with socket.create_connection(address, timeout=seconds) as connection:
        received = b""
        try:
            connection.sendall(request)
            while not (b"\r\n\r\n" in received and received.split(b"\r\n\r\n", 1)[1]):
                if not (part := connection.recv(65536)):
                    break
                received += part
        except (ConnectionResetError, BrokenPipeError):
            pass
    return received


@pytest.mark.parametrize("name", REQUESTS)
def test_hand_made_requests(server: ServerProcess, name: str) -> None:
    start = time.monotonic()
    received = exchange(server, REQUESTS[name])
    assert time.monotonic() - start < 14, "it hung"
    assert received[:9] in (b"HTTP/1.1 ", b"")  # a connection may be closed in the middle of what is too long
    if received:
        assert received[9:10] == b"4", received[:200]
    assert server.client.post(RECOMMENDATIONS, json={"history": ["item-3"]}).status_code == 200


LARGE = {
    "items": (b'{"history": [' + b",".join([b"{}"] * 320_000) + b"]}", b"/history/0"),
    "requests": (b'{"requests": [' + b",".join([b"{}"] * 320_000) + b"]}", b"/requests/0/history"),
    "requests that are fine": (b'{"requests": [' + b",".join([b'{"history":[]}'] * 62_000) + b"]}", b"at most 1024"),
    "fields": (
        b'{"history": [], ' + b",".join(b'"%d": 1' % number for number in range(80_000)) + b"}",
        b"at most 100",
    ),
    "columns": (
        b'{"history": [], "where": {' + b",".join(b'"%d": 1' % number for number in range(80_000)) + b"}}",
        b"at most 100",
    ),
}


@pytest.mark.parametrize("name", LARGE)
def test_a_large_body_does_not_hold_up_others(server: ServerProcess, name: str) -> None:
    """An error, or a request, takes some 20 µs, and a body of 1 MB may have 600,000 errors."""
    body, expected = LARGE[name]
    start = time.monotonic()
    received = exchange(server, post(body, JSON))
    assert b" 422 " in received[:20]
    assert expected in received
    assert len(received) < 1000
    assert time.monotonic() - start < 3, "nobody else was answered meanwhile"
    assert max(map(len, server.log.read_text().splitlines())) < 4000


def test_pipelined_requests_are_answered_in_turn(server: ServerProcess) -> None:
    bodies = [json.dumps({"history": ["item-3"], "k": k}).encode() for k in (1, 2, 3)]
    received = b""
    with socket.create_connection((server.client.base_url.host, server.client.base_url.port), timeout=15) as connection:
        connection.sendall(post(bodies[0], JSON) + post(bodies[1], JSON) + post(bodies[2], JSON, "Connection: close"))
        while part := connection.recv(65536):
            received += part
    answers = received.split(b"HTTP/1.1 200 OK\r\n")
    assert answers[0] == b""
    assert [len(json.loads(each.split(b"\r\n\r\n")[1])["recommendations"]) for each in answers[1:]] == [1, 2, 3]


def test_slow_and_broken_connections_leave_others_alone(server: ServerProcess) -> None:
    address = server.client.base_url.host, server.client.base_url.port
    held = [socket.create_connection(address) for _ in range(50)]
    for number, connection in enumerate(held):
        connection.sendall(post(FINE, JSON)[: 20 + 3 * number])
    for connection in held[::2]:
        connection.shutdown(socket.SHUT_WR)
    for connection in held[::3]:
        connection.close()
    for _ in range(5):
        assert server.client.post(RECOMMENDATIONS, json={"history": ["item-3"]}).status_code == 200
    for connection in held:
        connection.close()
    assert server.client.get("/ready").status_code == 200


@pytest.mark.nightly
def test_a_slow_body_is_cut_off(server: ServerProcess) -> None:
    received = exchange(server, post(FINE, JSON)[:-5], seconds=30)
    assert received.startswith(b"HTTP/1.1 408")
