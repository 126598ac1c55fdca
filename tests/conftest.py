"""Shared data, and a guard against tests that leak."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """Fail a test that leaves environment variables or a process group behind."""
    before = dict(os.environ)
    yield
    changed = {name for name in before.keys() | os.environ.keys() if before.get(name) != os.environ.get(name)}
    changed -= {"PYTEST_CURRENT_TEST"}
    # libraries set these once per process, on import or at the first seed
    allowed = {
        "KINETO_LOG_LEVEL",
        "PL_GLOBAL_SEED",
        "PL_SEED_WORKERS",
        "POSSIBLE_USER_WARNINGS",
        "PYTORCH_NVML_BASED_CUDA_CHECK",
        "TORCHINDUCTOR_CACHE_DIR",
        "TPU_ML_PLATFORM",
    }
    assert not changed - allowed, f"the test changed the environment: {sorted(changed - allowed)}"
    assert not torch.distributed.is_initialized(), "the test left a process group behind"


def shared_folder(name: str) -> Path:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here")
    return folder


@pytest.fixture
def beauty() -> Path:
    """The real Amazon Beauty data, in AtSpeed's layout."""
    return shared_folder("beauty")


@pytest.fixture
def lcrec() -> Path:
    """The real Amazon Instruments data, in LC-Rec's layout."""
    return shared_folder("lcrec")


@pytest.fixture
def minionerec() -> Path:
    """The real Amazon Industrial and Scientific data, in MiniOneRec's layout, without its training rows."""
    return shared_folder("minionerec")


@pytest.fixture
def write_layout(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a small data set in AtSpeed's layout; keyword arguments replace a file's content."""

    def write(**replaced: str | None) -> Path:
        sids = {
            "0": ["<a_1>", "<b_2>"],
            "1": ["<a_1>", "<b_10>"],
            "2": ["<a_2>", "<b_2>"],
            "3": ["<a_2>", "<b_2>"],
        }
        files = {
            "sids": json.dumps(sids),
            "train": "7 1 2 3\n8 4 1\n9 2 2 3 4\n",
            "valid": "7 4\n8\n9 1 2\n",
            "test": "7 2 1 2\n8\n9 3\n",
            **replaced,
        }
        folder = tmp_path / "layout"
        folder.mkdir()
        for name, content in files.items():
            if content is not None:
                (folder / ("items.json" if name == "sids" else f"sequential_{name}.txt")).write_text(content)
        return folder

    return write
