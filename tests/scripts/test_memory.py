"""The memory formula against real modules, and the table of docs/memory.md against the formula."""

from pathlib import Path

import pytest
import torch

from atspeed.catalog import CompactVocabulary
from atspeed.data import AtSpeedLayout
from atspeed.models import NewModel
from scripts.memory import (
    BEAUTY_TOKENS,
    LLAMA_7B,
    LLAMA_68M,
    STRATEGIES,
    Parameters,
    cpu_bytes,
    gpu_bytes,
    jobs,
    on_meta,
    table,
)
from tests.modules.tiny import TINY

DOCS = Path(__file__).parents[2] / "docs" / "memory.md"


def test_the_jobs_have_the_parameters_of_the_real_architectures() -> None:
    def llama(vocabulary: int, hidden: int, layers: int, intermediate: int) -> int:
        return 2 * vocabulary * hidden + layers * (4 * hidden**2 + 3 * hidden * intermediate + 2 * hidden) + hidden

    target, draft = llama(BEAUTY_TOKENS, 4096, 32, 11008), llama(BEAUTY_TOKENS, 768, 2, 3072)
    assert [Parameters.of(on_meta(config)).trained for config in (LLAMA_7B, LLAMA_68M)] == [target, draft]
    adapters = 16 * 32 * (4 * (4096 + 4096) + 3 * (4096 + 11008))
    embeddings = 2 * BEAUTY_TOKENS * 4096
    assert jobs() == {
        "fine-tuning the target": Parameters(target),
        "fine-tuning it with LoRA, rank 16": Parameters(adapters + embeddings, target - embeddings),
        "alignment, target online": Parameters(draft, target),
        "alignment from a target cache": Parameters(draft),
    }


def test_the_vocabulary_is_beautys(beauty: Path) -> None:
    assert len(CompactVocabulary(AtSpeedLayout(beauty).load().catalog.words)) == BEAUTY_TOKENS


def test_one_gpu_takes_what_real_tensors_take(tmp_path: Path) -> None:
    """All but the copy of autocast, 2 bytes a trained parameter, are tensors that a training step leaves behind."""
    vocabulary = CompactVocabulary([f"<a_{code}>" for code in range(20)])
    draft, target = (NewModel("llama", TINY).build(vocabulary, tmp_path) for _ in range(2))
    target.requires_grad_(False).bfloat16()
    optimizer = torch.optim.AdamW(draft.parameters())
    draft(torch.tensor([[1, 3, 4]])).logits.sum().backward()
    optimizer.step()
    weights = [*draft.parameters(), *target.parameters()]
    moments = [state[name] for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    found = sum(tensor.numel() * tensor.element_size() for tensor in [*weights, *gradients, *moments])
    counted = Parameters.of(torch.nn.ModuleList([draft, target]))
    assert found == gpu_bytes(counted, "ddp", 1) - 2 * counted.trained


@pytest.mark.parametrize("parameters", list(jobs().values()), ids=list(jobs()))
def test_every_step_of_sharding_saves_memory_on_eight_gpus(parameters: Parameters) -> None:
    two, three, offload = (gpu_bytes(parameters, strategy, 8) for strategy in STRATEGIES[1:])
    assert gpu_bytes(parameters, "deepspeed-zero2", 8) < gpu_bytes(parameters, "deepspeed-zero2", 1)
    assert offload < three
    if parameters.trained > 1e9:
        assert three < two < gpu_bytes(parameters, "ddp", 8)
    assert cpu_bytes(parameters) == pytest.approx(8 * (three - offload))


def test_the_docs_have_the_table() -> None:
    assert table() in DOCS.read_text(), "run python scripts/memory.py and put its table into docs/memory.md"
