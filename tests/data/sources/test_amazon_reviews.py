import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from atspeed.data import AmazonReviews, GlobalTime

Record = dict[str, Any]
REVIEWS = [("A1", "B01", 5.0, 3), ("A2", "B02", 4.0, 1), ("A1", "B02", 1.0, 1), ("A1", "B03", 4.0, 2)]
"""User, item, rating, time."""


def reviews_2018() -> list[Record]:
    return [
        {
            "overall": rating,
            "verified": True,
            "reviewTime": "09 1, 2016",
            "reviewerID": user,
            "asin": item,
            "style": {"Size:": " large"},
            "reviewText": 'Says "so",\nand more.',
            "unixReviewTime": 1_472_688_000 + 86_400 * time,
        }
        for user, item, rating, time in REVIEWS
    ]


def reviews_2023() -> list[Record]:
    return [
        {
            "rating": rating,
            "title": "Good",
            "images": [],
            "asin": "variant",
            "parent_asin": item,
            "user_id": user,
            "timestamp": 1_588_687_728_923 + time,
            "verified_purchase": True,
        }
        for user, item, rating, time in REVIEWS
    ]


def write(file: Path, records: list[Record]) -> Path:
    file.write_bytes(gzip.compress("".join(json.dumps(record) + "\n" for record in records).encode()))
    return file


def write_csv(file: Path) -> Path:
    names = ["user_id", "parent_asin", "rating", "timestamp"]
    lines = [",".join(names), *(",".join(str(record[name]) for name in names) for record in reviews_2023())]
    file.write_bytes(gzip.compress("\n".join(lines).encode()))
    return file


def test_both_years_are_read_and_told_by_their_fields(tmp_path: Path) -> None:
    files = [
        write(tmp_path / "Beauty.json.gz", reviews_2018()),
        write(tmp_path / "Beauty.jsonl.gz", reviews_2023()),
        write_csv(tmp_path / "Beauty.csv.gz"),
    ]
    for file in files:
        data = AmazonReviews(file).load()
        assert (data.items.to_pydict(), data.users) == ({"item": ["B01", "B02", "B03"]}, ["A1", "A2"])
        assert (data.train.tolist(), data.valid.tolist(), data.test.tolist()) == ([[1], [1]], [[2], []], [[0], []])
        data = AmazonReviews(file, split=GlobalTime(ratio=(1, 0, 0))).load()
        assert (data.items["item"].to_pylist(), data.users, data.train.tolist()) == (["B01", "B03"], ["A1"], [[1, 0]])


@pytest.mark.parametrize(("year", "item"), [(2018, "asin"), (2023, "parent_asin")])
def test_the_first_title_of_an_item_counts(tmp_path: Path, year: int, item: str) -> None:
    records = reviews_2018() if year == 2018 else reviews_2023()
    titles = [{item: "B03", "title": "Comb"}, {item: "B03", "title": "Brush"}, {item: "B01"}, {item: "B9", "title": ""}]
    meta = write(tmp_path / "meta.jsonl.gz", titles)
    data = AmazonReviews(write(tmp_path / "a.jsonl.gz", records), metadata=meta).load()
    assert data.items["title"].to_pylist() == [None, None, "Comb"]
    assert data.skipped == {"items of meta.jsonl.gz without an interaction": 1}


def test_metadata_of_another_year_is_refused(tmp_path: Path) -> None:
    meta = write(tmp_path / "meta.jsonl.gz", [{"asin": "B01", "title": "Soap"}])
    with pytest.raises(ValueError, match="meta.jsonl.gz has no column 'parent_asin'; it has 'asin', 'title'$"):
        AmazonReviews(write_csv(tmp_path / "a.csv.gz"), metadata=meta).load()


def test_other_fields_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "a.json.gz", [{"reviewerID": "A1", "asin": "B01"}])
    with pytest.raises(ValueError, match=r"expected the fields reviewerID, .* \(2023\); they are reviewerID, asin$"):
        AmazonReviews(file).load()


def test_a_malformed_review_is_named_or_counted(tmp_path: Path) -> None:
    file = write(tmp_path / "a.json.gz", [*reviews_2018(), {**reviews_2018()[0], "unixReviewTime": None}])
    with pytest.raises(ValueError, match="a.json.gz:5: unixReviewTime is missing; expected a number"):
        AmazonReviews(file).load()
    assert AmazonReviews(file, skip_malformed=True).load().skipped == {"malformed lines of a.json.gz": 1}


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "a.json.gz", reviews_2018())
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(ValueError, match="a.json.gz: damaged or truncated after line 4"):
        AmazonReviews(file).load()
