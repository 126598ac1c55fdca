import threading
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from atspeed.benchmark import HFGenerate
from atspeed.decoding import ItemFilter
from atspeed.decoding.execution import Captured
from atspeed.recommender import Answer, Recommender, edit_items
from tests.recommender.tiny_bundle import write_tiny_bundle

HISTORIES = [[f"item-{(7 * row + step) % 140}" for step in range(1 + row % 9)] for row in range(23)]


@pytest.fixture(scope="module")
def recommender(tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    return Recommender.load(write_tiny_bundle(tmp_path_factory.mktemp("recommender") / "bundle"))


def same(ours: list[Answer], theirs: list[Answer]) -> bool:
    """Whether answers are the same, but for rounding."""
    return all(
        [each.sid for each in our.recommended] == [each.sid for each in their.recommended]
        and all(abs(a.score - b.score) < 1e-4 for a, b in zip(our.recommended, their.recommended, strict=True))
        for our, their in zip(ours, theirs, strict=True)
    )


def test_ragged_batches_of_any_size_get_the_answers_of_generate(recommender: Recommender) -> None:
    answers = recommender.recommend(HISTORIES, k=8)
    served = recommender.served
    generate = HFGenerate(
        recommender.bundle.source("target").build(served.encoder.vocabulary, Path()), served.encoder.spelling.sids
    )
    for history, answer in zip(HISTORIES, answers, strict=True):
        prompt = served.encoder.encode(served.indices(history))[None]
        tokens, scores = generate(prompt, torch.ones_like(prompt, dtype=torch.bool), 8)
        found = served.encoder.vocabulary.code_tokens
        assert [found(each.sid) for each in answer.recommended] == tokens[0].tolist()
        assert [each.score for each in answer.recommended] == pytest.approx(scores[0].tolist(), abs=1e-4)
    assert same(recommender.recommend(HISTORIES[::-1], k=8)[::-1], answers)
    assert recommender.recommend([]) == []


def test_fewer_recommendations_are_the_first_of_the_beam_width(recommender: Recommender) -> None:
    full, three = recommender.recommend(HISTORIES[:5], k=8), recommender.recommend(HISTORIES[:5], k=3)
    assert [answer.recommended[:3] for answer in full] == [answer.recommended for answer in three]
    for k in (0, 9):
        with pytest.raises(ValueError, match=f"history 0: k is {k}; expected 1 to 8, the beam width of the bundle"):
            recommender.recommend(HISTORIES[:1], k=k)


def items_of(answer: Answer) -> list[str]:
    return [item for each in answer.recommended for item in each.items]


def test_seen_items_and_filters(recommender: Recommender) -> None:
    free = recommender.recommend(HISTORIES, k=8)
    seen = [items_of(answer)[0] for answer in free]
    histories = [[*history, item] for history, item in zip(HISTORIES, seen, strict=True)]
    for history, answer in zip(histories, recommender.recommend(histories, k=8, exclude_seen=True), strict=True):
        assert not set(items_of(answer)) & set(history)
        assert len(answer.recommended) == 8
    names = recommender.served.catalog.names
    odd = torch.tensor([index % 2 == 1 for index in range(140)])
    each = torch.stack([odd if row % 2 else ~odd for row in range(len(HISTORIES))])
    for mask in (odd, each):
        answers = recommender.recommend(HISTORIES, k=8, item_filter=ItemFilter(mask))
        for row, answer in enumerate(answers):
            allowed = {name for name, wanted in zip(names, mask.expand(23, -1)[row].tolist(), strict=True) if wanted}
            assert set(items_of(answer)) <= allowed


def test_masks_by_name_and_metadata(recommender: Recommender) -> None:
    served = recommender.served
    items = served.items.to_pylist()

    def chosen(**filters: object) -> set[str]:
        mask = served.item_mask(**filters)  # type: ignore[arg-type]
        assert mask is not None
        return {item["item"] for item, wanted in zip(items, mask.tolist(), strict=True) if wanted}

    assert served.item_mask() is None
    assert chosen(allow=["item-3", "item-5"], deny=["item-5"]) == {"item-3"}
    assert chosen(allow=[]) == set()
    teas = {item["item"] for item in items if item["category"] in ("tea", "mug")}
    assert chosen(where={"category": ["tea", "mug"]}) == teas
    one = min(teas)
    assert chosen(where={"category": ["tea", "mug"]}, deny=[one]) == teas - {one}
    with pytest.raises(
        ValueError, match="no column 'colour' of texts to filter by; they have \\['title', 'category'\\]"
    ):
        served.item_mask(where={"colour": ["red"]})
    with pytest.raises(ValueError, match="item 'x' is not in the catalog"):
        served.item_mask(deny=["x"])


def test_lists_of_texts_are_filtered_by_any_of_them(recommender: Recommender) -> None:
    served = recommender.served
    tags = pa.array(
        [["old", "red"] if row == 4 else [] if row == 5 else None for row in range(140)], pa.list_(pa.string())
    )
    tagged = type(served)(recommender.bundle, served.items.append_column("tags", tags), 9, recommender.device)
    mask = tagged.item_mask(where={"tags": ["red", "blue"]})
    assert mask is not None
    assert mask.nonzero()[:, 0].tolist() == [4]


def test_users_without_history_get_popular_items(recommender: Recommender) -> None:
    popular, asked = recommender.recommend([[], HISTORIES[3]], k=5)
    assert popular.target_calls == 0 < asked.target_calls
    counts = dict(
        zip(recommender.served.catalog.names, recommender.served.items["train_interactions"].to_pylist(), strict=True)
    )
    totals = [sum(counts[item] for item in each.items) for each in popular.recommended]
    assert totals[0] == max(counts.values())
    assert [each.score for each in popular.recommended] == sorted(
        (each.score for each in popular.recommended), reverse=True
    )
    mask = recommender.served.item_mask(deny=[popular.recommended[0].items[0]])
    without = recommender.answer([recommender.request([], 5, item_mask=mask)])[0]
    assert popular.recommended[0].items[0] not in items_of(without)
    assert items_of(without)[0] == items_of(popular)[1]
    nothing = recommender.served.item_mask(allow=[])
    for history in ([], ["item-3"]):
        assert recommender.answer([recommender.request(history, 5, item_mask=nothing)])[0].recommended == []


def test_unknown_items_are_refused_or_skipped(recommender: Recommender) -> None:
    with pytest.raises(ValueError, match="history 1: item 'nothing' is not in the catalog"):
        recommender.recommend([["item-1"], ["item-2", "nothing"]])
    request = recommender.request(["item-1", "nothing", "item-2"], skip_unknown_items=True)
    assert request.skipped == ["nothing"]
    with_, without = ([["item-1", "nothing", "item-2"]], [["item-1", "item-2"]])
    assert same(recommender.recommend(with_, skip_unknown_items=True, k=4), recommender.recommend(without, k=4))


@pytest.mark.parametrize("verification", ["lossless", "relaxed"])
def test_a_seed_repeats_its_answer_whatever_shares_the_batch(recommender: Recommender, verification: str) -> None:
    def draw(histories: list[list[str]], seed: int | None) -> list[Answer]:
        return recommender.recommend(histories, k=8, verification=verification, seed=seed)

    together = draw(HISTORIES, 3)
    assert same(together, [draw([history], 3)[0] for history in HISTORIES])
    assert not same(together, draw(HISTORIES, 4))
    assert not same(draw(HISTORIES, None), draw(HISTORIES, None))
    assert all(recommender.request([]).seed < 2**53 for _ in range(50)), "as exact as JavaScript reads it"
    for seed in (-1, 2**63):
        with pytest.raises(ValueError, match=f"seed is {seed}; expected 0 to"):
            draw(HISTORIES[:1], seed)


def test_verification_is_chosen_by_name(recommender: Recommender) -> None:
    strict, bounded = (recommender.recommend(HISTORIES[:4], k=8, verification=name) for name in ("strict", "bounded"))
    assert same(strict, recommender.recommend(HISTORIES[:4], k=8))
    assert [answer.recommended[0].sid for answer in bounded]
    with pytest.raises(ValueError, match="verification is 'lax'; expected one of strict, bounded, relaxed, lossless"):
        recommender.recommend(HISTORIES[:1], verification="lax")
    plain = recommender.answer([recommender.request(history, 8, speculation=False) for history in HISTORIES[:4]])
    assert same(strict, plain)
    assert all(answer.target_calls == 4 and answer.draft_calls == 0 for answer in plain)
    assert all(answer.draft_calls for answer in strict)


def test_threads_take_turns(recommender: Recommender) -> None:
    expected = recommender.recommend(HISTORIES, k=8)
    found: dict[int, list[Answer]] = {}
    threads = [
        threading.Thread(target=lambda row=row: found.update({row: recommender.recommend(HISTORIES, k=8)}))
        for row in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(same(answers, expected) for answers in found.values())
    assert len(found) == 4


def test_another_catalog_is_served_and_older_requests_keep_theirs(tmp_path: Path) -> None:
    recommender = Recommender.load(write_tiny_bundle(tmp_path / "bundle"))
    first = recommender.served
    (before,) = recommender.recommend([["item-3"]], k=8)
    gone = before.recommended[0].items[0]
    request = recommender.request(["item-3"], 8)
    sid = before.recommended[0].sid
    edited = edit_items(first.items, add=[{"item": "new", "sid": sid}], remove=[gone])
    served = recommender.build(edited, 2)
    assert recommender.served is first
    recommender.served = served
    (after,) = recommender.recommend([["item-3"]], k=8)
    assert after.recommended[0].sid == sid
    assert "new" in after.recommended[0].items
    assert gone not in items_of(after)
    assert recommender.answer([request])[0] == before
    with pytest.raises(ValueError, match=f"item '{gone}' is not in the catalog"):
        recommender.recommend([[gone]])
    for wrong, message in (
        ({"item": "x", "sid": [*sid[:3], "<d_99>"]}, "item 'x' has the code '<d_99>', which the model has not learnt"),
        ({"item": "x", "sid": sid[:3]}, "item 'x' has a semantic ID of 3 codes"),
    ):
        with pytest.raises(ValueError, match=message):
            recommender.build(edit_items(edited, add=[wrong]), 3)


def test_captured_rounds_serve_changed_catalogs_without_being_captured_again(tmp_path: Path) -> None:
    folder = write_tiny_bundle(tmp_path / "bundle")
    num_beams = Recommender.load(folder).num_beams
    execution = Captured((num_beams,), batch_sizes=(1, 32), prompt_lengths=(64,))
    eager, recommender = Recommender.load(folder), Recommender.load(folder, execution=execution)
    captures = execution.captures
    assert [capture.shape.batch_size for capture in captures] == [1, 32]
    older = recommender.request(["item-3"], 8)
    for version, item in enumerate(("item-7", "item-9"), start=2):
        for each in (eager, recommender):
            each.served = each.build(edit_items(each.served.items, remove=[item]), version)
        histories = [history for history in HISTORIES if not {"item-7", "item-9"} & {*history}]
        assert same(recommender.recommend(histories, k=8), eager.recommend(histories, k=8))
    assert same(recommender.answer([older]), Recommender.load(folder).recommend([["item-3"]], k=8))
    assert execution.captures == captures
