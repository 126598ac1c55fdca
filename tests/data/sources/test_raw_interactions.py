import gzip
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from atspeed.data import Dataset, GivenSplit, GlobalTime, Interactions

HEADER = ["user", "item", "timestamp", "rating"]
ROWS: list[list[Any]] = [
    ["ann", 30, 5, 5.0],
    ["bob", 7, 1, 4.0],
    ["ann", 7, 3, None],
    ["ann", 11, 3, 2.5],
    ["ann", 30, 5, 5.0],
    ['"b", é', 7, 9.5, 4.0],
    ["bob", 30, 1e9, 4.5],
    ["bob", 7, 1, 4.0],
]


def as_delimited(delimiter: str, rows: list[list[Any]] = ROWS, header: list[str] = HEADER) -> bytes:
    def cell(value: Any) -> str:
        text = "" if value is None else str(value)
        return '"' + text.replace('"', '""') + '"' if '"' in text else text

    return "".join(delimiter.join(map(cell, row)) + "\n" for row in [header, *rows]).encode()


def as_json_lines(rows: list[list[Any]] = ROWS) -> bytes:
    records = (dict(zip(HEADER, row, strict=True)) for row in rows)
    return "".join(json.dumps({"review": {"stars": []}, **record}) + "\n" for record in records).encode()


def write_parquet(file: Path, rows: list[list[Any]] = ROWS) -> None:
    columns = {name: pa.array(values) for name, values in zip(HEADER, zip(*rows, strict=True), strict=True)}
    pq.write_table(pa.table({"other": pa.array(range(len(rows))), **columns}), file, row_group_size=3)


def write(file: Path) -> Path:
    delimiter = "\t" if ".tsv" in file.name else ","
    if file.suffix == ".parquet":
        write_parquet(file)
        return file
    content = as_json_lines() if ".json" in file.name else as_delimited(delimiter)
    file.write_bytes(gzip.compress(content) if file.suffix == ".gz" else content)
    return file


def content(data: Dataset) -> Any:
    splits = [split.tolist() for split in (data.train, data.valid, data.test)]
    return data.items.to_pydict(), data.users, splits, data.skipped


FORMATS = ["csv", "csv.gz", "tsv", "tsv.gz", "json", "jsonl", "jsonl.gz", "parquet"]


@pytest.mark.parametrize("split", [None, GlobalTime(min_train=1)])
@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_gives_the_same_data_set(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, suffix: str, split: GlobalTime | None
) -> None:
    caplog.set_level(logging.DEBUG)
    data = Interactions(write(tmp_path / f"ratings.{suffix}"), split=split).load()
    assert "line by line" not in caplog.text
    if split is None:
        assert content(data) == (
            {"item": ["30", "7", "11"]},
            ["ann", "bob", '"b", é'],
            [[[1, 2], [1], [1]], [[0], [1], []], [[0], [0], []]],
            {},
        )
    else:
        assert content(data) == (
            {"item": ["30", "7"]},
            ["ann", "bob"],
            [[[0, 0], [1, 1]], [[], []], [[], [0]]],
            {
                "interactions rated below 4 or not rated": 2,
                "users with fewer than 1 training interactions": 1,
                "interactions of users with fewer than 1 training interactions": 1,
                "items without an interaction that is left": 1,
            },
        )


@pytest.mark.parametrize("suffix", FORMATS)
def test_line_by_line_reads_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    file = write(tmp_path / f"ratings.{suffix}")
    fast = Interactions(file, split=GlobalTime(min_train=1)).load()

    def fail(*arguments: Any) -> pa.Table:
        raise OSError("no")

    for name in ("DelimitedFile", "JsonLinesFile", "ParquetFile"):
        monkeypatch.setattr(f"atspeed.data.sources.table_files.{name}.read", fail)
    monkeypatch.setattr("atspeed.data.sources.checked_columns.CHUNK_ROWS", 3)
    assert content(Interactions(file, split=GlobalTime(min_train=1)).load()) == content(fast)


def test_columns_have_the_names_of_the_settings(tmp_path: Path) -> None:
    header = ["uid", "timestamp", "when", "stars"]
    (tmp_path / "a.csv").write_bytes(as_delimited(",", header=header))
    (tmp_path / "b.csv").write_bytes(as_delimited(","))
    settings = {"user": "uid", "item": "timestamp", "timestamp": "when", "rating": "stars"}
    found = Interactions(tmp_path / "a.csv", **settings, split=GlobalTime(min_train=1)).load()
    assert content(found) == content(Interactions(tmp_path / "b.csv", split=GlobalTime(min_train=1)).load())


