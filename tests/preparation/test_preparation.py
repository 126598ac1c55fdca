from collections.abc import Callable
from pathlib import Path

import pytest

from atspeed.data import AtSpeedLayout, Dataset, EmbeddedCatalog
from atspeed.data.writers import DatasetWriter
from atspeed.preparation import Preparation
from atspeed.preparation.preparation import settings_of


class FailingWriter(DatasetWriter):
    def write(self, dataset: Dataset, folder: Path) -> None:
        (folder / "half").write_text("written")
        raise ValueError("the format cannot hold this")


def test_a_fault_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the format cannot hold this"):
        Preparation(tmp_path / "out", FailingWriter()).run(EmbeddedCatalog(40, 140))
    assert list(tmp_path.iterdir()) == []


def test_only_what_prepare_wrote_from_the_same_data_is_left_alone(
    write_layout: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    layout, out = write_layout(), tmp_path / "out"
    out.mkdir()  # empty: nothing is lost
    Preparation(out).run(AtSpeedLayout(layout))
    before = {file: file.stat().st_mtime_ns for file in out.rglob("*")}
    with caplog.at_level("INFO"):
        Preparation(out).run(AtSpeedLayout(layout))
    assert "holds this data set already: nothing is written" in caplog.text
    with pytest.raises(ValueError, match=r"out '.*out' holds another data set; name another folder, or delete it"):
        Preparation(out).run(EmbeddedCatalog(40, 140))
    assert {file: file.stat().st_mtime_ns for file in out.rglob("*")} == before


@pytest.mark.parametrize("name", ["folder", "file"])
def test_what_others_wrote_is_refused_before_anything_is_read(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    for file in (tmp_path / "folder" / "mine", tmp_path / "file"):
        file.write_text("precious")
    with pytest.raises(ValueError, match="exists and was not written by prepare; name another folder, or delete it"):
        Preparation(tmp_path / name).run(AtSpeedLayout(tmp_path / "nowhere"))
    assert (tmp_path / "folder" / "mine").read_text() == (tmp_path / "file").read_text() == "precious"


class Window:
    def __init__(self, days: int) -> None:
        self.days = days


class WindowedSource(EmbeddedCatalog):
    def __init__(self, files: list[Path], window: Window, names: dict[str, str | None]) -> None:
        super().__init__(40, 140)
        self.files, self.window, self.names = files, window, names


def test_the_settings_of_a_source_are_kept_with_those_of_its_parts() -> None:
    settings = settings_of(WindowedSource([Path("a/b")], Window(3), {"user": "uid", "rating": None}))
    assert settings["class_path"].endswith("test_preparation.WindowedSource")
    assert settings["init_args"] == {
        "files": ["a/b"],
        "window": {"class_path": "tests.preparation.test_preparation.Window", "init_args": {"days": 3}},
        "names": {"user": "uid", "rating": None},
    }
