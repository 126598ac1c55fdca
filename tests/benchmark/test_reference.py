"""A model's ``generation_config.json`` changes no answer, neither ours nor the reference's."""

import pytest
import torch
from transformers import GenerationConfig

from atspeed.benchmark import HFGenerate
from atspeed.decoding import ItemTrie, SpeculativeDecoder, TrieDrafter
from tests.decoding.tiny import END_TOKEN, random_prompts, random_titles, tiny_model

HOSTILE = {
    "do_sample": True,
    "temperature": 0.2,
    "top_k": 3,
    "top_p": 0.5,
    "min_p": 0.2,
    "typical_p": 0.5,
    "epsilon_cutoff": 0.1,
    "repetition_penalty": 3.0,
    "encoder_repetition_penalty": 2.0,
    "no_repeat_ngram_size": 1,
    "encoder_no_repeat_ngram_size": 1,
    "bad_words_ids": [[5], [6]],
    "sequence_bias": [[[7], 9.0]],
    "suppress_tokens": [4, 8],
    "begin_suppress_tokens": [9],
    "forced_bos_token_id": 3,
    "forced_eos_token_id": 7,
    "exponential_decay_length_penalty": [1, 3.0],
    "min_length": 30,
    "max_length": 3,
    "max_time": 1e-9,
    "length_penalty": -2.0,
    "early_stopping": "never",
    "renormalize_logits": True,
    "remove_invalid_values": True,
    "guidance_scale": 2.0,
    "watermarking_config": {"bias": 5.0},
    "num_return_sequences": 1,
    "use_cache": False,
    "eos_token_id": 6,
    "bos_token_id": 4,
    "pad_token_id": 5,
}


@pytest.mark.parametrize("num_beams", [1, 6])
def test_hidden_generation_settings_change_no_answer(monkeypatch: pytest.MonkeyPatch, num_beams: int) -> None:
    model, generator = tiny_model("llama", 12), torch.Generator().manual_seed(3)
    sids = random_titles(generator, 40, 4, 12)
    prompts, mask = random_prompts(generator, [6, 3, 9], 12)
    reference = HFGenerate(model, sids, end_token=END_TOKEN)
    expected = reference(prompts, mask, num_beams)
    decoder = SpeculativeDecoder(model, ItemTrie(sids), TrieDrafter())
    ours = decoder(prompts, mask, num_beams)
    hostile = GenerationConfig(**HOSTILE)
    monkeypatch.setattr(model, "generation_config", hostile)
    for found, clean in zip(reference(prompts, mask, num_beams), expected, strict=True):
        assert found.equal(clean)
    assert decoder(prompts, mask, num_beams).scores.equal(ours.scores)
    assert model.generation_config is hostile, "the model keeps its settings"
