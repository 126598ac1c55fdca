import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from atspeed.data import AtSpeedLayout, ItemSequences
from atspeed.data.dataset import item_table
from tests.data.equal import assert_equal


def test_order_does_not_matter_and_content_does(write_layout: Callable[..., Path]) -> None:
    data = AtSpeedLayout(write_layout()).load()  # users 7 8 9, items 1 2 3 4
    turned = item_table(["4", "3", "2", "1"], data.items["sid"].to_pylist()[::-1])
    splits = {
        split: ItemSequences.from_lists([3 - item for item in items] for items in reversed(list(getattr(data, split))))
        for split in ("train", "valid", "test")
    }
    other = dataclasses.replace(data, items=turned, users=data.users[::-1], **splits)
    assert_equal(other, data)
    with pytest.raises(AssertionError, match="other users"):
        assert_equal(dataclasses.replace(other, users=["9", "8", "1"]), data)
    with pytest.raises(AssertionError, match="2 users differ, such as"):
        assert_equal(dataclasses.replace(other, users=["9", "7", "8"]), data)
    with pytest.raises(AssertionError, match="4 items differ, such as '4'"):
        assert_equal(dataclasses.replace(other, items=item_table(["4", "3", "2", "1"], data.items["sid"])), data)
    with pytest.raises(AssertionError, match="users differ"):
        assert_equal(dataclasses.replace(other, valid=other.test), data)
