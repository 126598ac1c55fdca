"""Bundles of small random models for the embedded catalog."""

from pathlib import Path
from typing import Any

import pyarrow as pa

from atspeed.catalog.item_catalog import POPULARITY
from atspeed.data import Dataset, EmbeddedCatalog
from atspeed.decoding import ModelDrafter, StrictTopK
from atspeed.models import NewModel
from atspeed.prompts import CompactPrompt
from atspeed.recommender import BundleSettings, write_bundle
from tests.modules.tiny import TINY

TARGET, DRAFT = NewModel("llama", {**TINY, "initializer_range": 0.3}, 1), NewModel("llama", TINY, 2)


def dataset() -> Dataset:
    return EmbeddedCatalog(num_users=24, num_items=140).load()


def write_tiny_bundle(folder: Path, target: Any = TARGET, draft: Any = DRAFT, **settings: Any) -> Path:
    """Write a bundle, whose models propose and answer at random, and return its folder; settings replace the usual."""
    data = dataset()
    usual = {
        "prompt": CompactPrompt(),
        "draft_prompt": None,
        "drafter": ModelDrafter(draft_beams=10, gamma=2),
        "verifier": StrictTopK(),
        "num_beams": 8,
        "normalize": "vocabulary",
        "max_history": 6,
        "batch_size": 4,
        "exclude_seen": False,
    }
    items = data.items.append_column(POPULARITY, pa.array(data.popularity))
    write_bundle(folder, BundleSettings(**{**usual, **settings}), items, target, draft, folder.parent)
    return folder
