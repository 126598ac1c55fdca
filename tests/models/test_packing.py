import gc
import logging
import weakref
from pathlib import Path

import pytest
import torch

from atspeed.catalog import CompactVocabulary
from atspeed.models import NewModel, is_packed, pack_linears, packing
from atspeed.models.packing import PackedLinear, has_packed_products

TINY = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}
VOCABULARY = CompactVocabulary([f"<a_{code}>" for code in range(20)])


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch was built without oneDNN")
@pytest.mark.parametrize("model_type", ["llama", "qwen2"])  # without and with biases
@torch.no_grad()
def test_packed_models_compute_the_same(tmp_path: Path, model_type: str) -> None:
    model = NewModel(model_type, TINY).build(VOCABULARY, tmp_path)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.normal_()
    tokens = torch.randint(0, len(VOCABULARY), (3, 9))
    expected = model(tokens).logits
    num_linears = sum(type(module) is torch.nn.Linear for module in model.modules())
    of_one_token = model(tokens[:1, :1]).logits
    pack_linears(model)
    assert sum(isinstance(module, PackedLinear) for module in model.modules()) == num_linears
    torch.testing.assert_close(model(tokens).logits, expected, atol=1e-5, rtol=1e-5)
    assert model(tokens[:1, :1]).logits.equal(of_one_token), "a single token is multiplied by the original weights"


@pytest.mark.skipif(not has_packed_products(torch.bfloat16), reason="this processor has no bfloat16 products in oneDNN")
@pytest.mark.parametrize("model_type", ["llama", "qwen2"])
@torch.no_grad()
def test_packed_bfloat16_models_compute_the_same_but_for_rounding(tmp_path: Path, model_type: str) -> None:
    exact = NewModel(model_type, TINY).build(VOCABULARY, tmp_path)
    for weight in exact.parameters():
        weight.normal_(std=0.3).copy_(weight.bfloat16())  # of which bfloat16 loses nothing
    tokens = torch.randint(0, len(VOCABULARY), (3, 9))
    expected = exact(tokens).logits
    model = exact.bfloat16()
    unpacked = model(tokens).logits - expected
    pack_linears(model)
    packed = model(tokens).logits
    assert is_packed(model)
    assert model.dtype == packed.dtype == torch.bfloat16
    assert (packed - expected).std() < 1.5 * unpacked.std() + 0.001 * expected.std()
    assert unpacked.std() < 0.05 * expected.std()


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch was built without oneDNN")
def test_a_weight_is_freed_as_soon_as_it_is_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = NewModel("llama", TINY).build(VOCABULARY, tmp_path)
    originals = [weakref.ref(module.weight) for module in model.modules() if type(module) is torch.nn.Linear]
    alive = []

    class Watched(PackedLinear):
        def __init__(self, linear: torch.nn.Linear, keep: bool) -> None:
            super().__init__(linear, keep)
            alive.append(sum(weight() is not None for weight in originals))

    monkeypatch.setattr(packing, "PackedLinear", Watched)
    monkeypatch.setattr(packing, "LARGEST_KEPT", 0)
    gc.disable()  # a weight must go by itself
    try:
        pack_linears(model)
    finally:
        gc.enable()
    assert alive == list(range(len(originals), 0, -1))
    assert not any(weight() is not None for weight in originals)
    assert all(module._kept is None for module in model.modules() if isinstance(module, PackedLinear))


def test_other_precisions_stay_as_they_are(tmp_path: Path) -> None:
    model = NewModel("llama", TINY).build(VOCABULARY, tmp_path).half()
    pack_linears(model)
    assert not is_packed(model)


def test_a_processor_without_the_products_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = NewModel("llama", TINY).build(VOCABULARY, tmp_path).bfloat16()
    monkeypatch.setattr(packing, "has_packed_products", lambda dtype: dtype != torch.bfloat16)
    with caplog.at_level(logging.INFO, logger="atspeed"):
        pack_linears(model)
    assert not is_packed(model)
    assert "weights are not packed: oneDNN has no torch.bfloat16 products on this processor" in caplog.text
