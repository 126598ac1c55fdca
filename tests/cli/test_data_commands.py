"""The commands of docs/data.md, on small files in the formats that it names."""

import csv
import gzip
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from atspeed.data import AtSpeedWriter, Dataset, EmbeddedCatalog, LCRecWriter, MiniOneRecWriter, Prepared
from atspeed.data.item_sequences import concatenate
from atspeed.data.splitters import leave_one_out
from tests.cli.running import ROOT, run_here

COMMANDS = [
    shlex.split(command)
    for command in re.findall(
        r"python -m atspeed ((?:prepare|semantic-ids) [^`\n]*)", (ROOT / "docs/data.md").read_text()
    )
]


def small_dataset() -> Dataset:
    data = EmbeddedCatalog(num_users=30, num_items=130).load()
    train, valid, test = leave_one_out(concatenate(data.train, data.valid, data.test))
    titles = pa.array([f"Title of {name}" for name in data.items["item"].to_pylist()])
    items = data.items.select(["item", "sid"]).append_column("title", titles)
    return replace(data, items=items, train=train, valid=valid, test=test)


def rows(data: Dataset) -> Iterator[tuple[str, str, int]]:
    """Yield user, item and time of each interaction."""
    names = data.items["item"].to_pylist()
    for user, items in zip(data.users, concatenate(data.train, data.valid, data.test), strict=True):
        yield from ((user, names[item], 1000 + time) for time, item in enumerate(items))


def write_csv(file: Path, header: list[str], lines: list[Any], delimiter: str = ",") -> None:
    with file.open("w", newline="") as out:
        writer = csv.writer(out, delimiter=delimiter, lineterminator="\n")
        writer.writerows([header, *lines])


def write_records(file: Path, records: list[dict[str, Any]]) -> None:
    file.write_bytes(gzip.compress("".join(json.dumps(record) + "\n" for record in records).encode()))


def write_everything(folder: Path) -> None:
    """Write a small data set in all formats, under the names that the commands have."""
    data = small_dataset()
    for name, writer in (("beauty", AtSpeedWriter()), ("lcrec", LCRecWriter()), ("minionerec", MiniOneRecWriter())):
        (folder / name).mkdir()
        writer.write(data, folder / name)
    interactions, names = list(rows(data)), data.items["item"].to_pylist()
    write_csv(folder / "ratings.csv", ["user", "item", "timestamp"], interactions)
    write_csv(folder / "more-ratings.csv", ["user", "item", "timestamp"], [*interactions, ("new", "new", 1)])
    write_records(
        folder / "Beauty.json.gz",
        [{"reviewerID": user, "asin": item, "overall": 5.0, "unixReviewTime": t} for user, item, t in interactions],
    )
    write_records(folder / "meta_Beauty.json.gz", [{"asin": name, "title": f"Title of {name}"} for name in names])
    (folder / "ml-100k").mkdir()
    header = ["user_id:token", "item_id:token", "timestamp:float"]
    write_csv(folder / "ml-100k" / "ml-100k.inter", header, interactions, "\t")
    header = ["item_id:token", "movie_title:token_seq"]
    write_csv(folder / "ml-100k" / "ml-100k.item", header, [(name, "A title") for name in names], "\t")
    codes = data.catalog.codes.numpy()
    (folder / "openonerec").mkdir()
    columns = {"uid": [1, 2], "split": [0, 1], "hist_video_pid": [[4, 5], [6, 7]], "target_video_pid": [[8], [9]]}
    pq.write_table(pa.table(columns), folder / "openonerec" / "onerec_bench_release.parquet")
    pids = pa.table({"pid": range(len(codes)), "sid": codes.tolist()})
    pq.write_table(pids, folder / "openonerec" / "video_ad_pid2sid.parquet")
    for split, items in (("training", [4, 5, 6]), ("evaluation", [4, 5, 6, 7]), ("testing", [4, 5, 6, 7, 8])):
        (folder / "grid" / split).mkdir(parents=True)
        table = pa.table({"user_id": [1], "sequence_data": [items]})
        pq.write_table(table, folder / "grid" / split / "0.parquet")
    torch.save(torch.from_numpy(codes.T.copy()), folder / "grid" / "sids.pt")
    seen = list(dict.fromkeys(item for _, item, _ in interactions))
    embeddings = np.random.default_rng(0).normal(size=(len(seen) + 1, 8)).astype(np.float32)
    np.save(folder / "items.npy", embeddings[:-1])
    pq.write_table(pa.table({"item": [*seen, "new"], "embedding": embeddings.tolist()}), folder / "more-items.parquet")


@pytest.mark.e2e
def test_every_command_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss", reason="needs the extra: pip install 'atspeed[sids]'")
    write_everything(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert len(COMMANDS) == 13
    for command in COMMANDS:
        shown = run_here(*command)
        out = Path(command[command.index("--out") + 1])
        assert f"written to {out}" in shown, shlex.join(command)
        if command[0] == "prepare" and "--writer" not in command:
            assert len(Prepared(out).load().users) > 0
    sids = pq.read_table("text-sids/sids.parquet")["item"].to_pylist()
    assert sids[-1] == "new"
    assert {file.name for file in Path("as-lcrec").iterdir()} >= {
        "data.inter.json",
        "data.index.json",
    }
    titles = Prepared(Path("prepared/amazon")).load().items["title"].to_pylist()
    assert None not in titles
