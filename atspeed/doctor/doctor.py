"""The command ``doctor``: all that can go wrong with a checkpoint, checked on a handful of users."""

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from transformers import GenerationConfig, PreTrainedModel

from atspeed.benchmark.loading import pick_device
from atspeed.catalog import ItemCatalog, TokenizerVocabulary, Vocabulary
from atspeed.checks import require_at_least
from atspeed.data import RecommendationData, RequestBatch, splits
from atspeed.data.batches import collate_requests
from atspeed.data.prompt_lines import prompt_lines
from atspeed.decoding import ItemTrie
from atspeed.decoding.probe import check_tree_attention
from atspeed.doctor.answers_check import check_answers, check_speed, own_settings, try_out
from atspeed.doctor.codes_check import check_codes, check_semantic_ids
from atspeed.doctor.findings import WIDTH, Finding, attempt, show_changes, show_finding
from atspeed.doctor.folder_check import load, num_rows
from atspeed.doctor.generation_check import check_generation
from atspeed.models import Checkpoint
from atspeed.prompts import ChatPrompt, CompactPrompt, Prompt, PromptEncoder, TextPrompt
from atspeed.recommender import response_trie

TEXT_PROMPT = (
    "a checkpoint with a tokenizer of its own needs a prompt: --data.prompt TextPrompt with tokenizer and template, or "
    "a config such as --config lcrec.yaml with --data.prompt.tokenizer"
)


class Doctor:
    """Checks a checkpoint, its tokenizer and a prompt on a handful of users, and says what to change.

    After a check that fails, those that do not depend on it follow.

    Args:
        target: folder of the checkpoint, a model or a PEFT adapter.
        dtype: of the weights; they are read into it.
        adapter_base: folder of the model that an adapter belongs to.
        trust_code: run the Python code that comes with a model whose architecture ``transformers`` does not have.
        allow_pickle: read weights that are not in safetensors format, but tensors only.
        num_users: test users to answer, evenly spread over the data.
        num_beams: beam width K.
        device: where to run; a GPU if there is one.

    Raises:
        FileNotFoundError: if the folder does not exist.
    """

    def __init__(
        self,
        target: Path,
        dtype: Literal["float32", "bfloat16"] = "float32",
        adapter_base: Path | None = None,
        trust_code: bool = False,
        allow_pickle: bool = False,
        num_users: int = 4,
        num_beams: int = 10,
        device: str | None = None,
    ) -> None:
        require_at_least(1, num_users=num_users, num_beams=num_beams)
        if not target.is_dir():
            raise FileNotFoundError(f"target is {str(target)!r}, which is no folder")
        self.source = Checkpoint(
            target, dtype=dtype, adapter_base=adapter_base, trust_code=trust_code, allow_pickle=allow_pickle
        )
        self.num_users = num_users
        self.num_beams = num_beams
        self.device = pick_device(device)

    def run(self, data: RecommendationData) -> bool:
        """Print what the checks find, and return whether none failed.

        Args:
            data: the users, and the prompt of the target.

        Raises:
            ValueError: if the data cannot be read, or has no test user.
        """
        findings = []
        for finding in self._findings(data):
            show_finding(finding)
            findings.append(finding)
        show_changes(findings)
        return all(finding.verdict != "failed" for finding in findings)

    def _findings(self, data: RecommendationData) -> Iterator[Finding]:
        dataset = data.source.load()
        catalog, max_items = dataset.catalog, data.max_history
        requests = list(splits.test_requests(dataset, self.num_users))
        prompt = data.prompt
        if isinstance(prompt, TextPrompt | ChatPrompt) and not prompt.tokenizer.is_dir():
            yield _no_tokenizer(prompt.tokenizer, self.source.path)
            prompt = _changed(prompt, tokenizer=self.source.path)
        wanted = prompt
        prompt, model, folder = self._load(wanted, catalog, max_items)
        yield folder

        encoder, problem = attempt(lambda: prompt.encoder(catalog, max_items))
        settings, _ = attempt(lambda: _generation_settings(model, self.source.path))
        if settings is not None:
            yield check_generation(settings, encoder.spelling if encoder is not None else None)
        if encoder is None:
            yield Finding("prompt", "failed", [problem], ["make the prompt fit its tokenizer, as said under prompt"])
            return

        trie = response_trie(catalog, encoder)
        num_beams = min(self.num_beams, trie.num_leaves)
        spare_rows = num_rows(model) - len(encoder.vocabulary) if model is not None else 0
        lacks_added = prompt is not wanted
        yield check_codes(dataset, encoder, num_beams, lacks_added, spare_rows)
        user = requests[0].user
        lines, problem = attempt(lambda: [*prompt_lines("target", prompt, encoder, dataset, user, WIDTH)])
        if lines is None:
            yield Finding("prompt", "failed", [problem], ["change the prompt, as said under prompt"])
            return
        yield Finding("prompt", "good", [f"Of the user {dataset.users[user]!r}, as the model sees it:"], block=lines)
        yield check_semantic_ids(catalog, encoder, trie)

        if model is None:
            yield Finding("tree attention, answers, cost", "skipped", ["The model was not loaded."])
            return
        model.to(self.device)  # type: ignore[arg-type]
        batches = [
            RequestBatch(*(tensor.to(self.device) for tensor in collate_requests([request], encoder, encoder)))
            for request in requests
        ]
        yield from _search(model, trie.to(self.device), encoder, batches, num_beams)

    def _load(
        self, prompt: Prompt, catalog: ItemCatalog, max_items: int
    ) -> tuple[Prompt, PreTrainedModel | None, Finding]:
        """Load the model; where it lacks the codes that the prompt adds, as it is, with the prompt that adds none."""
        vocabulary, problem = attempt(lambda: _vocabulary(prompt, catalog, max_items))
        if vocabulary is None:
            return prompt, None, Finding("folder", "failed", [problem], ["name a tokenizer, as said under folder"])
        model, finding = load(self.source, vocabulary)
        if model is None and isinstance(vocabulary, TokenizerVocabulary) and vocabulary.num_added:
            without = _changed(prompt, add_codes=False)
            as_it_is, found = load(self.source, _vocabulary(without, catalog, max_items))
            if as_it_is is not None:
                return without, as_it_is, found
        if model is None and isinstance(prompt, CompactPrompt):
            finding = replace(finding, changes=[TEXT_PROMPT])
        return prompt, model, finding


