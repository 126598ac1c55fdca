"""The archives that users install: what is in them, and that the commands run from them without the repository."""

import os
import shutil
import stat
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

import atspeed

ROOT = Path(__file__).parents[1]
VERSION = atspeed.__version__
USERS_CALLBACKS = """
from lightning.pytorch import Callback

class Greeting(Callback):
    def on_fit_start(self, trainer, pl_module):
        print("hello from the user's own callbacks.py")
"""
TINY_FIT = (
    *("--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2", "--trainer.callbacks+", "callbacks.Greeting"),
    *("--data.source", "EmbeddedCatalog", "--data.source.num_users", "40", "--data.source.num_items", "140"),
    *("--model.network.config.hidden_size", "48", "--model.network.config.num_hidden_layers", "1"),
)


def run(*command: str | Path, cwd: Path, succeeds: bool = True) -> str:
    """Run a command without this process's PYTHONPATH, and return what it printed."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600)
    printed = done.stdout + done.stderr
    assert (done.returncode == 0) == succeeds, f"{command}\n{printed[-4000:]}"
    return printed


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The sdist, the wheel, and the wheel that is built from the sdist, as ``pip install`` of an sdist does."""
    folder = tmp_path_factory.mktemp("archives")
    build = [sys.executable, "-m", "hatchling", "build", "-d"]
    run(*build, folder, cwd=ROOT)
    sdist = folder / f"atspeed-{VERSION}.tar.gz"
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    run(*build, folder / "from_sdist", "-t", "wheel", cwd=folder / f"atspeed-{VERSION}")
    wheel = f"atspeed-{VERSION}-py3-none-any.whl"
    return {"sdist": sdist, "wheel": folder / wheel, "wheel from sdist": folder / "from_sdist" / wheel}


def package_files() -> set[str]:
    """Return the files of the package as the repository has them, links followed."""
    return {
        str((Path(folder) / name).relative_to(ROOT))
        for folder, _, names in os.walk(ROOT / "atspeed", followlinks=True)
        for name in names
        if not name.endswith(".pyc")
    }


@pytest.mark.parametrize("kind", ["wheel", "wheel from sdist"])
def test_a_wheel_installs_the_whole_package_and_one_top_level_name(kind: str, archives: dict[str, Path]) -> None:
    with zipfile.ZipFile(archives[kind]) as archive:
        files = archive.infolist()
        metadata = archive.read(f"atspeed-{VERSION}.dist-info/METADATA").decode()
    names = {file.filename for file in files}
    assert {name.split("/")[0] for name in names} == {"atspeed", f"atspeed-{VERSION}.dist-info"}
    assert {name for name in names if name.startswith("atspeed/")} == package_files()
    assert {"atspeed/callbacks/__init__.py", "atspeed/configs/hardware/ddp.yaml", "atspeed/py.typed"} <= names
    assert not any(stat.S_ISLNK(file.external_attr >> 16) for file in files)
    assert f"\nVersion: {VERSION}\n" in metadata


def test_the_sdist_holds_the_package_the_tests_and_the_documents(archives: dict[str, Path]) -> None:
    with tarfile.open(archives["sdist"]) as archive:
        members = archive.getmembers()
    assert all(member.isfile() for member in members)  # a link would break where links cannot be made
    root, names = f"atspeed-{VERSION}/", {member.name.partition("/")[2] for member in members}
    assert all(member.name.startswith(root) for member in members)
    assert package_files() <= names
    assert {"README.md", "LICENSE", "pyproject.toml", "configs/strict.yaml", "tests/test_packaging.py"} <= names
    assert not any(name.startswith("callbacks/") for name in names)  # the same classes under a second path


def test_callbacks_imported_by_the_wrong_name_say_the_right_one() -> None:
    folder = (Path(atspeed.__file__).parent / "callbacks").resolve().parent
    code = f"import sys; sys.path.insert(0, {str(folder)!r}); import callbacks"
    printed = run(sys.executable, "-c", code, cwd=ROOT, succeeds=False)
    assert printed.splitlines()[-1].startswith("ImportError: import atspeed.callbacks, not callbacks")


def test_the_citation_names_the_version() -> None:
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == VERSION


def test_ci_runs_the_test_command_of_the_readme() -> None:
    command = "pip install -e '.[test]' && pytest"
    assert command in (ROOT / "README.md").read_text()
    assert f'"{command}"' in (ROOT / ".ci" / "run").read_text()


def check_commands(python: Path, folder: Path) -> None:
    """Run the first commands of a user whose own ``callbacks.py`` is in the working directory."""
    (folder / "callbacks.py").write_text(USERS_CALLBACKS)
    find = "import importlib.util; print(importlib.util.find_spec('atspeed.callbacks').origin)"
    location = run(python, "-c", find, cwd=folder).strip()
    assert Path(location).is_relative_to(python.parents[1])

    assert "--out" in run(python, "-m", "atspeed", "quickstart", "--help", cwd=folder)
    printed = run(python, "-m", "atspeed", "fit", "--config", "strict.yaml", cwd=folder, succeeds=False)
    assert "runs/default/target/model" in printed
    assert "Traceback" not in printed
    printed = run(python.parent / "atspeed", "fit", "--config", "target.yaml", *TINY_FIT, cwd=folder)
    assert "hello from the user's own callbacks.py" in printed
    assert (folder / "runs" / "default" / "target" / "model" / "config.json").is_file()


@pytest.mark.e2e
@pytest.mark.slow
def test_commands_run_from_a_wheel_without_the_repository(archives: dict[str, Path], tmp_path: Path) -> None:
    environment, folder = tmp_path / "environment", tmp_path / "work"
    folder.mkdir()
    python = environment / "bin" / "python"
    run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=tmp_path)
    (site_packages,) = environment.glob("lib/python*/site-packages")
    # the dependencies of this environment, but not what its own .pth files add, such as this repository
    dependencies = [entry for entry in sys.path if entry.endswith(("site-packages", "dist-packages"))]
    (site_packages / "dependencies.pth").write_text("\n".join(dependencies))
    install = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--no-deps",
        "--no-index",
        "--ignore-installed",
    ]
    run(*install, archives["wheel"], cwd=tmp_path)
    check_commands(python, folder)


@pytest.mark.e2e
@pytest.mark.nightly
@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_commands_run_in_a_clean_environment(kind: str, archives: dict[str, Path], tmp_path: Path) -> None:
    environment, folder = tmp_path / "environment", tmp_path / "work"
    folder.mkdir()
    python = environment / "bin" / "python"
    run(sys.executable, "-m", "venv", environment, cwd=tmp_path)
    run(python, "-m", "pip", "install", "-q", archives[kind], cwd=tmp_path)
    check_commands(python, folder)
    shutil.rmtree(environment)  # pytest keeps the folders of its last three runs, and this one has a copy of PyTorch
