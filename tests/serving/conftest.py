"""A bundle for all tests of the service."""

from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("httpx", reason="needs the extra test")

from atspeed.recommender import Recommender
from tests.recommender.tiny_bundle import write_tiny_bundle
from tests.serving.running import Gate


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("serving") / "bundle")


@pytest.fixture(scope="session")
def recommender(bundle: Path) -> Recommender:
    """For tests that leave its catalog as it is."""
    return Recommender.load(bundle)


@pytest.fixture
def gate(recommender: Recommender) -> Gate:
    return Gate(recommender)
