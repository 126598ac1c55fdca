"""The examples of CONTRIBUTING.md do what it says."""

import json
import re
from pathlib import Path
from typing import Any

import torch

from atspeed.data import Dataset
from atspeed.decoding import ItemTrie, NoDrafter, SpeculativeDecoder
from atspeed.losses import Prefixes
from tests.decoding.tiny import random_prompts, random_sids, tiny_model

GUIDE = Path(__file__).parents[1] / "CONTRIBUTING.md"


def example(name: str) -> Any:
    """Run the example that defines the class ``name``, and return the class."""
    (code,) = [
        code for code in re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL) if f"class {name}" in code
    ]
    namespace: dict[str, Any] = {"__name__": "mine"}
    exec(code, namespace)
    return namespace[name]


def test_the_example_of_a_loss() -> None:
    draft, target = torch.tensor([[[0.5, 0.5, 0.0]]]), torch.tensor([[[0.1, 0.9, 0.0]]])
    log_probs = draft.log().requires_grad_(), target.log()
    nothing, all_of_it = torch.zeros(1, 1), torch.ones(1, 1)
    prefixes = Prefixes(*log_probs, nothing, nothing, all_of_it, target, level=0, num_levels=1)
    loss = example("SquaredHellinger")()(prefixes)
    torch.testing.assert_close(loss, torch.tensor([1 - 0.05**0.5 - 0.45**0.5]))
    loss.sum().backward()
    assert log_probs[0].grad is not None
    assert log_probs[0].grad.isfinite().all()


@torch.no_grad()
def test_the_example_of_a_drafter() -> None:
    generator = torch.Generator().manual_seed(0)
    trie = ItemTrie(random_sids(generator, 300, [4, 8, 8]))
    prompts = random_prompts(generator, [9, 4, 6], vocab_size=40)
    model = tiny_model("llama", 40)
    plain = SpeculativeDecoder(model, trie, NoDrafter())(*prompts, num_beams=3)
    drafted = SpeculativeDecoder(model, trie, example("PopularDrafter")(200))(*prompts, num_beams=3)
    assert torch.equal(drafted.leaves, plain.leaves)
    assert (drafted.target_calls < plain.target_calls).all()


def test_the_example_of_a_data_source(tmp_path: Path) -> None:
    (tmp_path / "sids.json").write_text(json.dumps({"soap": ["<a_0>", "<b_1>"], "comb": ["<a_0>", "<b_2>"]}))
    (tmp_path / "interactions.csv").write_text("ann,soap\nbob,comb\nann,comb\nann,soap\nann,comb\n")
    data: Dataset = example("CsvInteractions")(tmp_path).load()
    assert data.users == ["ann", "bob"]
    assert data.train.tolist() == [[0, 1], []]
    assert data.valid.tolist() == [[0], []]
    assert data.test.tolist() == [[1], [1]]
