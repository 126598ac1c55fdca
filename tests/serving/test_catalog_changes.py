import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest
from starlette.testclient import TestClient

from atspeed.recommender import Recommender
from atspeed.serving.catalog_versions import KEPT, CatalogVersions
from tests.recommender.tiny_bundle import write_tiny_bundle
from tests.serving.running import RECOMMENDATIONS, app_client, problem, wait_until

TOKEN = {"Authorization": "Bearer catalog"}


def change(client: TestClient, **changes: object) -> dict:
    response = client.post("/v1/catalog", json=changes, headers=TOKEN)
    assert response.status_code == 200, response.text
    return response.json()


def ids(client: TestClient, history: list[str], version: int) -> set[str]:
    answer = client.post(RECOMMENDATIONS, json={"history": history, "k": 8}).json()
    assert answer["catalog_version"] == version
    return {item["id"] for each in answer["recommendations"] for item in each["items"]}


def test_items_come_and_go_and_come_back(bundle: Path) -> None:
    with app_client(lambda: Recommender.load(bundle), catalog_token="catalog") as client:
        before = ids(client, ["item-3"], 1)
        gone, other = sorted(before)[:2]
        sid = client.get(f"/v1/items/{other}").json()["sid"]
        new = {"item": "new", "sid": sid, "title": "A new one", "category": "tea"}
        assert change(client, add=[new], remove=[gone])["catalog_version"] == 2
        after = ids(client, ["item-3"], 2)
        assert gone not in after
        assert {"new", other} <= after
        assert client.get("/v1/items/new").json()["metadata"] == {"category": "tea"}
        problem(client.get(f"/v1/items/{gone}"), 404)
        assert "is not in the catalog" in problem(client.post(RECOMMENDATIONS, json={"history": [gone]}), 422)
        assert change(client, replace=[{"item": "new", "title": "Newer"}])["versions"] == [1, 2, 3]
        assert client.get("/v1/items/new").json()["title"] == "Newer"
        assert client.get("/v1/items/new").json()["sid"] == sid
        back = client.post("/v1/catalog/rollback", json={}, headers=TOKEN).json()
        assert back["catalog_version"] == 4
        assert client.get("/v1/items/new").json()["title"] == "A new one"
        back = client.post("/v1/catalog/rollback", json={"version": 1}, headers=TOKEN).json()
        assert back["catalog_version"] == 5
        assert ids(client, ["item-3"], 5) == before
        assert "atspeed_catalog_version 5.0" in client.get("/metrics").text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"add": [{"item": "x", "sid": ["<a_1>", "<b_0>", "<c_0>", "<d_99>"]}]},
            "the code '<d_99>', which the model has",
        ),
        ({"add": [{"item": "x", "sid": ["<a_1>"]}]}, "semantic ID of 1 codes"),
        ({"add": [{"item": "x"}]}, "item 'x' has the semantic ID None"),
        ({"add": [{"item": "x", "sid": [1]}]}, "column 'sid'"),
        ({"add": [{"item": "", "sid": ["<a_1>", "<b_0>", "<c_0>", "<d_0>"]}]}, "as the schema says"),
        ({"add": [{"item": "x" * 1001, "sid": ["<a_1>", "<b_0>", "<c_0>", "<d_0>"]}]}, "as the schema says"),
        ({"add": [{"item": "x", "sid": [None]}]}, "item 'x' has the semantic ID"),
        ({"add": [{"item": "item-3", "sid": ["<a_1>"]}]}, "cannot be added"),
        ({"remove": ["nothing"]}, "cannot be replaced or removed"),
        ({"replace": [{"item": "item-3", "colour": "red"}]}, "has 'colour'"),
        ({"replace": [{"item": "item-3", "train_interactions": -5}]}, "train_interactions -5"),
        ({"remove": [f"item-{number}" for number in range(140)]}, "at most 100 at a time"),
    ],
)
def test_a_change_that_does_not_fit_changes_nothing(recommender: Recommender, changes: dict, message: str) -> None:
    with app_client(lambda: recommender, catalog_token="catalog", max_listed=100) as client:
        refused = client.post("/v1/catalog", json=changes, headers=TOKEN)
        assert message in problem(refused, 422)
        assert client.get("/v1/catalog").json()["catalog_version"] == 1


def test_the_catalog_has_a_token_of_its_own(recommender: Recommender) -> None:
    with app_client(lambda: recommender, token="secret", catalog_token="catalog") as client:
        for path in ("/v1/catalog", "/v1/catalog/rollback"):
            for headers in ({}, {"Authorization": "Bearer secret"}):
                assert "need their own token" in problem(client.post(path, json={}, headers=headers), 401)
        assert client.get("/v1/catalog", headers={"Authorization": "Bearer secret"}).status_code == 200
        assert "no version 7" in problem(client.post("/v1/catalog/rollback", json={"version": 7}, headers=TOKEN), 422)
        assert "none before it" in problem(client.post("/v1/catalog/rollback", json={}, headers=TOKEN), 422)


