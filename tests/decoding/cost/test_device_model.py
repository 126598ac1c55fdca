import pytest

from atspeed.decoding.cost import GPUS, CallShape, DeviceModel, ModelSize
from tests.decoding.tiny import tiny_model

SIZE = ModelSize(weights=1_000_000, layers=2, bytes=2_000_000)


def test_a_call_costs_the_larger_of_reading_and_computing_and_its_launches() -> None:
    device = DeviceModel(bandwidth=2e9, operations=2e11, launch_seconds=1e-6)  # a read: 1 ms; a token: 10 µs
    launches = (2 * 12 + 10) * 1e-6
    one, ridge, many = CallShape(1, 1, 50), CallShape(25, 4), CallShape(75, 4, 50)
    assert device.predicted_seconds(SIZE, [one]) == pytest.approx(1e-3 + launches)
    assert device.predicted_seconds(SIZE, [ridge]) == pytest.approx(1e-3 + launches)
    assert device.predicted_seconds(SIZE, [many]) == pytest.approx(3e-3 + launches)
    assert device.predicted_seconds(SIZE, [one, many]) == pytest.approx(4e-3 + 2 * launches)


def test_an_embedding_that_is_only_looked_up_is_not_read() -> None:
    llama, gpt2 = tiny_model("llama", 12), tiny_model("gpt2", 12)
    read = llama.num_parameters() - 12 * 32
    assert ModelSize.of(llama) == ModelSize(read, 2, 4 * read)
    read = gpt2.num_parameters()  # its head is the embedding
    assert ModelSize.of(gpt2) == ModelSize(read, 2, 4 * read)


@pytest.mark.parametrize(("name", "tokens"), [("RTX A5000", 145), ("A100", 153), ("RTX 4090", 164), ("H100", 295)])
def test_presets_have_the_price_of_a_call_of_their_specification(name: str, tokens: int) -> None:
    assert GPUS[name].operations / GPUS[name].bandwidth == pytest.approx(tokens, abs=0.6)
