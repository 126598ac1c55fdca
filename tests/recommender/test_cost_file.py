import copy
import json
import logging
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from atspeed.decoding.cost import CostModel, measured_cost
from atspeed.models import pack_linears
from atspeed.recommender.cost_file import CostKey, load_or_measure
from tests.decoding.tiny import tiny_model

FIRST, SECOND = (CostModel((1, 100), (seconds, 2 * seconds), 1e-6, 1e-7) for seconds in (1.0, 3.0))


def fresh() -> PreTrainedModel:
    return copy.deepcopy(tiny_model("llama", 12))


def never(model: PreTrainedModel) -> CostModel:
    raise AssertionError("measured although the file is there")


def test_it_is_measured_once_and_read_afterwards(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    file, again = tmp_path / "cost" / "target.json", fresh()
    assert load_or_measure(file, fresh(), "weights", lambda _: FIRST) == FIRST
    assert load_or_measure(file, again, "weights", never) == FIRST
    assert measured_cost(again) == FIRST, "a drafter goes by the same figures"
    assert not caplog.text
    key = json.loads(file.read_text())["key"]
    assert set(key) == {"weights", "device", "dtype", "threads", "packed"}
    assert (key["weights"], key["dtype"], key["packed"]) == ("weights", "float32", False)


def test_another_setting_is_measured_anew_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    file = tmp_path / "target.json"
    load_or_measure(file, fresh(), "old", lambda _: FIRST)
    for model, weights, what in (
        (fresh(), "new", "weights (was old, is new)"),
        (fresh().to(torch.bfloat16), "new", "dtype (was float32, is bfloat16)"),
        (pack_linears(fresh()), "new", "dtype (was bfloat16, is float32), packed (was False, is True)"),
    ):
        caplog.clear()
        assert load_or_measure(file, model, weights, lambda _: SECOND) == SECOND
        assert caplog.text.rstrip().endswith(f"measured anew: {what}")
        assert load_or_measure(file, model, weights, never) == SECOND


def test_device_and_threads_are_part_of_the_key() -> None:
    key = CostKey.of(fresh(), "weights")
    assert key.device.startswith("cpu: ")
    assert key.threads == torch.get_num_threads()
