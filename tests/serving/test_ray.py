"""What needs no Ray cluster; test_ray_cluster.py has the tests on one."""

from pathlib import Path

import pyarrow as pa
import pytest

pytest.importorskip("ray", reason="needs the extra ray")

from atspeed.serving.ray import build
from atspeed.serving.ray_data import BundleScorer, Scoring


def test_a_batch_keeps_its_columns(bundle: Path) -> None:
    score = BundleScorer(Scoring(str(bundle), k=2))
    answered = score(pa.table({"history": [["item-3"], []], "weight": [0.5, 1.5]}))
    assert answered.column_names == ["history", "weight", "recommended", "target_calls"]
    assert [len(row) for row in answered["recommended"].to_pylist()] == [2, 2]
    with pytest.raises(ValueError, match=r"the column history is missing; there are \['user'\]"):
        score(pa.table({"user": ["x"]}))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "bundle is missing"),
        ({"bundle": "x", "colour": "red"}, "no setting 'colour'"),
        ({"bundle": "x", "max_batch": "many"}, "max_batch is 'many'; expected a number"),
        ({"bundle": "x", "max_batch": "0"}, "max_batch is 0; expected 1 or more"),
        ({"bundle": "x", "token": "secret"}, "no setting 'token'"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(arguments)