def test_one_of_several_replicas_keeps_its_catalog(recommender: Recommender) -> None:
    with app_client(lambda: recommender, catalog_token="catalog", changes_catalog=False) as client:
        assert "several replicas" in problem(client.post("/v1/catalog", json={}, headers=TOKEN), 404)


def test_one_change_at_a_time(bundle: Path) -> None:
    recommender = Recommender.load(bundle)
    building, go = threading.Event(), threading.Event()
    build = recommender.build

    def slow(items: pa.Table, version: int) -> object:
        building.set()
        go.wait(30)
        return build(items, version)

    recommender.build = slow  # type: ignore[method-assign,assignment]
    with app_client(lambda: recommender, catalog_token="catalog") as client, ThreadPoolExecutor(1) as pool:
        first = pool.submit(change, client, remove=["item-3"])
        building.wait(30)
        assert ids(client, ["item-5"], 1)  # answered meanwhile
        assert "under way" in problem(client.post("/v1/catalog", json={"remove": ["item-4"]}, headers=TOKEN), 409)
        go.set()
        assert first.result()["catalog_version"] == 2


def test_a_request_keeps_the_catalog_that_it_came_under(bundle: Path) -> None:
    recommender = Recommender.load(bundle)
    answer, held, go = recommender.answer, threading.Event(), threading.Event()
    with (
        app_client(lambda: recommender, catalog_token="catalog", max_wait_ms=0) as client,
        ThreadPoolExecutor(2) as pool,
    ):
        expected = ids(client, ["item-3"], 1)

        def hold(requests: list) -> list:
            held.set()
            go.wait(30)
            return answer(requests)

        recommender.answer = hold  # type: ignore[method-assign,assignment]
        first = pool.submit(ids, client, ["item-9"], 1)
        held.wait(30)
        second = pool.submit(ids, client, ["item-3"], 1)
        wait_until(lambda: "atspeed_queue_depth 1.0" in client.get("/metrics").text)
        change(client, remove=sorted(expected))
        go.set()
        assert first.result()
        assert second.result() == expected
        assert not ids(client, ["item-4"], 2) & expected


def test_accepted_versions_outlive_the_process(bundle: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    with app_client(lambda: Recommender.load(bundle), state, catalog_token="catalog") as client:
        change(client, remove=["item-3"])
        change(client, remove=["item-4"])
    with app_client(lambda: Recommender.load(bundle), state, catalog_token="catalog") as client:
        assert client.get("/v1/catalog").json()["catalog_version"] == 3
        problem(client.get("/v1/items/item-4"), 404)
        client.post("/v1/catalog/rollback", json={}, headers=TOKEN)
        problem(client.get("/v1/items/item-3"), 404)
        assert client.get("/v1/items/item-4").status_code == 200
        assert client.get("/v1/catalog").json()["versions"] == [1, 2, 3, 4]


def test_the_state_of_another_bundle_or_a_damaged_one_is_refused(bundle: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    with app_client(lambda: Recommender.load(bundle), state, catalog_token="catalog") as client:
        change(client, remove=["item-3"])
    other = write_tiny_bundle(tmp_path / "other", num_beams=4)
    with app_client(lambda: Recommender.load(other), state, wait=False) as client:
        wait_until(lambda: client.get("/ready").json()["status"] == "failed")
        assert "belong to another bundle" in str(client.app.state.service.failure)
    (state / "catalogs" / "00000002.parquet").write_bytes(b"PAR1")
    with app_client(lambda: Recommender.load(bundle), state, wait=False) as client:
        wait_until(lambda: client.get("/ready").json()["status"] == "failed")
        assert "00000002.parquet is damaged" in str(client.app.state.service.failure)


@pytest.mark.parametrize("on_disk", [False, True])
def test_the_last_versions_are_kept_and_the_first(tmp_path: Path, on_disk: bool) -> None:
    tables = [pa.table({"item": [str(number)]}) for number in range(1, KEPT + 5)]
    versions = CatalogVersions(tmp_path if on_disk else None, tables[0], "f")
    for number, table in enumerate(tables[1:], 2):
        assert versions.add(table) == number
    newest = len(tables)
    assert versions.known() == [1, *range(newest - KEPT + 1, newest + 1)]
    assert versions.table(newest - 1).equals(tables[newest - 2])
    assert versions.table(1).equals(tables[0])
    with pytest.raises(ValueError, match="there is no version 2 of the catalog; there are \\[1, "):
        versions.table(2)
