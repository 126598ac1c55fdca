"""One function calls the models."""

import ast
import copy
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.hooks import RemovableHandle
from transformers import DynamicCache

from atspeed.decoding import PrefixScorer, forward, output_head
from atspeed.decoding.forward import Normalize, WantedChildren, child_log_probs
from atspeed.decoding.probe import check_tree_attention
from atspeed.models import pack_linears
from tests.decoding.test_scorer import MASK, PROMPTS, TRIE
from tests.decoding.tiny import FAMILIES, tiny_model

PACKAGE = Path(__file__).parents[2] / "atspeed"


def test_one_function_calls_a_model() -> None:
    """Beside it: plain rows of the probe, bare calls that are timed, fine-tuning, and the reference implementation."""
    calls = set()
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and "input_ids" in {keyword.arg for keyword in node.keywords}:
                calls.add(str(file.relative_to(PACKAGE)))
    others = {
        "decoding/probe.py",
        "decoding/cost/bare_calls.py",
        "modules/fine_tuning.py",
        "benchmark/reference.py",
    }
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


def log_probs_of_children(model: torch.nn.Module, normalize: Normalize, precision: torch.dtype) -> torch.Tensor:
    scored, nodes = PrefixScorer(model, TRIE, PROMPTS, MASK, normalize), torch.arange(1, 9).expand(2, -1)
    with torch.autocast("cpu", precision, precision != torch.float32):
        scored.score(nodes)
    return scored.children(nodes)[1]


def gradients(model: torch.nn.Module, log_probs: torch.Tensor) -> tuple[torch.Tensor, ...]:
    finite = log_probs[log_probs > -torch.inf]
    return torch.autograd.grad((finite * torch.linspace(0, 1, len(finite))).mean(), list(model.parameters()))


def hold_few_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    """4 positions of 2 requests at a time; of a plain linear head for 5 of 12 tokens at a time."""
    for name, value in {"MAX_LOGITS": 40, "SQUARE": 8, "MAX_BYTES": 8 * 12 * 4, "MAX_LOGITS_OF_PART": 40}.items():
        monkeypatch.setattr(output_head, name, value)
    monkeypatch.setattr(forward, "MAX_LOGITS", 40)


def head_watched(model: torch.nn.Module, positions: list[int]) -> RemovableHandle:
    """Note for how many positions each call of the head is."""
    return model.get_output_embeddings().register_forward_hook(lambda *a: positions.append(a[-1].shape[1]))


@pytest.mark.parametrize("normalize", ["vocabulary", "allowed"])
@pytest.mark.parametrize(
    ("kind", "precision"),
    [
        *itertools.product(["llama", "gpt2", "biased", "watched", "gemma2"], [torch.float32, torch.bfloat16]),
        ("packed", torch.float32),
    ],
)
@torch.no_grad()
def test_many_logits_are_held_in_blocks(
    kind: str, normalize: Normalize, precision: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gpt2 ties its embeddings, gemma2 caps its logits, so that all are held at once."""
    model = copy.deepcopy(tiny_model(kind if kind in FAMILIES else "llama", 12))
    if kind == "biased":
        model.lm_head.bias = torch.nn.Parameter(torch.randn(12))
    expected = log_probs_of_children(model, normalize, precision)
    check_tree_attention(model, 7, 3)
    if kind == "packed":
        model = pack_linears(model)
    positions: list[int] = []
    if kind in ("watched", "gemma2"):
        head_watched(model, positions)
    hold_few_logits(monkeypatch)
    with LargestProduct() as largest:
        blockwise = log_probs_of_children(model, normalize, precision)
    torch.testing.assert_close(blockwise, expected, atol=1e-5, rtol=0)
    assert positions == {"watched": [4, 4, 1], "gemma2": [9]}.get(kind, [])
    if kind in ("llama", "gpt2", "biased"):
        assert largest.num_logits == 8 * 5


class LargestProduct(TorchDispatchMode):
    """Notes the size of the largest matrix product with at most 12 columns, the vocabulary here."""

    num_logits = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **kwargs or {})
        if function in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default) and result.shape[1] <= 12:
            self.num_logits = max(self.num_logits, result.numel())
        return result


@pytest.mark.parametrize("normalize", ["vocabulary", "allowed"])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_gradients_of_blocks_are_those_of_all_logits(
    family: str, normalize: Normalize, precision: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, positions = copy.deepcopy(tiny_model(family, 12)), []
    expected = gradients(model, log_probs_of_children(model, normalize, precision))
    check_tree_attention(model, 7, 3)
    hold_few_logits(monkeypatch)
    log_probs = log_probs_of_children(model, normalize, precision)
    # in bfloat16 a gradient is the sum of rounded ones of the blocks
    tolerance = {"atol": 1e-6, "rtol": 1e-5} if precision == torch.float32 else {"atol": 1e-3, "rtol": 2e-2}
    for one, other in zip(gradients(model, log_probs), expected, strict=True):
        torch.testing.assert_close(one, other, **tolerance)
    with head_watched(model, positions):
        log_probs_of_children(model, normalize, precision)
    assert positions == ([9] if family == "gemma2" else [4, 4, 1])


@pytest.mark.parametrize("normalize", ["vocabulary", "allowed"])
def test_a_call_asks_no_value_of_a_tensor(normalize: Normalize, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors without values: what depends on one, such as ``.item()``, raises."""
    model = copy.deepcopy(tiny_model("llama", 12))
    check_tree_attention(model, 7, 3)
    hold_few_logits(monkeypatch)
    tokens, parent = torch.zeros(2, 9, dtype=torch.long), torch.zeros(2, 20, dtype=torch.long)
    mask = torch.ones(2, 9, 9, dtype=torch.bool)
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True) as fake:
        tokens, parent, mask = (fake.from_tensor(tensor) for tensor in (tokens, parent, mask))
        wanted = WantedChildren(parent, parent, parent == 0)
        spans = [(3, 5), (7, 9)]
        log_probs = child_log_probs(model, DynamicCache(), tokens, tokens, mask, wanted, 9, normalize, spans=spans)
    assert log_probs.shape == (2, 20)