def test_the_column_of_a_given_split_is_read(tmp_path: Path) -> None:
    lines = ["user,item,timestamp,fold", "a,x,3,train", "a,y,1,train", "a,z,2,test", "b,x,1,valid"]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    data = Interactions(tmp_path / "a.csv", split=GivenSplit("fold")).load()
    assert content(data)[2] == [[[1, 0], []], [[], [0]], [[2], []]]
    (tmp_path / "a.csv").write_text("\n".join([*lines, "b,x,1,dev"]))
    with pytest.raises(ValueError, match="a.csv:6: fold is 'dev'; expected train or valid or test; data.source.skip"):
        Interactions(tmp_path / "a.csv", split=GivenSplit("fold")).load()


def test_values_may_have_line_ends(tmp_path: Path) -> None:
    text = 'user,item,timestamp,review\na,x,1,"one\n\ntwo, ""three"""\n\na,y,2,\n'
    (tmp_path / "a.csv").write_text(text)
    assert content(Interactions(tmp_path / "a.csv").load())[2][0] == [[0, 1]]
    (tmp_path / "a.csv").write_text(text + "a,z,soon,\n")
    with pytest.raises(ValueError, match="a.csv:7: timestamp is 'soon'"):
        Interactions(tmp_path / "a.csv").load()


def test_semantic_ids_of_a_file_are_joined(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv")
    (tmp_path / "sids.json").write_text(json.dumps({"7": ["<a_1>"], "30": ["<a_2>"], "9": ["<a_3>"]}))
    with pytest.raises(ValueError, match="item '11' has no semantic ID, and 1 interactions are with such items"):
        Interactions(file, sids=tmp_path / "sids.json").load()
    data = Interactions(file, sids=tmp_path / "sids.json", skip_malformed=True).load()
    assert data.catalog.names == ("30", "7", "9")
    assert data.train.tolist() == [[1], [1], [1]]
    assert data.skipped == {"items without semantic ID": 1, "interactions with an item without semantic ID": 1}


BAD_TEXT = [
    ("a.csv", b"", "a.csv is empty; expected a header"),
    ("a.csv", b"user,item,timestamp\n", "a.csv has no interaction"),
    ("a.csv", b"who,item,timestamp\n", "a.csv has no column 'user'; it has 'who', 'item', 'timestamp'; see data.sou"),
    ("a.csv", b"user,item,timestamp,user\n", "a.csv has two columns 'user'; it has"),
    ("a.csv", b"user,item,timestamp\na,x,1\na,x,nan\n", "a.csv:3: timestamp is missing; expected a number; data.sou"),
    ("a.csv", b"user,item,timestamp\na,x,1\n\na,x,\n", "a.csv:4: timestamp is missing"),
    ("a.csv", b"user,item,timestamp\na,x,1\n,x,1\n", "a.csv:3: user is missing"),
    ("a.csv", b"user,item,timestamp\na,x,1\na,x\n", "a.csv:3: 2 values; expected 3, as in the header"),
    ("a.csv", b"user,item,timestamp\na,x\xe9,1\n", r"a.csv:2: not UTF-8 \(byte 0xe9\)"),
    ("a.csv", b"user,ite\xe9m,timestamp\na,x,1\n", r"a.csv:1: not UTF-8 \(byte 0xe9\)"),
    ("a.csv", b'"user,item,timestamp\na,x,1\n', "a.csv: the header cannot be read: unexpected end of data"),
    ("a.csv", b'user,item,timestamp,b\na,x,1,"b\na,x,2,b\n', "a.csv:2: unexpected end of data .* quote that is not cl"),
    ("a.csv.gz", gzip.compress(b"user,item,timestamp\n" + b"a,x,1\n" * 999)[:-9], "a.csv.gz: damaged or truncated af"),
    ("a.csv.gz", b"user,item,timestamp\na,x,1\n", "a.csv.gz: damaged or truncated after line 0: Not a gzipped file"),
    ("a.jsonl", b"", "a.jsonl: expected JSON objects with names and values, one per line; there is none"),
    ("a.jsonl", b'{"who": 1}\n', "a.jsonl has no column 'user'; it has 'who'; see data.source.user"),
    ("a.jsonl", b'[{"user": 1}]\n', "expected JSON objects .*; line 1: expected a JSON object, not .*user"),
    ("a.jsonl", b'{"user": 1, "item": 1, "timestamp": 1}\n{"user"\n', "a.jsonl:2: not JSON: Expecting ':' delimiter"),
    ("a.jsonl", b'{"user": 1, "item": 1, "timestamp": 1}\n[1]\n', r"a.jsonl:2: expected a JSON object, not '\[1\]'"),
    ("a.jsonl", b'{"user": 1, "item": 1, "timestamp": 1}\n{"user": 2}\n', "a.jsonl:2: item is missing"),
    ("a.jsonl", b'{"user": 1, "item": 1, "timestamp": NaN}\n', "a.jsonl:1: timestamp is missing; expected a number"),
    ("a.jsonl", b'{"user": "\xe9", "item": 1, "timestamp": 1}\n', "a.jsonl:1: not UTF-8"),
    ("a.jsonl", b'{"user": "\\ud800", "item": 1, "timestamp": 1}\n', "a.jsonl:1: user is '.ud800'"),
    ("a.json.gz", gzip.compress(b'{"user": 1, "item": 1, "timestamp": 1}\n' * 99)[:-9], "a.json.gz: damaged or trunc"),
    ("a.parquet", b"PAR1", "a.parquet: not a Parquet file, or damaged"),
    ("a.txt", b"", "a.txt: expected .csv, .tsv, .jsonl, .json .* or .parquet"),
    ("a.parquet.gz", b"", "a.parquet.gz: expected .csv"),
]


@pytest.mark.parametrize(("name", "text", "message"), BAD_TEXT, ids=[message for *_, message in BAD_TEXT])
def test_bad_files_are_refused_by_name(tmp_path: Path, name: str, text: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(text)
    with pytest.raises(ValueError, match=message):
        Interactions(tmp_path / name).load()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere.csv is missing; expected a table of interactions"):
        Interactions(tmp_path / "nowhere.csv").load()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"user": pa.array([1.0, 2.0])}, "a.parquet:1: user is 1.0; expected text or a whole number"),
        ({"user": pa.array(["a", None])}, "a.parquet:2: user is missing"),
        ({"timestamp": pa.array([1.0, float("nan")])}, "a.parquet:2: timestamp is missing"),
        ({"timestamp": pa.array([1, 2], pa.time32("s"))}, "a.parquet:1: timestamp is datetime.time"),
        ({"rating": pa.array(["4", "good"])}, "a.parquet:2: rating is 'good'"),
    ],
)
def test_bad_columns_of_parquet_are_refused_by_row(tmp_path: Path, changed: dict[str, pa.Array], message: str) -> None:
    columns = {"user": pa.array([1, 2]), "item": pa.array([1, 2]), "timestamp": pa.array([1, 2]), **changed}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=message):
        Interactions(tmp_path / "a.parquet").load()


