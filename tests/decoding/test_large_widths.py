"""Every width of a catalog of OneRec's size, after a prompt of its length: the answers of plain search, none twice."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from atspeed.decoding import Drafter, HybridDrafter, ItemTrie, ModelDrafter, NoDrafter, SpeculativeDecoder, TrieDrafter

CODES, LEVELS, ITEMS, PROMPT, TEXTS = 8192, 3, 1_500_000, 2465, 1000
pytestmark = pytest.mark.nightly


def model(seed: int) -> PreTrainedModel:
    torch.manual_seed(seed)
    config = AutoConfig.for_model(
        "qwen3",
        vocab_size=TEXTS + LEVELS * CODES,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=8192,
    )
    built = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        built.lm_head.weight.mul_(20)  # scores as far apart as those of a trained model
    return built


@pytest.fixture(scope="module")
def models() -> tuple[PreTrainedModel, PreTrainedModel]:
    return model(0), model(1)


@pytest.fixture(scope="module")
def trie() -> ItemTrie:
    """Codes of Zipf's law, as real ones are: some nodes have thousands of children, most have one."""
    generator = torch.Generator().manual_seed(0)
    frequency = 1 / torch.arange(1, CODES + 1)
    draw = [torch.multinomial(frequency, ITEMS, replacement=True, generator=generator) for _ in range(LEVELS)]
    return ItemTrie(TEXTS + CODES * torch.arange(LEVELS) + torch.stack(draw, dim=1))


@pytest.mark.parametrize("num_beams", [1, 2, 7, 50, 512, 1000])
def test_every_width_gives_the_answers_of_plain_search(
    models: tuple[PreTrainedModel, PreTrainedModel], trie: ItemTrie, num_beams: int
) -> None:
    prompts = torch.randint(1, TEXTS, (1, PROMPT), generator=torch.Generator().manual_seed(num_beams))
    mask = torch.ones_like(prompts, dtype=torch.bool)
    target, draft = models

    def decoded(drafter: Drafter) -> tuple[torch.Tensor, torch.Tensor]:
        answer = SpeculativeDecoder(target, trie, drafter, draft=draft)(prompts, mask, num_beams)
        return answer.leaves[0], answer.scores[0]

    leaves, scores = decoded(NoDrafter())
    assert trie.is_leaf(leaves).all()
    assert len(leaves.unique()) == num_beams
    for drafter in (TrieDrafter(256), HybridDrafter(1024), ModelDrafter(max(40, num_beams), LEVELS - 1)):
        found, found_scores = decoded(drafter)
        torch.testing.assert_close(found_scores, scores, atol=1e-4, rtol=0)
        differ = found != leaves
        assert differ.float().mean() < 0.05, "only near-ties may change places"
        assert len(found.unique()) == num_beams
