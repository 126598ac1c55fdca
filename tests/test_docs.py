"""README and docs/ name files, classes, commands and configs that exist, and their links lead somewhere."""

import re
from itertools import pairwise
from pathlib import Path
from pkgutil import resolve_name

import pytest

from atspeed.cli.main import main

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
CONFIGS = {file.name: file for file in (ROOT / "configs").rglob("*.yaml")}
YOURS = ("my_loss.yaml", "runs/")
"""Configs that a page tells the reader to write, or that an earlier command has written."""

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def documented_commands(page: Path) -> list[list[str]]:
    """The words after ``python -m atspeed`` of each command of a page."""
    text = page.read_text()
    blocks = "\n".join(re.findall(r"^```bash\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE))
    lines = blocks.replace("\\\n", " ").splitlines() + re.findall(r"`(python -m atspeed [^`]+)`", text)
    return [words.split() for line in lines for words in re.findall(r"python -m atspeed ([^&|;#`]+)", line)]


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 150


@pages
def test_paths_exist(page: Path) -> None:
    named = set(
        re.findall(r"(?<![\w./-])((?:atspeed|callbacks|configs|docs|scripts|tests)/[\w./-]*)", page.read_text())
    )
    assert not [name for name in named if not (ROOT / name.rstrip(".")).exists()]


@pages
def test_links_lead_to_a_file_and_a_heading(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pages
def test_dotted_names_can_be_imported(page: Path) -> None:
    for name in set(re.findall(r"`(atspeed(?:\.\w+)+)`", page.read_text())):
        resolve_name(name)


@pages
def test_commands_and_their_configs_exist(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    known = re.findall(r"^ +([\w-]+) +\S", capsys.readouterr().out, flags=re.MULTILINE)
    for command, *options in documented_commands(page):
        assert command in known, command
        for option, value in pairwise(options):
            if option == "--config" and not value.startswith(YOURS):
                assert value in CONFIGS or (ROOT / value).is_file(), value


def test_a_config_is_known_by_its_name() -> None:
    assert len(CONFIGS) == len(list((ROOT / "configs").rglob("*.yaml")))


def test_commands_are_found() -> None:
    found = {command[0] for page in PAGES for command in documented_commands(page)}
    assert found >= {"fit", "test", "predict", "benchmark", "benchmark-catalogs", "cache-target", "tune", "quickstart"}
