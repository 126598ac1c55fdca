"""A model's ``generation_config.json`` changes no answer, neither ours nor the reference's."""

from pathlib import Path

import pytest
import torch
from transformers import GenerationConfig

from atspeed.benchmark import HFGenerate
from atspeed.benchmark.reference import reference_for
from atspeed.catalog import ItemCatalog
from atspeed.decoding import ItemTrie, SpeculativeDecoder, TrieDrafter
from atspeed.prompts import TextPrompt
from tests.decoding.tiny import END_TOKEN, random_prompts, random_titles, tiny_model
from tests.prompts.tiny_tokenizers import byte_level, save

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


def test_a_models_own_settings_decide_where_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    model, generator = tiny_model("llama", 12), torch.Generator().manual_seed(3)
    sids = random_titles(generator, 40, 4, 12)
    prompts, mask = random_prompts(generator, [6, 3, 9], 12)
    reference = HFGenerate(model, sids, end_token=END_TOKEN)
    expected, _ = reference(prompts, mask, 6)
    for penalty, same in ((0.0, True), (-4.0, False)):
        settings = GenerationConfig(length_penalty=penalty, eos_token_id=END_TOKEN)
        monkeypatch.setattr(model, "generation_config", settings)
        assert reference.by_own_settings(prompts, mask, 6).equal(expected) == same


def test_the_end_token_of_codes_that_a_tokenizer_spells_is_that_of_all_responses(tmp_path: Path) -> None:
    catalog = ItemCatalog({"soap": ["<a_1>"], "comb": ["<a_777>"]})
    encoder = TextPrompt(save(tmp_path, byte_level()), "{history}\n").encoder(catalog, 3)
    assert encoder.spelling.code_tokens is None
    assert reference_for(tiny_model("llama", 12), encoder).end_token == encoder.vocabulary.eos_token
