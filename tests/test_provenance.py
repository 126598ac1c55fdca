"""What a run's record says of the code that it ran."""

import importlib.util
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

from atspeed import provenance


def test_an_installed_package_does_not_take_the_commit_of_the_repository_around_it(tmp_path: Path) -> None:
    site = tmp_path / "site-packages" / "atspeed"
    site.mkdir(parents=True)
    file = Path(shutil.copy(provenance.__file__, site))
    for command in (
        ["init", "-q"],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "--allow-empty", "-m", "x"],
    ):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    spec = importlib.util.spec_from_file_location("installed_provenance", file)
    assert spec is not None
    assert spec.loader is not None
    installed = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(installed)
    assert installed.provenance()["commit"] is None


def test_a_package_that_is_not_installed_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "PACKAGES", ("torch", "no-such-package"))
    assert provenance.versions() == {"torch": version("torch"), "no-such-package": "not installed"}
