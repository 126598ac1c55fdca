"""Imports between packages point one way, and light packages stay light."""

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

import atspeed

PACKAGE = Path(atspeed.__file__).parent
HELPERS = {"checks", "files", "panels", "provenance", "terminal"}
"""Modules of one idea each that every package may import, and that import nothing of atspeed."""
MODULES = {"catalog", "prompts", "data", "models", "decoding", "losses", "metrics", "alignment", "recommender"}
ALLOWED: dict[str, set[str]] = {
    "catalog": set(),
    "decoding": set(),
    "losses": set(),
    "metrics": set(),
    "prompts": {"catalog"},
    "models": {"catalog"},
    "data": {"catalog", "prompts"},
    "recommender": {"catalog", "prompts", "models", "decoding"},
    "alignment": {"data", "models", "decoding", "losses"},
    "benchmark": {"catalog", "prompts", "data", "models", "decoding", "metrics", "recommender"},
    "preparation": {"catalog", "data", "decoding"},
    "doctor": {"catalog", "prompts", "data", "models", "decoding", "recommender", "benchmark", "preparation"},
    "serving": {"catalog", "decoding", "recommender"},
    "modules": MODULES,
    "callbacks": {"modules", *MODULES},
    "cli": {"callbacks", "modules", "benchmark", "preparation", "doctor", "serving", *MODULES},
    **{helper: set() for helper in HELPERS},
    "__init__": {"recommender"},
    "__main__": {"cli"},
}
"""What each package may import, besides itself and the helpers. A package that is not here needs a row."""
LIGHTNING = {"data", "modules", "callbacks", "cli"}
SOURCES = sorted({*PACKAGE.rglob("*.py"), *(PACKAGE / "callbacks").rglob("*.py")})  # rglob does not follow the link


def package_of(file: Path) -> str:
    return file.relative_to(PACKAGE).with_suffix("").parts[0]


def imported_names(source: str) -> Iterator[str]:
    """Yield the full names that a module imports, wherever in it: at the top, in a function, for annotations only."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not used here, and would pass unseen"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def package_imports(source: str) -> set[str]:
    """Return the packages of atspeed that a module imports."""
    parts = [name.split(".") for name in imported_names(source)]
    return {name[1] if name[1:] else "__init__" for name in parts if name[0] == "atspeed"}


def test_imports_are_found_wherever_they_are() -> None:
    source = (
        "import torch, atspeed.data.sources\n"
        "from atspeed import losses\n"
        "def function():\n    from atspeed.cli.main import main\n"
        "if TYPE_CHECKING:\n    import atspeed.modules as modules"
    )
    assert package_imports(source) == {"data", "losses", "cli", "modules"}


def test_packages_import_what_the_table_allows() -> None:
    wrong = [
        f"{file.relative_to(PACKAGE)} imports atspeed.{name}"
        for file in SOURCES
        for name in sorted(package_imports(file.read_text()) - {package_of(file)} - HELPERS)
        if name not in ALLOWED[package_of(file)]
    ]
    assert not wrong, "\n".join(wrong)


def test_only_a_few_packages_import_lightning() -> None:
    using = {
        package_of(file)
        for file in SOURCES
        for name in imported_names(file.read_text())
        if name.partition(".")[0] in ("lightning", "pytorch_lightning", "lightning_fabric")
    }
    assert using == LIGHTNING


def test_a_file_name_means_one_thing() -> None:
    files = defaultdict(list)
    for file in SOURCES:
        if file.name != "__init__.py":
            files[file.name].append(str(file.relative_to(PACKAGE)))
    assert not [paths for paths in files.values() if len(paths) > 1]


@pytest.mark.parametrize(
    ("modules", "heavy"),
    [
        ("atspeed", {"torch", "transformers", "lightning"}),
        ("atspeed.decoding, atspeed.recommender", {"lightning", "deepspeed", "peft", "matplotlib"}),
    ],
)
def test_light_packages_load_without_the_heavy_libraries(modules: str, heavy: set[str]) -> None:
    code = f"import sys, {modules}; print(*sorted({heavy} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
