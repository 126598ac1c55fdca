"""Minutes of load with something going on: catalogs swapped, memory watched. ``-s`` shows the figures."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from atspeed.recommender import Recommender, Request, ServedCatalog, edit_items
from tests.serving.running import RECOMMENDATIONS, ServerProcess, wait_until

HISTORIES = [[f"item-{(11 * row + step) % 100}" for step in range(row % 6)] for row in range(40)]
SWAPS, REQUESTS = 100, 20_000
pytestmark = [pytest.mark.e2e, pytest.mark.nightly]


def test_catalogs_swapped_a_hundred_times_under_load(bundle: Path, recommender: Recommender) -> None:
    own = recommender.served
    gone = [f"item-{number}" for number in range(100, 140)]
    sid = list(own.catalog.sid(3))
    added = [{"item": "new", "sid": sid}]
    # odd versions have all items, even ones lack the last 40 and have a new one
    even = recommender.build(edit_items(own.items, add=added, remove=gone), 2)
    expected = {}
    for number, served in ((1, own), (0, even)):
        requests = [recommender.request(history, 5) for history in HISTORIES]
        answers = [recommender.answer([_under(request, served)])[0] for request in requests]
        expected[number] = [[(each.sid, each.items) for each in answer.recommended] for answer in answers]
    ended, counts = threading.Event(), {0: 0, 1: 0}

    def ask(number: int, url: httpx.URL) -> int:
        row, asked = number, 0
        with httpx.Client(base_url=url, timeout=30) as client:
            while not ended.is_set():
                row = (row + 1) % len(HISTORIES)
                answer = client.post(RECOMMENDATIONS, json={"history": HISTORIES[row], "k": 5}).json()
                kind = answer["catalog_version"] % 2
                found = [(each["sid"], [item["id"] for item in each["items"]]) for each in answer["recommendations"]]
                assert found == expected[kind][row], answer
                counts[kind] += 1
                asked += 1
        return asked

    token = {"ATSPEED_CATALOG_TOKEN": "catalog"}
    options = ("--max_queue", "200", "--timeout_ms", "30000")
    with ServerProcess(bundle, *options, environment=token).wait_ready() as server, ThreadPoolExecutor(4) as pool:
        url, headers = server.client.base_url, {"Authorization": "Bearer catalog"}
        clients = [pool.submit(ask, number, url) for number in range(4)]
        restored = [item for item in own.items.to_pylist() if item["item"] in gone]
        for swap in range(SWAPS):
            change = {"add": restored, "remove": ["new"]} if swap % 2 else {"add": added, "remove": gone}
            response = server.client.post("/v1/catalog", json=change, headers=headers)
            assert response.json()["catalog_version"] == swap + 2, response.text
            answered = sum(counts.values())
            wait_until(lambda: sum(counts.values()) >= answered + 5)  # noqa: B023  (called before the next turn)
        ended.set()
        asked = sum(client.result() for client in clients)
        assert server.end() == 0
    assert min(counts.values()) > 200
    print(f"\n{SWAPS} swaps, {asked} answers, each of the version that it names")


def _under(request: Request, served: ServedCatalog) -> Request:
    """Return a request as it would be under another version."""
    names = [request.served.catalog.names[item] for item in request.history]
    return replace(request, served=served, history=served.indices(names))


def test_memory_stays_flat(bundle: Path) -> None:
    def resident(server: ServerProcess) -> float:
        pages = Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]
        return int(pages) * 4096 / 1e6

    with ServerProcess(bundle, "--max_queue", "500", "--timeout_ms", "60000").wait_ready() as server:
        requests = [{"history": history, "k": 5} for history in HISTORIES]

        def ask(number: int) -> int:
            with httpx.Client(base_url=server.client.base_url, timeout=60) as client:
                for row in range(REQUESTS // 4 // len(requests)):
                    body = requests[row % 7 :] + requests[: row % 7]
                    assert client.post(RECOMMENDATIONS, json={"requests": body}).status_code == 200
            return len(requests) * (REQUESTS // 4 // len(requests))

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: server.client.post(RECOMMENDATIONS, json={"requests": requests}), range(50)))
            before = resident(server)
            asked = sum(pool.map(ask, range(4)))
        after = resident(server)
    print(f"\n{before:.0f} MB after 2,000 requests, {after:.0f} MB after {asked:,} more")
    assert after - before < 0.05 * before
