"""The doctor on good and bad checkpoints, which it says what to do about."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from atspeed.data import EmbeddedCatalog
from scripts.tiny_checkpoint import make
from tests.cli.running import SMALL_DATA, run_here
from tests.models.test_adapter_folder import save_adapter
from tests.prompts.tiny_tokenizers import byte_level, save

CODES = EmbeddedCatalog(num_users=40, num_items=140).load().catalog.words
HIDDEN = {"do_sample": True, "temperature": 0.6, "repetition_penalty": 1.2, "suppress_tokens": [9], "top_k": None}


def checkpoint(folder: Path, codes: bool = True, family: str = "qwen3", generation: dict | None = None) -> Path:
    """Write a random checkpoint with a byte-level tokenizer."""
    tokenizer = save(folder.with_name("tokenizer"), byte_level())
    make(folder, tokenizer, CODES if codes else [], family, generation or {})
    return folder


def examine(folder: Path, *options: str, code: int = 0) -> dict[str, str]:
    """Run the doctor, and return its sections by their headings, with spaces instead of line breaks."""
    prompt = {"tokenizer": str(folder), "template": "Bought: {history}\n\nNext:\n"}
    config = {"max_history": 3, "prompt": {"class_path": "TextPrompt", "init_args": prompt}}
    file = folder.with_name("prompt.yaml")
    file.write_text(json.dumps({"data": config, "model": {"no": "such"}}))
    output = run_here("doctor", "--target", str(folder), *SMALL_DATA, "-c", str(file), *options, code=code)
    sections: dict[str, str] = {}
    heading = ""
    for line in output.splitlines():
        if line.startswith(tuple("abcdefghijklmnopqrstuvwxyz")) and not line.startswith(
            ("target: ", "probing", "config")
        ):
            heading = line
        sections[heading] = f"{sections.get(heading, '')} {line.strip()}" if line != heading else ""
    return sections


def test_a_good_checkpoint(tmp_path: Path) -> None:
    found = examine(checkpoint(tmp_path / "good"))
    assert found["folder: good"].startswith(" Qwen3ForCausalLM, ")
    assert "parameters; weights in 1 file of safetensors, stored in float32, used in float32." in found["folder: good"]
    assert re.search(r"matrix has \d+ rows for \d+ tokens; the last \d+ pad the matrix", found["folder: good"])
    assert "No setting changes answers. length_penalty = 1.0, the default" in found["settings of generate: good"]
    assert f"All {len(CODES)} are single tokens: 4 for an item, and 1 to close it." in found["codes: good"]
    assert "Of the user 'user-0', as the model sees it:" in found["prompt: good"]
    assert "Bought: <a_" in found["prompt: good"]
    assert "</s>\u00a02" in found["prompt: good"], "the response's end"
    assert re.search(r"(\d+) distinct semantic IDs of 140 items, \1 leaves of", found["semantic IDs: good"])
    assert "Qwen3ForCausalLM honours a tree attention mask" in found["tree attention: good"]
    for name in ("plain: 4 of 4 identical to generate", "trie: 4 of 4 identical", "settings: 4 of 4 identical to that"):
        assert name in found["answers: good"]
    assert "Medians of 4 requests at K = 10" in found["cost: good"]
    assert "answers in 1.5 target calls" in found["cost: good"], "the median of requests with 1 and 2"
    for row in ("generate 5 ", "plain 4 ", "trie 1.5 "):
        assert row in " ".join(found["cost: good"].split())
    assert found["what to change"].strip() == "nothing"


def test_codes_that_are_missing_are_spelled_or_to_be_added(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "missing", codes=False)
    found = examine(folder, "--num_users", "2", "--data.prompt.add_codes", "true", code=1)
    spelled = found["codes: failed"]
    assert (
        f" 0 of {len(CODES)} are single tokens. {len(CODES)} are spelled with several, such as '<a_0>' with" in spelled
    )
    assert (
        "Single tokens would be 4, with 4 target calls by plain beam search and about 1.0 with TrieDrafter." in spelled
    )
    assert "The prompt would add them (add_codes), but the model does not know them." in spelled
    assert "order of items of different lengths may change" in found["settings of generate: warning"]
    assert "plain: 2 of 2 identical to generate" in found["answers: good"], "all else goes on, with codes as text"
    assert "set data.prompt.add_codes to true, and fine-tune" in found["what to change"]
    assert "save the tokenizer of that training" not in found["what to change"], "there are no rows for codes"
    again = examine(folder, "--num_users", "1")
    assert "The prompt would add them" not in again["codes: warning"]


def test_a_tokenizer_that_was_not_saved_with_the_codes(tmp_path: Path) -> None:
    """The model was trained with them, as its embedding matrix shows."""
    folder = checkpoint(tmp_path / "good")
    save(folder, byte_level())
    found = examine(folder, "--num_users", "1")
    assert "rows more than the tokenizer has tokens" in found["codes: warning"]
    assert "save the tokenizer of that training in its folder" in found["what to change"]


def test_hidden_settings_are_named_with_what_they_do(tmp_path: Path) -> None:
    found = examine(checkpoint(tmp_path / "hidden", generation=HIDDEN))
    settings = found["settings of generate: warning"]
    for effect in (
        "- do_sample = True (temperature = 0.6) draws answers at random",
        "- repetition_penalty = 1.2 changes the probability of all tokens seen before",
        "- suppress_tokens = [9] forbids tokens",
    ):
        assert effect in settings
    assert "trie: 4 of 4 identical to generate" in found["answers: good"]
    assert "own settings: 0 of 4 identical to that" in found["answers: good"]
    assert (
        "set model.generation_config = GenerationConfig(), and call it with do_sample=False" in found["what to change"]
    )


@pytest.mark.parametrize(("family", "name"), [("bloom", "Bloom"), ("mamba", "Mamba")])
def test_an_architecture_that_is_refused(tmp_path: Path, family: str, name: str) -> None:
    found = examine(checkpoint(tmp_path / "refused", family=family), code=1)
    assert {"folder: good", "codes: good", "prompt: good", "semantic IDs: good"} < found.keys()
    assert f"{name}ForCausalLM cannot be used here: " in found["tree attention: failed"]
    assert "answers, cost: skipped" in found
    assert f"atspeed cannot serve {name}ForCausalLM" in found["what to change"]


def test_a_folder_that_does_not_load_has_its_text_checked_all_the_same(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "pickled", generation=HIDDEN)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    found = examine(folder, code=1)
    assert "pytorch_model.bin is a pickle, which could run code." in found["folder: failed"]
    assert {"codes: good", "prompt: good", "semantic IDs: good", "settings of generate: warning"} < found.keys()
    assert "The model was not loaded." in found["tree attention, answers, cost: skipped"]
    found = examine(folder, "--allow_pickle", "true", "--num_users", "1")
    assert "weights in 1 file of pickled tensors" in found["folder: good"]


def test_a_broken_configuration_is_explained(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "broken")
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen9"}))
    assert "transformers cannot load" in examine(folder, code=1)["folder: failed"]
    (folder / "config.json").write_text("{")
    assert "config.json' is not a valid JSON file" in examine(folder, code=1)["folder: failed"]


def test_an_adapter(tmp_path: Path) -> None:
    base, folder = checkpoint(tmp_path / "base"), tmp_path / "adapter"
    save_adapter(folder, base)
    found = examine(folder, "--data.prompt.tokenizer", str(base), "--num_users", "1")
    assert f"{folder} is an adapter (LORA), merged into {base}." in found["folder: good"]


def test_a_config_whose_tokenizer_is_to_be_filled_in_gets_that_of_the_checkpoint(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "good")
    found = examine(folder, "--num_users", "1", "--data.prompt.tokenizer", "models/mine")
    assert "models/mine, is no folder here" in found["tokenizer: warning"]
    assert f"--data.prompt.tokenizer {folder}" in found["what to change"]
    assert "answers: good" in found


def test_what_is_no_checkpoint_or_has_no_prompt(tmp_path: Path) -> None:
    message = f"error: target is '{tmp_path / 'nowhere'}', which is no folder"
    assert message in run_here("doctor", "--target", str(tmp_path / "nowhere"), *SMALL_DATA, code=2)
    folder = checkpoint(tmp_path / "good")
    output = run_here("doctor", "--target", str(folder), *SMALL_DATA, code=1)
    assert "a checkpoint with a tokenizer of its own needs a prompt: --data.prompt TextPrompt" in output


def test_a_prompt_that_does_not_fit_is_explained(tmp_path: Path) -> None:
    found = examine(checkpoint(tmp_path / "good"), "--data.prompt.max_tokens", "5", code=1)
    assert "more than its max_tokens, 5" in found["prompt: failed"]
