"""One function calls the models."""

import ast
from pathlib import Path

import torch
from hypothesis import given
from hypothesis import strategies as st

from atspeed.decoding import PrefixScorer
from atspeed.decoding.forward import Normalize
from tests.decoding.test_scorer import MASK, PROMPTS, TRIE
from tests.decoding.tiny import tiny_model

PACKAGE = Path(__file__).parents[2] / "atspeed"


def test_one_function_calls_a_model() -> None:
    """Beside it: the plain rows that the probe compares it with, fine-tuning, and the reference implementation."""
    calls = set()
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and "input_ids" in {keyword.arg for keyword in node.keywords}:
                calls.add(str(file.relative_to(PACKAGE)))
    others = {"decoding/probe.py", "modules/fine_tuning.py", "benchmark/reference.py"}
    assert calls == {"decoding/forward.py"} | others


@given(
    seed=st.integers(0, 50),
    scale=st.sampled_from([0.0, 1.0, 1e3]),
    normalize=st.sampled_from(["vocabulary", "allowed"]),
)
@torch.no_grad()
def test_log_probabilities_are_at_most_0(seed: int, scale: float, normalize: Normalize) -> None:
    """Which the packing of :func:`select_top` takes for granted."""
    model = tiny_model("llama", 12, seed=seed % 3)
    hook = model.lm_head.register_forward_hook(lambda *arguments: arguments[-1] * scale)
    scored = PrefixScorer(model, TRIE, PROMPTS, MASK, normalize)
    scored.score(torch.arange(1, 9).expand(2, -1))
    hook.remove()
    assert (scored.children(torch.arange(9).expand(2, -1))[1] <= 0).all()
