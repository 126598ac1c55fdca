import json
import logging
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from atspeed.recommender import Recommender
from atspeed.serving.logs import FIELDS, JsonFormatter
from tests.serving.running import RECOMMENDATIONS, Gate, app_client, problem, wait_until

HISTORIES = [[f"item-{(7 * row + step) % 140}" for step in range(1 + row % 9)] for row in range(24)]


@pytest.fixture(scope="module")
def client(recommender: Recommender) -> Iterator[TestClient]:
    with app_client(lambda: recommender, max_history=30, max_requests=30, max_listed=20) as client:
        yield client


def same_as(recommender: Recommender, answer: dict, history: list[str], **settings: object) -> bool:
    (expected,) = recommender.recommend([history], **settings)  # type: ignore[arg-type]
    return all(
        [item["id"] for item in ours["items"]] == theirs.items
        and ours["sid"] == theirs.sid
        and ours["score"] == pytest.approx(theirs.score, abs=1e-4)
        for ours, theirs in zip(answer["recommendations"], expected.recommended, strict=True)
    )


def test_one_request(client: TestClient, recommender: Recommender) -> None:
    answer = client.post(RECOMMENDATIONS, json={"history": HISTORIES[3], "k": 5}).json()
    assert same_as(recommender, answer, HISTORIES[3], k=5)
    title = recommender.served.items["title"].to_pylist()
    first = answer["recommendations"][0]["items"][0]
    assert first["title"] == title[recommender.served.catalog.index(first["id"])]
    assert answer["target_calls"] >= 1 <= answer["draft_calls"]
    assert (answer["source"], answer["verification"], answer["catalog_version"]) == ("model", "strict", 1)
    assert answer["seed"] is None
    assert answer["decode_ms"] > 0


def test_many_requests_share_batches_and_keep_their_order(recommender: Recommender) -> None:
    with app_client(lambda: recommender, max_batch=8) as client:
        asked = [{"history": history, "k": 1 + row % 8} for row, history in enumerate(HISTORIES)]
        answers = client.post(RECOMMENDATIONS, json={"requests": asked}).json()["answers"]
        sizes = {answer["batch_size"] for answer in answers}
        assert sizes == {8}
        for history, each, answer in zip(HISTORIES, asked, answers, strict=True):
            assert same_as(recommender, answer, history, k=each["k"])
        metrics = client.get("/metrics").text
        assert 'atspeed_batch_size_bucket{le="8.0"}' in metrics


def test_separate_requests_share_batches_too(recommender: Recommender) -> None:
    with app_client(lambda: recommender, max_wait_ms=50) as client, ThreadPoolExecutor(12) as pool:
        found = list(
            pool.map(lambda history: client.post(RECOMMENDATIONS, json={"history": history}).json(), HISTORIES)
        )
    assert max(answer["batch_size"] for answer in found) > 3
    assert all(same_as(recommender, answer, history) for answer, history in zip(found, HISTORIES, strict=True))


def test_filters_and_options(client: TestClient, recommender: Recommender) -> None:
    def ask(**options: object) -> dict:
        return client.post(RECOMMENDATIONS, json={"history": HISTORIES[4], "k": 8, **options}).json()

    def ids(answer: dict) -> set[str]:
        return {item["id"] for each in answer["recommendations"] for item in each["items"]}

    served = recommender.served
    assert ids(ask(allow=["item-1", "item-2"])) == {"item-1", "item-2"}
    assert ask(allow=[])["recommendations"] == []
    free = ask()
    first = free["recommendations"][0]["items"][0]["id"]
    assert first not in ids(ask(deny=[first]))
    teas = {item["item"] for item in served.items.to_pylist() if item["category"] == "tea"}
    assert ids(ask(where={"category": ["tea"]})) <= teas
    assert not ids(ask(exclude_seen=True)) & set(HISTORIES[4])
    plain = ask(speculation=False)
    assert [each["sid"] for each in plain["recommendations"]] == [each["sid"] for each in free["recommendations"]]
    assert (plain["target_calls"], plain["draft_calls"]) == (4, 0)
    drawn = ask(verification="lossless", seed=7)
    assert drawn["seed"] == 7
    assert drawn["recommendations"] == ask(verification="lossless", seed=7)["recommendations"]
    unseeded = ask(verification="relaxed")
    assert ask(verification="relaxed", seed=unseeded["seed"])["recommendations"] == unseeded["recommendations"]
    assert ask(history=[*HISTORIES[4], "gone"], skip_unknown_items=True)["skipped_items"] == ["gone"]
    popular = ask(history=[])
    assert (popular["source"], popular["target_calls"]) == ("popularity", 0)


