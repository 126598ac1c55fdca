from pathlib import Path

import pytest

from atspeed.benchmark.report.tuning import overlay_of
from atspeed.decoding import Drafter, HybridDrafter, ModelDrafter, NoDrafter, TrieDrafter
from tests.benchmark.overlays import recommend_with


@pytest.mark.parametrize(
    "drafter",
    [NoDrafter(), TrieDrafter("auto", 0.25), HybridDrafter(99), ModelDrafter(24, 2)],
    ids=lambda d: type(d).__name__,
)
def test_recommend_takes_the_overlay_with_all_settings(drafter: Drafter, tmp_path: Path) -> None:
    taken = recommend_with(overlay_of(drafter, "words"), tmp_path)
    assert type(taken) is type(drafter)
    assert vars(taken) == vars(drafter)
