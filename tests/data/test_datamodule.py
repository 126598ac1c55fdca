from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from atspeed.data import AtSpeedLayout, EmbeddedCatalog, RecommendationData


def test_splits_become_requests_with_the_right_histories(write_layout: Callable[..., Path]) -> None:
    data = RecommendationData(AtSpeedLayout(write_layout()), max_history=3)
    data.setup()
    assert [(r.user, list(r.history), list(r.truth)) for r in data.test_requests()] == [
        (0, [0, 1, 2, 3], [1, 0]),  # training and validation items; a repeated true item counts once
        (2, [1, 1, 2, 3, 0, 1], [2]),
    ]
    batch = next(iter(data.test_dataloader()))
    assert batch.prompts.shape == (2, 1 + 3 * 3), "histories are cut to the last three items"
    batch = next(iter(data.predict_dataloader()))
    assert len(batch.users) == 3
    assert batch.truth.dtype == torch.int64, "also where there is no true item"


def test_windows_cover_long_histories_and_share_one_item() -> None:
    data = RecommendationData(EmbeddedCatalog(num_users=50), max_history=4)
    data.setup()
    for user, items in enumerate(data.dataset.train):
        windows = [window.items.tolist() for window in data.training_windows() if window.user == user]
        assert all(len(window) <= 5 for window in windows)
        assert windows[0] + sum((window[1:] for window in windows[1:]), []) == items.tolist()


@pytest.mark.parametrize("examples", ["sequences", "requests"])
def test_loaders_of_a_fit(examples: str) -> None:
    data = RecommendationData(EmbeddedCatalog(num_users=40), examples=examples, max_tokens=512)  # type: ignore[arg-type]
    data.setup()
    for loader in (data.train_dataloader(), data.val_dataloader()):
        batches = list(loader)
        assert len(batches) == len(loader)
        assert all(batch[1].numel() <= 512 for batch in batches)


def test_test_users_are_spread_over_the_file() -> None:
    data = RecommendationData(EmbeddedCatalog(num_users=100), num_test_users=10)
    data.setup()
    assert [request.user for request in data.test_requests()] == list(range(0, 100, 10))


@pytest.mark.parametrize("name", ["max_history", "max_tokens", "batch_size", "num_test_users"])
def test_settings_out_of_range_are_named(name: str) -> None:
    with pytest.raises(ValueError, match=rf"data\.{name} is 0; expected 1 or more"):
        RecommendationData(EmbeddedCatalog(), **{name: 0})  # type: ignore[arg-type]


def test_no_test_item_is_an_error(write_layout: Callable[..., Path]) -> None:
    data = RecommendationData(AtSpeedLayout(write_layout(test="7\n8\n9\n")))
    data.setup()
    with pytest.raises(ValueError, match="no user has a test item"):
        data.test_requests()


def test_what_the_source_leaves_out_is_logged(
    write_layout: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    RecommendationData(AtSpeedLayout(write_layout(train="7 1 2\n8 5\n9 1\n"), skip_malformed=True)).setup()
    assert "left out: 1 malformed lines of sequential_train.txt, 1 malformed lines of seq" in caplog.text