@pytest.mark.parametrize(
    ("body", "pointer", "detail"),
    [
        ({}, "/history", "Field required"),
        ({"history": "item-3"}, "/history", "valid list"),
        ({"history": [1.5]}, "/history/0", "valid"),
        ({"history": [True]}, "/history/0", "valid"),
        ({"history": [None]}, "/history/0", "valid"),
        ({"history": [""]}, "/history/0", "at least 1"),
        ({"history": ["item-1"], "k": 0}, "/k", "greater than or equal to 1"),
        ({"history": ["item-1"], "k": "3"}, "/k", "valid integer"),
        ({"history": ["item-1"], "k": True}, "/k", "valid integer"),
        ({"history": ["item-1"], "k": 9}, "", "k is 9; expected 1 to 8, the beam width"),
        ({"history": ["item-1"], "seed": -1}, "/seed", "greater than or equal to 0"),
        ({"history": ["item-1"], "seed": 2**63}, "/seed", "less than or equal to"),
        ({"history": ["item-1"], "verification": "lax"}, "/verification", "'strict'"),
        ({"history": ["item-1"], "colour": "red"}, "/colour", "not permitted"),
        ({"history": ["item-1"], "where": {"colour": ["red"]}}, "", "no column 'colour'"),
        ({"history": ["nothing"]}, "", "item 'nothing' is not in the catalog"),
        ({"history": ["item-1"], "deny": ["nothing"]}, "", "item 'nothing' is not in the catalog"),
        ({"history": ["item-1"] * 31}, "/history", "31 items; at most 30"),
        ({"history": [], "allow": ["item-1"] * 21}, "/allow", "21 items; at most 20"),
        ({"requests": []}, "/requests", "at least 1"),
        ({"requests": [{"history": []}] * 31}, "/requests", "31 requests; at most 30"),
        ({"requests": [{"history": []}, {"history": ["nothing"]}]}, "/requests/1", "item 'nothing'"),
        ({"requests": [{"history": []}, {"history": 3}]}, "/requests/1/history", "valid list"),
        ([], "", "valid"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(client: TestClient, body: object, pointer: str, detail: str) -> None:
    response = client.post(RECOMMENDATIONS, json=body)
    problem(response, 422)
    (error, *_) = response.json()["errors"]
    assert error["pointer"] == pointer or error["pointer"].startswith(f"{pointer}/")
    assert detail in error["detail"]


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b'{"history": [NaN]}',
        b"\xff\xfe",
        b'{"history": ["\\ud800"]}',
        b"[" * 100_000,
        b'{"k": 1' + b"0" * 9000 + b"}",
    ],
)
def test_what_is_no_json_is_refused(client: TestClient, body: bytes) -> None:
    response = client.post(RECOMMENDATIONS, content=body, headers={"Content-Type": "application/json"})
    assert response.status_code in (400, 422)
    problem(response, response.status_code)


def test_errors_of_the_router_are_problems(client: TestClient) -> None:
    problem(client.get("/nothing"), 404)
    response = client.get(RECOMMENDATIONS)
    problem(response, 405)
    assert response.headers["Allow"] == "POST"


def test_items(client: TestClient) -> None:
    item = client.get("/v1/items/item-3").json()
    assert item["id"] == "item-3"
    assert item["metadata"] == {"category": item["title"].split()[1]}
    assert len(item["sid"]) == 4
    assert "item 'item-9999' is not in the catalog" in problem(client.get("/v1/items/item-9999"), 404)
    found = client.get("/v1/items", params={"query": "TEA", "limit": 3}).json()["items"]
    assert len(found) == 3
    assert all("tea" in each["title"].lower() for each in found)
    assert client.get("/v1/items", params={"query": "item-13"}).json()["items"][0]["id"] == "item-13"
    assert client.get("/v1/items", params={"query": "no such thing"}).json()["items"] == []
    problem(client.get("/v1/items", params={"limit": 1000}), 422)


def test_the_catalog_is_described(client: TestClient) -> None:
    assert client.get("/v1/catalog").json() == {
        "catalog_version": 1,
        "num_items": 140,
        "versions": [1],
        "columns": ["title", "category"],
        "levels": 4,
        "num_beams": 8,
        "verification": "strict",
    }


def test_a_body_that_is_too_large_is_refused_whether_it_says_so_or_not(recommender: Recommender) -> None:
    with app_client(lambda: recommender, max_body_bytes=1000) as client:
        body = json.dumps({"history": ["item-1"] * 500})
        assert "more than 1000 bytes" in problem(client.post(RECOMMENDATIONS, content=body), 413)
        chunks = (body[start : start + 100].encode() for start in range(0, len(body), 100))
        assert "more than 1000 bytes" in problem(client.post(RECOMMENDATIONS, content=chunks), 413)


def test_request_ids_are_kept_or_made(client: TestClient) -> None:
    assert client.get("/health", headers={"X-Request-ID": "abc-1"}).headers["X-Request-ID"] == "abc-1"
    for given in ("x" * 65, "a b", 'a"b'):
        made = client.get("/health", headers={"X-Request-ID": given}).headers["X-Request-ID"]
        assert re.fullmatch(r"[0-9a-f]{16}", made)


def test_log_lines_have_no_histories_unless_asked(recommender: Recommender, caplog: pytest.LogCaptureFixture) -> None:
    body = {"history": ["item-7"], "k": 2}
    for wanted in (False, True):
        caplog.clear()
        with caplog.at_level(logging.INFO), app_client(lambda: recommender, log_histories=wanted) as client:
            client.post(RECOMMENDATIONS, json=body, headers={"X-Request-ID": "r-1"})
        (record,) = [each for each in caplog.records if getattr(each, FIELDS, {}).get("request_id") == "r-1"]
        line = json.loads(JsonFormatter().format(record))
        assert (line["status"], line["route"], line["outcome"]) == (200, RECOMMENDATIONS, "answered")
        assert line["history_lengths"] == [1]
        assert ("item-7" in json.dumps(line)) == wanted


def ask_behind(client: TestClient, history: list[str], pool: ThreadPoolExecutor, **options: object) -> "object":
    return pool.submit(lambda: client.post(RECOMMENDATIONS, json={"history": history, **options}))


def test_a_full_queue_says_when_to_come_back(gate: Gate) -> None:
    with app_client(lambda: gate, max_queue=2, max_wait_ms=0) as client, ThreadPoolExecutor(4) as pool:
        gate.warm = True
        first = ask_behind(client, HISTORIES[0], pool)
        wait_until(lambda: gate.batches == [1])
        waiting = [ask_behind(client, HISTORIES[row], pool) for row in (1, 2)]
        wait_until(lambda: "atspeed_queue_depth 2.0" in client.get("/metrics").text)
        refused = client.post(RECOMMENDATIONS, json={"history": HISTORIES[3]})
        assert "2 requests wait, of at most 2" in problem(refused, 429)
        assert int(refused.headers["Retry-After"]) >= 1
        gate.opened.set()
        assert [future.result().status_code for future in (first, *waiting)] == [200] * 3
        assert gate.batches == [1, 2]
        metrics = client.get("/metrics").text
        assert 'atspeed_recommendations_total{outcome="queue full"} 1.0' in metrics
        assert 'atspeed_recommendations_total{outcome="answered"} 3.0' in metrics


def test_a_request_past_its_deadline_is_dropped_before_it_is_decoded(gate: Gate) -> None:
    with app_client(lambda: gate, max_wait_ms=0) as client, ThreadPoolExecutor(4) as pool:
        gate.warm = True
        first = ask_behind(client, HISTORIES[0], pool)
        wait_until(lambda: gate.batches == [1])
        late = client.post(RECOMMENDATIONS, json={"history": HISTORIES[1], "timeout_ms": 50})
        assert "not answered within 50 ms" in problem(late, 504)
        assert "atspeed_queue_depth 0.0" in client.get("/metrics").text
        gate.opened.set()
        assert first.result().status_code == 200
        assert client.post(RECOMMENDATIONS, json={"history": HISTORIES[2]}).status_code == 200
        assert gate.batches == [1, 1]


def test_requests_of_several_methods_take_turns(gate: Gate) -> None:
    with app_client(lambda: gate, max_wait_ms=0) as client, ThreadPoolExecutor(8) as pool:
        gate.warm = True
        first = ask_behind(client, HISTORIES[0], pool)
        wait_until(lambda: gate.batches == [1])
        others = []
        for row in range(6):
            others.append(ask_behind(client, HISTORIES[row], pool, speculation=row % 2 == 0))
            wait_until(lambda: f"atspeed_queue_depth {len(others)}.0" in client.get("/metrics").text)
        gate.opened.set()
        answers = [future.result().json() for future in (first, *others)]
        assert gate.batches == [1, 3, 3]
        assert [answer["draft_calls"] > 0 for answer in answers[1:]] == [True, False] * 3


def test_a_request_that_breaks_a_batch_fails_alone(gate: Gate, recommender: Recommender) -> None:
    with app_client(lambda: gate, max_wait_ms=0) as client, ThreadPoolExecutor(8) as pool:
        gate.warm = True
        first = ask_behind(client, HISTORIES[0], pool)
        wait_until(lambda: gate.batches == [1])
        others = [ask_behind(client, history, pool) for history in HISTORIES[1:4]]
        wait_until(lambda: "atspeed_queue_depth 3.0" in client.get("/metrics").text)
        queue = client.app.state.service.batcher._queue
        queue[1].request.history.append(10**6)  # no item has this index
        gate.opened.set()
        statuses = sorted(future.result().status_code for future in (first, *others))
        assert statuses == [200, 200, 200, 500]
        assert gate.batches == [1, 3, 1, 1, 1]
        (failed,) = [future.result() for future in others if future.result().status_code == 500]
        assert "could not be answered" in problem(failed, 500)
        assert client.post(RECOMMENDATIONS, json={"history": HISTORIES[5]}).status_code == 200


def test_not_ready_while_loading_and_not_alive_without_a_bundle(recommender: Recommender, tmp_path: Path) -> None:
    go = threading.Event()

    def load() -> Recommender:
        go.wait(30)
        return recommender

    with app_client(load, wait=False) as client:
        assert client.get("/health").json() == {"status": "ok"}
        assert client.get("/ready").status_code == 503
        assert client.get("/ready").json() == {"status": "loading"}
        refused = client.post(RECOMMENDATIONS, json={"history": []})
        assert "the service is loading" in problem(refused, 503)
        assert refused.headers["Retry-After"]
        problem(client.get("/v1/items/item-3"), 503)
        go.set()
        wait_until(lambda: client.get("/ready").status_code == 200)
        client.app.state.service.drain()
        assert client.get("/ready").json() == {"status": "draining"}
        assert "the service is draining" in problem(client.post(RECOMMENDATIONS, json={"history": []}), 503)
    with app_client(lambda: Recommender.load(tmp_path), wait=False) as client:
        wait_until(lambda: client.get("/ready").json() == {"status": "failed"})
        assert "is no bundle" in str(client.app.state.service.failure)


def test_tokens(recommender: Recommender) -> None:
    with app_client(lambda: recommender, token="secret", wait=True) as client:
        body = {"history": []}
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": "Basic secret"},
            {"Authorization": "secret"},
        ):
            refused = client.post(RECOMMENDATIONS, json=body, headers=headers)
            assert "needs a token" in problem(refused, 401)
        assert client.post(RECOMMENDATIONS, json=body, headers={"Authorization": "Bearer secret"}).status_code == 200
        problem(client.get("/v1/items/item-3"), 401)
        for path in ("/health", "/ready", "/metrics"):
            assert client.get(path).status_code == 200
        assert "changes of the catalog are off" in problem(client.post("/v1/catalog", json={}), 403)


