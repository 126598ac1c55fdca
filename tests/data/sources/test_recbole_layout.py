import json
from pathlib import Path

import pytest

from atspeed.data import GlobalTime, RecBoleLayout

INTER = """user_id:token\titem_id:token\trating:float\ttimestamp:float
196\t242\t3\t881250949
186\t302\t4\t891717742
196\t302\t5\t881250951
196\t51\t4\t881250950
"""
ITEM = """item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq
302\tL.A. Confidential\t1997\tCrime Film-Noir Mystery Thriller
1\tToy Story\t1995\tAnimation Children's Comedy
242\t\t1997\tComedy
"""


def write(folder: Path, inter: str = INTER, item: str | None = ITEM) -> Path:
    (folder / "ml.inter").write_text(inter)
    if item is not None:
        (folder / "ml.item").write_text(item)
    return folder / "ml.inter"


def test_atomic_files_are_read(tmp_path: Path) -> None:
    data = RecBoleLayout(write(tmp_path)).load()
    assert data.items.to_pydict() == {"item": ["242", "302", "51"]}
    assert data.users == ["196", "186"]
    assert (data.train.tolist(), data.valid.tolist(), data.test.tolist()) == ([[0], [1]], [[2], []], [[1], []])
    data = RecBoleLayout(tmp_path / "ml.inter", split=GlobalTime(ratio=(1, 0, 0))).load()
    assert data.items["item"].to_pylist() == ["302", "51"]
    assert data.train.tolist() == [[1, 0]]


def test_titles_are_read_where_their_column_is_known(tmp_path: Path) -> None:
    file = write(tmp_path)
    data = RecBoleLayout(file, title="movie_title").load()
    assert data.items["title"].to_pylist() == [None, "L.A. Confidential", None]
    assert data.skipped == {"items of ml.item without an interaction": 1}
    write(tmp_path, item=ITEM.replace("movie_title", "title"))
    assert RecBoleLayout(file).load().items.equals(data.items)


def test_titles_belong_to_items_with_semantic_ids_as_well(tmp_path: Path) -> None:
    (tmp_path / "sids.json").write_text(json.dumps({name: ["<a_1>"] for name in ("1", "51", "242", "302")}))
    data = RecBoleLayout(write(tmp_path), title="movie_title", sids=tmp_path / "sids.json").load()
    assert data.items["item"].to_pylist() == ["242", "302", "51", "1"]
    assert data.items["title"].to_pylist() == [None, "L.A. Confidential", None, "Toy Story"]
    assert data.skipped == {}


@pytest.mark.parametrize(
    ("inter", "message"),
    [
        (
            INTER.replace(":token", ""),
            "ml.inter: expected a header such as user_id:token; it is 'user_id item_id rating",
        ),
        (INTER.replace("\t", ","), "ml.inter has no column 'user_id'; it has 'user_id'|no column 'item_id'"),
        (
            INTER.replace("item_id", "movie"),
            "ml.inter has no column 'item_id'; it has 'user_id', 'movie', .*source.item",
        ),
        (INTER.replace("891717742", ""), "ml.inter:3: timestamp is missing"),
        (INTER.replace("\t4\t891717742", ""), "ml.inter:3: 2 values; expected 4"),
    ],
)
def test_bad_files_are_refused_by_name(tmp_path: Path, inter: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RecBoleLayout(write(tmp_path, inter)).load()


def test_a_title_that_is_asked_for_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ml.item has no column 'name'; it has .item_id., .movie_title"):
        RecBoleLayout(write(tmp_path), title="name").load()
    (tmp_path / "ml.item").unlink()
    with pytest.raises(FileNotFoundError, match="ml.item is missing"):
        RecBoleLayout(tmp_path / "ml.inter", title="name").load()


def test_malformed_lines_of_both_files_are_counted(tmp_path: Path) -> None:
    file = write(tmp_path, INTER + "x\n", ITEM + "51\n")
    with pytest.raises(ValueError, match="ml.inter:6: 1 values"):
        RecBoleLayout(file).load()
    data = RecBoleLayout(file, title="movie_title", skip_malformed=True).load()
    assert data.skipped == {
        "malformed lines of ml.inter": 1,
        "malformed lines of ml.item": 1,
        "items of ml.item without an interaction": 1,
    }
