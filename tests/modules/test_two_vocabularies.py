"""A target that reads text, and a draft that sees only codes: cached, aligned, exported and tested together."""

from pathlib import Path

import pytest
import torch

from atspeed.alignment import SequenceShares
from atspeed.callbacks import DraftCalibration, HuggingFaceExport, SpeculationMonitor
from atspeed.catalog import CompactVocabulary, TokenizerVocabulary
from atspeed.data import EmbeddedCatalog, RecommendationData
from atspeed.decoding import ModelDrafter, PriceAwareDrafter, StrictTopK
from atspeed.losses import AtSpeedS
from atspeed.models import Exported, NewModel
from atspeed.modules import Alignment, FineTuning, Inference, TargetCaching
from atspeed.prompts import CompactPrompt, TextPrompt
from tests.modules.tiny import TINY, make_trainer
from tests.prompts.tiny_tokenizers import byte_level, save

LONG = {**TINY, "max_position_embeddings": 512}
SHARES = SequenceShares(1, 0, 1)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("tokenizer"), byte_level())


def data(tokenizer: Path) -> RecommendationData:
    prompt = TextPrompt(
        tokenizer, "Bought: {history}\nNext:", response_prefix=" (", response_suffix=")\n{eos}", add_codes=True
    )
    source = EmbeddedCatalog(num_users=24, num_items=140)
    return RecommendationData(
        source, prompt, CompactPrompt(), examples="requests", max_history=4, max_tokens=512, batch_size=8
    )


def alignment(cached: bool = False, sources: SequenceShares = SHARES) -> Alignment:
    return Alignment(
        "strict",
        NewModel("llama", LONG, 1),
        NewModel("llama", LONG, 2),
        AtSpeedS(4),
        num_beams=4,
        sources=sources,
        target_cache=Path("cache") if cached else None,
        warmup_steps=2,
    )


@torch.no_grad()
def test_cached_losses_are_those_of_the_target_online(tokenizer: Path, tmp_path: Path) -> None:
    requests = data(tokenizer)
    make_trainer(tmp_path).predict(TargetCaching(alignment(True), requests), return_predictions=False)
    modules = [alignment(cached) for cached in (True, False)]
    for module in modules:
        make_trainer(tmp_path, limit_val_batches=2).validate(module, requests, verbose=False)
        module.eval()
    for batch in requests.val_dataloader():
        cached, online = (module.losses(batch, "val") for module in modules)
        torch.testing.assert_close(cached, online, atol=1e-5, rtol=0)


def test_every_item_of_a_user_is_a_response_once(tokenizer: Path) -> None:
    requests = data(tokenizer)
    requests.examples, requests.cuts = "sequences", "every"
    requests.setup()
    labels = torch.cat([batch.labels.flatten() for batch in requests.train_dataloader()])
    end = requests.encoder.vocabulary.eos_token
    assert int((labels == end).sum()) == int((requests.dataset.train.lengths - 1).sum())


def test_another_prompt_has_another_fingerprint(tokenizer: Path) -> None:
    requests = data(tokenizer)
    requests.setup()
    settings = {"template": "Bought: {history}\nNext:", "add_codes": True}
    changes = (
        {},
        {"template": "Seen: {history}\nNext:"},
        {"separator": "; "},
        {"response_suffix": "\n"},
        {"item": "- {codes}"},
    )
    encoders = [
        TextPrompt(tokenizer, **{**settings, **change}).encoder(requests.catalog, 4)  # type: ignore[arg-type]
        for change in (*changes, {})
    ]
    fingerprints = [encoder.fingerprint() for encoder in encoders]
    assert fingerprints[0] == fingerprints[-1]
    assert len(set(fingerprints)) == len(changes)


@torch.no_grad()
def test_the_draft_learns_the_codes_after_its_own_prompt(tokenizer: Path, tmp_path: Path) -> None:
    requests, module = data(tokenizer), alignment(sources=SequenceShares(0, 0, 1))
    make_trainer(tmp_path, limit_val_batches=2).validate(module, requests, verbose=False)
    module.eval()
    (batch, *_) = requests.val_dataloader()
    rec_loss, _ = module.losses(batch, "val")
    expected = []
    trie, compact = module.trie, requests.draft_encoder
    for row, item in enumerate(batch.truth[:, 0].tolist()):
        prompt = compact.encode(requests.requests("val")[int(batch.rows[row])].history)
        codes = compact.spelling.sids[item]
        logits = module.model(torch.cat([prompt, codes])[None]).logits[0, len(prompt) - 1 : -1]
        for level, node in enumerate(trie.code_path(trie.leaves(torch.tensor(item))).flip(0).tolist()):
            parent = int(trie.parent[node])
            begin = int(trie.first_child[parent])
            legal = trie.code[begin : begin + int(trie.num_children[parent])] + 3  # the compact token of a code
            expected.append(-logits[level].log_softmax(0)[legal][node - begin])
    torch.testing.assert_close(rec_loss, torch.stack(expected).mean(), atol=1e-5, rtol=0)


def test_from_fine_tuning_to_recommendations(tokenizer: Path, tmp_path: Path) -> None:
    requests = data(tokenizer)
    requests.examples = "sequences"
    target = FineTuning("target", NewModel("llama", LONG, 1), warmup_steps=2)
    make_trainer(tmp_path, callbacks=[HuggingFaceExport()]).fit(target, requests)
    assert TokenizerVocabulary(tmp_path / "target/model") == requests.encoder.vocabulary, "with the codes"

    aligned = Alignment(
        "strict", Exported("target"), NewModel("llama", LONG, 2), AtSpeedS(4), num_beams=4, warmup_steps=2
    )
    monitor = SpeculationMonitor(ModelDrafter(8, 3), num_beams=4, num_users=4)
    callbacks = [monitor, HuggingFaceExport(), DraftCalibration(num_users=8)]
    requests = data(tokenizer)
    make_trainer(tmp_path, callbacks=callbacks).fit(aligned, requests)
    CompactVocabulary(requests.catalog.words).check(tmp_path / "strict/model")

    answers = []
    for drafter in (ModelDrafter(8, 3), PriceAwareDrafter()):
        module = Inference(
            "recommend", Exported("target"), drafter, StrictTopK(), Exported("strict"), num_beams=5, metrics_at=[5]
        )
        (values,) = make_trainer(tmp_path).test(module, data(tokenizer), verbose=False)
        answers.append(values["test/recall@5"])
        assert 1 <= values["test/target_calls"] <= 4
    assert answers[0] == answers[1]