def test_metrics_count_calls(recommender: Recommender) -> None:
    with app_client(lambda: recommender) as client:
        answer = client.post(RECOMMENDATIONS, json={"history": HISTORIES[2]}).json()
        metrics = client.get("/metrics").text
        for name in ("target_calls", "draft_calls", "accepted_levels"):
            assert f"atspeed_{name}_total {float(answer[name])}" in metrics
        assert "atspeed_catalog_version 1.0" in metrics
        assert "atspeed_catalog_items 140.0" in metrics
        assert 'atspeed_requests_total{route="/v1/recommendations",status="200"} 1.0' in metrics
        assert "atspeed_decode_seconds_count 1.0" in metrics


def test_the_schema_has_examples_and_problems(client: TestClient) -> None:
    schema = client.get("/openapi.json").json()
    route = schema["paths"][RECOMMENDATIONS]["post"]
    assert {"422", "429", "503", "504"} <= route["responses"].keys()
    assert schema["components"]["schemas"]["RecommendationRequest"]["examples"]
    assert "application/problem+json" in route["responses"]["429"]["content"]


def test_time_passes_for_the_health_probe_while_the_device_works(gate: Gate) -> None:
    with app_client(lambda: gate, max_wait_ms=0) as client, ThreadPoolExecutor(2) as pool:
        gate.warm = True
        first = ask_behind(client, HISTORIES[0], pool)
        wait_until(lambda: gate.batches == [1])
        start = time.monotonic()
        assert client.get("/health").status_code == 200
        assert time.monotonic() - start < 5
        gate.opened.set()
        first.result()
