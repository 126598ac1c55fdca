"""Two CPU processes over gloo, by DDP and by the real DeepSpeed engine, against one process.

The length buckets deal out batches 0, 2, 4 … to the first process and 1, 3, 5 … to the second; one process that
accumulates the gradients of two batches takes the same steps. In float32 every loss is equal to within TOLERANCE.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from atspeed.catalog import CompactVocabulary
from atspeed.models import Checkpoint, NewModel, export
from tests.distributed.worker import SINGLE, TOKENS, align, fine_tune, requests
from tests.modules.tiny import TINY

pytestmark = [pytest.mark.distributed, pytest.mark.slow]
ROOT = Path(__file__).parents[2]
TOLERANCE = 2e-5
BF16_TOLERANCE = 0.01
STRATEGIES = ("ddp", "zero2", "zero3")
Results = dict[str, Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a target, a draft, and a model of another vocabulary that ties its embeddings."""
    folder = tmp_path_factory.mktemp("distributed")
    data = requests()
    data.setup()
    vocabulary = CompactVocabulary(data.catalog.words)
    for seed, name in enumerate(("target", "draft"), start=1):
        export(NewModel("llama", TINY, seed).build(vocabulary, folder), vocabulary, folder / "models" / name)
    config = LlamaConfig(vocab_size=50, tie_word_embeddings=True, **TINY)  # type: ignore[arg-type]
    LlamaForCausalLM(config).save_pretrained(folder / "models" / "foreign")
    return folder


@pytest.fixture(scope="module")
def single(folder: Path) -> Results:
    """What a single process sees."""
    run_dir = folder / "single"
    return {
        "fine-tuning": fine_tune(run_dir / "fine-tuning", SINGLE, Checkpoint(folder / "models" / "target")),
        "alignment": align(run_dir / "alignment", SINGLE, folder / "models"),
    }


@pytest.fixture(scope="module")
def launched(folder: Path) -> dict[str, list[Results]]:
    """What the two processes of each strategy see."""
    command = [sys.executable, "-m", "tests.distributed.worker", str(folder), *STRATEGIES]
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    if done.returncode:
        logs = [f"{log}:\n{log.read_text()[-5000:]}" for log in folder.glob("*/?.log")]
        pytest.fail("\n".join([done.stderr[-5000:], *logs]))
    return {
        strategy: [torch.load(folder / strategy / f"{rank}.pt", weights_only=True) for rank in range(2)]
        for strategy in STRATEGIES
    }


def dealt(ranks: list[Results], name: str) -> list[float]:
    """The losses of both processes in the order in which the sampler made the batches."""
    return [loss for pair in zip(*(rank[name]["losses"] for rank in ranks), strict=True) for loss in pair]


def load(run_dir: Path, stage: str) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(run_dir / stage / "model", dtype=torch.float32).eval()


