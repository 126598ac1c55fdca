from pathlib import Path

import pytest
import torch

from atspeed.catalog import Vocabulary
from atspeed.models import NewModel, pack_linears
from atspeed.models.packing import PackedLinear

TINY = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}
VOCABULARY = Vocabulary([f"<a_{code}>" for code in range(20)])


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
    pack_linears(model)
    assert sum(isinstance(module, PackedLinear) for module in model.modules()) == num_linears
    torch.testing.assert_close(model(tokens).logits, expected, atol=1e-5, rtol=1e-5)


def test_other_precisions_stay_as_they_are(tmp_path: Path) -> None:
    model = NewModel("llama", TINY).build(VOCABULARY, tmp_path).bfloat16()
    pack_linears(model)
    assert not any(isinstance(module, PackedLinear) for module in model.modules())
