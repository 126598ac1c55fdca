import numpy as np
import pytest

from atspeed.data import Dataset, ItemSequences
from atspeed.data.dataset import item_table
from atspeed.decoding import ItemTrie
from atspeed.preparation.data_figure import draw_report
from atspeed.preparation.data_report import NO_SIDS, SplitRow, describe
from atspeed.preparation.data_tables import tables_of
from atspeed.preparation.sid_statistics import describe_sids
from atspeed.preparation.spread import Spread

SIDS = [["<a_0>", "<b_0>"], ["<a_0>", "<b_1>"], ["<a_0>", "<b_1>"], ["<a_1>", "<b_1>"], ["<a_0>", "<b_2>"]]
NAMES = ["soap", "comb", "pen", "cup", "hat"]


def dataset(sids: list[list[str]] | None) -> Dataset:
    return Dataset(
        item_table(NAMES, sids),
        ["u", "v", "w"],
        train=ItemSequences.from_lists([[0] * 60, [1], []]),
        valid=ItemSequences.from_lists([[1], [2], []]),
        test=ItemSequences.from_lists([[3], [], []]),
        skipped={"ratings below 4": 7},
        origin={"class_path": "mine.Source"},
    )


def test_semantic_ids_are_described_level_by_level() -> None:
    catalog = dataset(SIDS).catalog
    report = describe_sids(catalog, ItemTrie(catalog.codes))
    assert (report.num_levels, report.distinct) == (2, 4)
    assert (report.colliding_items, report.largest_collision) == (2, 2)
    first, last = report.levels
    entropy = -(0.8 * np.log2(0.8) + 0.2 * np.log2(0.2))  # four items have <a_0>, one <a_1>
    assert first.perplexity == pytest.approx(2**entropy)
    assert (first.level, first.used_codes, first.prefixes) == (0, 2, 2)
    assert first.children == Spread(1, 2.0, 3)
    assert (first.largest_share, first.ten_largest_share) == pytest.approx((0.8, 1.0))
    assert (last.level, last.used_codes, last.prefixes, last.children) == (1, 3, 4, None)
    assert (last.largest_share, last.ten_largest_share) == pytest.approx((0.4, 1.0))


def test_users_and_interactions_are_counted() -> None:
    report = describe(dataset(SIDS), "f", "mine.Writer")
    assert (report.users, report.items, report.items_without_sid) == (3, 5, 0)
    assert report.splits == [SplitRow("train", 2, 61), SplitRow("valid", 2, 2), SplitRow("test", 1, 1)]
    assert report.history_lengths["median"] == 2
    assert report.history_lengths["most"] == 62
    counts = {length: users for length, users in enumerate(report.users_by_length) if users}
    assert counts == {0: 1, 2: 1, 51: 1}, "the last entry counts all longer ones"
    assert report.skipped == {"ratings below 4": 7}
    assert [row.num_beams for row in report.trie_drafter] == [1, 5, 10, 20]
    assert len(tables_of(report)) == 4
    assert len(draw_report(report).axes) == 5  # four panels, one of which has two axes


def test_a_data_set_without_semantic_ids_is_described() -> None:
    report = describe(dataset(None), "f", "mine.Writer")
    assert (report.items_without_sid, report.sids, report.trie_drafter) == (5, None, [])
    assert report.conclusion == NO_SIDS
    assert len(tables_of(report)) == 2
    assert len(draw_report(report).axes) == 1


def test_no_user_is_an_error() -> None:
    nobody = ItemSequences.from_lists([])
    with pytest.raises(ValueError, match="the data set has no user"):
        describe(Dataset(item_table(NAMES, SIDS), [], nobody, nobody, nobody), "f", "mine.Writer")