@pytest.mark.parametrize("name", ["fine-tuning", "alignment"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_losses_are_those_of_a_single_process(
    launched: dict[str, list[Results]], single: Results, strategy: str, name: str
) -> None:
    expected = single[name]["losses"]
    assert expected[-1] < expected[0] - 0.1, "nothing was learnt, so equal losses prove nothing"
    assert dealt(launched[strategy], name) == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.parametrize("name", ["fine-tuning", "alignment"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_resumed_fit_goes_on_as_if_it_had_not_stopped(
    launched: dict[str, list[Results]], single: Results, strategy: str, name: str
) -> None:
    ranks = launched[strategy]
    expected = single[name]["losses"]
    assert dealt(ranks, f"{name} resumed") == pytest.approx(expected[len(expected) // 2 :], abs=TOLERANCE)


@pytest.mark.parametrize(("name", "stage"), [("fine-tuning", "target"), ("alignment", "strict")])
@pytest.mark.parametrize("strategy", STRATEGIES)
@torch.no_grad()
def test_the_export_is_one_folder_with_equal_logits(
    launched: dict[str, list[Results]], single: Results, folder: Path, strategy: str, name: str, stage: str
) -> None:
    exported = load(folder / strategy / name, stage)(TOKENS).logits
    for rank in launched[strategy]:
        for run in (name, f"{name} resumed"):
            torch.testing.assert_close(rank[run]["logits"], exported, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(exported, single[name]["logits"], atol=1e-3, rtol=1e-3)


def test_zero_3_holds_half_of_every_weight_on_each_process(launched: dict[str, list[Results]]) -> None:
    """From the moment that a model is built: no process ever has a whole one, frozen or not."""
    for rank in launched["zero3"]:
        for seen in (rank["fine-tuning"], rank["alignment"], rank["alignment bf16"], rank["new"]):
            assert {name.split(".")[0] for name in seen["built"]} >= {"model"}
            for moment in ("built", "training"):
                assert all(held == -(-whole // 2) for held, whole in seen[moment].values()), seen[moment]
    assert any(name.startswith("target.") for name in launched["zero3"][0]["alignment"]["training"])
    assert all(held == whole for held, whole in launched["zero2"][0]["alignment"]["training"].values())


@pytest.mark.parametrize("strategy", ["zero2", "zero3"])
def test_zero_splits_the_optimizer_states_of_what_is_trained(launched: dict[str, list[Results]], strategy: str) -> None:
    for rank in launched[strategy]:
        seen = rank["alignment"]
        trained = sum(whole for name, (_, whole) in seen["training"].items() if name.startswith("model."))
        assert trained / 2 <= seen["optimized"] <= trained / 2 + 64, "half, and some padding"


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_checkpoints_do_without_the_frozen_target(
    launched: dict[str, list[Results]], folder: Path, strategy: str
) -> None:
    checkpoint = folder / strategy / "alignment" / "checkpoints" / "epoch=1.ckpt"
    files = [checkpoint] if strategy == "ddp" else list(checkpoint.glob("checkpoint/*model_states.pt"))
    assert files
    for file in files:
        content = torch.load(file, weights_only=False)
        names = set(content["state_dict" if strategy == "ddp" else "module"])
        assert not any(name.startswith("target.") for name in names), names
        if strategy != "zero3":  # whose weights are among the optimizer's states
            assert any(name.startswith("model.") for name in names)


@pytest.mark.parametrize("strategy", ["zero2", "zero3"])
def test_mixed_precision_stays_near(launched: dict[str, list[Results]], single: Results, strategy: str) -> None:
    found = dealt(launched[strategy], "alignment bf16")
    assert found == pytest.approx(single["alignment"]["losses"], abs=BF16_TOLERANCE)
    assert found != pytest.approx(single["alignment"]["losses"], abs=1e-6), "these are no bfloat16 weights"


@torch.no_grad()
def test_a_foreign_checkpoint_is_loaded_into_shards_and_gets_new_embeddings(
    launched: dict[str, list[Results]], folder: Path
) -> None:
    foreign = LlamaForCausalLM.from_pretrained(folder / "models" / "foreign")
    first, second = (rank["foreign"] for rank in launched["zero3"])
    body = {name: value for name, value in foreign.state_dict().items() if "embed" not in name and "head" not in name}
    assert all(first["initial"][name].equal(value) for name, value in body.items())
    assert not second["initial"], "only one process puts weights together"
    for seen in (first, second):
        assert all(held < whole for name, (held, whole) in seen["built"].items() if "embed" not in name)
        assert all(held == -(-whole // 2) for held, whole in seen["training"].values())
        assert sum("embed" in name or "head" in name for name in seen["training"]) == 1, "they are tied"
    vocabulary = requests()
    vocabulary.setup()
    embeddings = first["initial"]["model.embed_tokens.weight"]
    assert embeddings.shape == (len(CompactVocabulary(vocabulary.catalog.words)), TINY["hidden_size"])
    assert 0.018 < embeddings.std() < 0.022
    losses = dealt(launched["zero3"], "foreign")
    assert losses[-1] < losses[0] - 0.1
    exported = load(folder / "zero3" / "foreign", "target")
    assert exported.get_input_embeddings().weight is exported.get_output_embeddings().weight
    torch.testing.assert_close(first["logits"], exported(TOKENS).logits, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_adapters_are_trained_on_shards_and_exported_into_the_weights(
    launched: dict[str, list[Results]], folder: Path
) -> None:
    ranks = launched["zero3"]
    losses = dealt(ranks, "lora")
    assert losses[-1] < losses[0] - 0.05
    assert any("lora_" in name for name in ranks[0]["lora"]["training"])
    exported = load(folder / "zero3" / "lora", "target")
    assert not any("lora_" in name for name in exported.state_dict())
    torch.testing.assert_close(ranks[0]["lora"]["logits"], exported(TOKENS).logits, atol=0.05, rtol=0.05)


def test_offload_to_the_cpu_takes_the_same_steps(launched: dict[str, list[Results]], single: Results) -> None:
    found = dealt(launched["zero3"], "offload")
    assert found == pytest.approx(single["fine-tuning"]["losses"], abs=TOLERANCE)


def test_decoding_and_caching_with_shards_are_refused(launched: dict[str, list[Results]]) -> None:
    for rank in launched["zero3"]:
        decoding, caching = rank["refusals"]
        assert "ZeRO stage 3, which cannot be used for decoding" in decoding
        assert "cannot be used for cache-target" in caching