def test_a_damaged_page_of_parquet_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    write_parquet(file)
    damaged = bytearray(file.read_bytes())
    damaged[4:150] = bytes(146)
    file.write_bytes(damaged)
    with pytest.raises(ValueError, match="a.parquet: damaged after row 0"):
        Interactions(file).load()


@pytest.mark.parametrize(("suffix", "missing"), [("csv", "column"), ("jsonl", "value in the column")])
def test_a_column_of_ratings_that_is_asked_for_must_be_there(tmp_path: Path, suffix: str, missing: str) -> None:
    file = write(tmp_path / f"a.{suffix}")
    with pytest.raises(ValueError, match=f"a.{suffix} has no {missing} 'stars'"):
        Interactions(file, rating="stars").load()


def test_without_ratings_all_interactions_count(tmp_path: Path) -> None:
    for name in ("a.csv", "a.jsonl"):
        rows = [["ann", item, item, None] for item in range(10)]
        (tmp_path / name).write_bytes(as_json_lines(rows) if name == "a.jsonl" else as_delimited(",", rows))
        data = Interactions(tmp_path / name, split=GlobalTime()).load()
        assert (len(data.train.values), len(data.valid.values), len(data.test.values)) == (8, 1, 1)


@pytest.fixture
def dirty_files(tmp_path: Path) -> Callable[[str], Path]:
    """A function that writes a file in which two of five lines are malformed."""

    def make(suffix: str) -> Path:
        file = tmp_path / f"a.{suffix}"
        good: list[list[Any]] = [["ann", item, item, 5.0] for item in (1, 2, 3)]
        if suffix == "csv":
            file.write_bytes(as_delimited(",", good) + b'ann,4,soon,5\n"ann,4,4\n')
        elif suffix == "jsonl":
            file.write_bytes(b"{\n" + as_json_lines(good) + b'{"user": "ann", "item": 4.0, "timestamp": 4}\n')
        else:
            write_parquet(file, [["ann", None, 0, 5.0], *good, [None, 4, 4, 5.0]])
        return file

    return make


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_malformed_lines_are_skipped_and_counted(
    dirty_files: Callable[[str], Path], suffix: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = dirty_files(suffix)
    number = 5 if suffix == "csv" else 1
    with pytest.raises(ValueError, match=rf"a.{suffix}:{number}: .*; data.source.skip_malformed leaves such lines out"):
        Interactions(file).load()
    data = Interactions(file, skip_malformed=True).load()
    assert (data.train.tolist(), data.valid.tolist(), data.test.tolist()) == ([[0]], [[1]], [[2]])
    assert data.skipped == {f"malformed lines of a.{suffix}": 2}
    assert f"a.{suffix}:{number}: skipped" in caplog.text


def test_lines_that_an_unclosed_quote_takes_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('user,item,timestamp,text\na,x,1,b\na,x,2,"b\na,x,3,b\na,x,4,b\n')
    data = Interactions(tmp_path / "a.csv", skip_malformed=True).load()
    assert data.skipped == {"malformed lines of a.csv": 3}
    assert data.train.tolist() == [[0]]
