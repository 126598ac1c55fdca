import pytest

from atspeed.decoding import Drafter, LosslessSampling, NoDrafter, TrieDrafter, Verifier
from atspeed.decoding.constructor_arguments import constructor_arguments


class Forgetful(NoDrafter):
    """Of a user: keeps one of its arguments only."""

    def __init__(self, kept: int, forgotten: int = 2) -> None:
        self.kept = kept


@pytest.mark.parametrize(
    ("part", "arguments"),
    [
        (NoDrafter(), {}),
        (TrieDrafter("auto", 0.25), {"max_nodes": "auto", "extra_cost": 0.25}),
        (LosslessSampling(0.7), {"temperature": 0.7}),
        (Forgetful(1), {"kept": 1}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_arguments_are_those_that_are_kept_as_attributes(part: Drafter | Verifier, arguments: dict) -> None:
    assert constructor_arguments(part) == arguments
