"""One function calls the models."""

import ast
import copy
import itertools
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from atspeed.decoding import PrefixScorer, forward
from atspeed.decoding.forward import Normalize
from atspeed.decoding.probe import check_tree_attention
from atspeed.models import pack_linears
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


def log_probs_and_gradients(
    model: torch.nn.Module, normalize: Normalize, max_logits: int, precision: torch.dtype
) -> tuple[torch.Tensor, list[torch.Tensor], list[int]]:
    """Log-probabilities of some children, gradients, and for how many positions each call of the head was."""
    positions: list[int] = []
    hook = model.get_output_embeddings().register_forward_hook(lambda *a: positions.append(a[-1].shape[1]))
    scored = PrefixScorer(model, TRIE, PROMPTS, MASK, normalize)
    nodes = torch.arange(1, 9).expand(2, -1)
    with patch.object(forward, "MAX_LOGITS", max_logits), torch.autocast("cpu", precision, precision != torch.float32):
        scored.score(nodes)
    hook.remove()
    _, log_probs = scored.children(nodes)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    finite = log_probs[log_probs > -torch.inf]
    gradients = torch.autograd.grad((finite * torch.linspace(0, 1, len(finite))).mean(), weights) if weights else []
    return log_probs, list(gradients), positions


@pytest.mark.parametrize("normalize", ["vocabulary", "allowed"])
@pytest.mark.parametrize(
    ("family", "precision"),  # gpt2 ties its embeddings, gemma2 caps its logits
    [*itertools.product(["llama", "gpt2", "gemma2"], [torch.float32, torch.bfloat16]), ("packed", torch.float32)],
)
def test_many_logits_are_held_for_some_positions_at_a_time(
    family: str, normalize: Normalize, precision: torch.dtype
) -> None:
    model = copy.deepcopy(tiny_model("llama" if family == "packed" else family, 12))
    check_tree_attention(model, 7, 3)
    if family == "packed":
        model = pack_linears(model).requires_grad_(False)
    log_probs, gradients, positions = log_probs_and_gradients(model, normalize, 1 << 25, precision)
    assert positions == [9], "the root and 8 nodes"
    chunked, chunked_gradients, positions = log_probs_and_gradients(model, normalize, 4 * 2 * 12, precision)
    assert positions == ([9] if family == "gemma2" else [4, 4, 1]), "4 positions of 2 requests and 12 tokens at a time"
    # in bfloat16 a gradient is the sum of rounded ones of the chunks
    tolerance = {"atol": 1e-6, "rtol": 1e-5} if precision == torch.float32 else {"atol": 1e-3, "rtol": 2e-2}
    torch.testing.assert_close(chunked, log_probs, atol=1e-5, rtol=0)
    for one, other in zip(chunked_gradients, gradients, strict=True):
        torch.testing.assert_close(one, other, **tolerance)