def _search(
    model: PreTrainedModel, trie: ItemTrie, encoder: PromptEncoder, batches: list[RequestBatch], num_beams: int
) -> Iterator[Finding]:
    """Check what needs the model: tree attention, then answers and cost."""
    name, length = type(model).__name__, encoder.max_prompt_tokens
    _, problem = attempt(lambda: check_tree_attention(model, length, trie.max_depth))
    if problem:
        change = f"atspeed cannot serve {name}: choose another architecture, or keep transformers.generate for it"
        yield Finding("tree attention", "failed", [problem], [change])
        yield Finding("answers, cost", "skipped", ["There are none without tree attention."])
        return
    fact = f"{name} honours a tree attention mask after prompts of up to {length} tokens, the longest of this data."
    yield Finding("tree attention", "good", [fact])
    trial, problem = attempt(lambda: try_out(model, trie, encoder, batches, num_beams))
    if trial is None:
        yield Finding("answers, cost", "failed", [problem], ["see under answers, cost"])
        return
    answers = check_answers(trial, model)
    yield replace(answers, facts=[*answers.facts, own_settings(model, encoder, batches, trial, num_beams)])
    yield check_speed(trial, num_beams)


def _no_tokenizer(named: Path, used: Path) -> Finding:
    """A prompt of a config that is to be filled in names a folder that does not exist."""
    fact = f"The prompt's tokenizer, {named}, is no folder here: the one in {used} is used instead."
    return Finding("tokenizer", "warning", [fact], [f"name the prompt's tokenizer: --data.prompt.tokenizer {used}"])


def _vocabulary(prompt: Prompt, catalog: ItemCatalog, max_items: int) -> Vocabulary:
    """Return the vocabulary of a prompt, also of one that cannot write the catalog with it."""
    if isinstance(prompt, TextPrompt | ChatPrompt):
        return TokenizerVocabulary(prompt.tokenizer, catalog.words if prompt.add_codes else ())
    return prompt.encoder(catalog, max_items).vocabulary


def _generation_settings(model: PreTrainedModel | None, folder: Path) -> GenerationConfig:
    """Return the settings for ``generate``, also those of a model that does not load."""
    return (
        model.generation_config
        if model is not None
        else GenerationConfig.from_pretrained(folder, local_files_only=True)
    )


def _changed(prompt: Prompt, **settings: Any) -> Prompt:
    changed = copy.copy(prompt)
    vars(changed).update(settings)
    return changed
