"""``deploy/``: what can be said of the examples without a container runtime and without systemd as process 1."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONTAINER, UNIT = ((ROOT / "deploy" / name).read_text() for name in ("Containerfile", "atspeed.service"))


def test_the_container_copies_what_the_package_is_built_from(tmp_path: Path) -> None:
    for line in re.findall(r"^COPY (.*)$", CONTAINER, flags=re.MULTILINE):
        *sources, target = line.split()
        for source in sources:
            copy = tmp_path / target.strip("/") / ("" if target.endswith("/") else ".")
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, copy, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                copy.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / source, copy)
    source = tmp_path / "source"
    assert (source / "atspeed" / "configs" / "recommend.yaml").is_file()
    assert (source / "atspeed" / "callbacks" / "__init__.py").is_file()
    for named in re.findall(r'^(?:readme|path) = "(.*)"', (source / "pyproject.toml").read_text(), flags=re.MULTILINE):
        assert (source / named).is_file()


def test_both_stop_the_service_later_than_it_stops_itself() -> None:
    drain_limit = 30
    assert int(re.search(r"^TimeoutStopSec=(\d+)$", UNIT, flags=re.MULTILINE)[1]) > drain_limit  # type: ignore[index]
    assert int(re.search(r"--stop-timeout (\d+)", CONTAINER)[1]) > drain_limit  # type: ignore[index]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    file = tmp_path / "atspeed.service"
    file.write_text(UNIT.replace("/opt/atspeed/bin/python", shutil.which("env") or ""))  # not installed here
    done = subprocess.run(["systemd-analyze", "verify", str(file)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
