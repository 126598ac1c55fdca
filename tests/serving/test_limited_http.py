"""What arrives on a connection before there is a request."""

import json
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn

from atspeed.serving import limited_http
from atspeed.serving.limited_http import LimitedHttp
from tests.serving.running import wait_until


async def app(scope: dict, receive: object, send: object) -> None:
    while (await receive()).get("more_body"):  # type: ignore[operator]
        pass
    await send({"type": "http.response.start", "status": 204, "headers": []})  # type: ignore[operator]
    await send({"type": "http.response.body", "body": b""})  # type: ignore[operator]


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    server = uvicorn.Server(uvicorn.Config(app, port=0, http=LimitedHttp, lifespan="off", log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join()


def talk(port: int, *parts: bytes) -> bytes:
    """Send parts until the server closes the connection, and return what it sent."""
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        try:
            for part in parts:
                connection.sendall(part)
            while more := connection.recv(65536):
                received += more
        except ConnectionError:  # it does not read what it has refused
            pass
    return received


def refusal(answer: bytes, status: int) -> str:
    """Check that an answer is a problem with a status, and return its detail."""
    head, _, body = answer[answer.rindex(b"HTTP/1.1 ") :].partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), answer[:200]
    assert b"content-type: application/problem+json" in head.lower()
    assert json.loads(body)["status"] == status
    return json.loads(body)["detail"]


def test_headers_of_usual_size_pass_again_and_again(port: int) -> None:
    request = b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * 20_000 + b"\r\n\r\n"
    last = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert talk(port, *[request] * 8, last).count(b"HTTP/1.1 204") == 9


def test_a_body_does_not_count(port: int) -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 1000000\r\n\r\n"
    assert talk(port, head, *[b"a" * 100_000] * 10).startswith(b"HTTP/1.1 204")


def test_endless_headers_are_refused(port: int) -> None:
    start = b"GET / HTTP/1.1\r\nHost: x\r\nX-Endless: "
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(start)
        time.sleep(0.2)  # so that it is a piece of its own
        connection.sendall(b"a" * (limited_http.MAX_HEAD_BYTES + 1))
        answer = connection.recv(65536)
    assert "more than 65536 bytes" in refusal(answer, 431)


def test_what_is_no_http_is_told_so(port: int) -> None:
    assert refusal(talk(port, b"hello\r\n\r\n"), 400) == "Invalid HTTP request received."


def test_slow_headers_are_not_waited_for(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limited_http, "HEAD_SECONDS", 0.2)
    assert "no headers within 0.2 s" in refusal(talk(port), 408)
    assert "no headers within 0.2 s" in refusal(talk(port, b"GET / HTTP/1.1\r\nHo"), 408)
    whole = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    assert "no headers" in refusal(talk(port, whole + b"GET / HTT"), 408)
