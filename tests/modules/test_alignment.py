from collections.abc import Iterator
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor

from atspeed.alignment import SequenceShares
from atspeed.callbacks import HuggingFaceExport
from atspeed.data import EmbeddedCatalog, RecommendationData
from atspeed.data.batches import RequestBatch
from atspeed.decoding import ItemTrie, NoDrafter, SpeculativeDecoder
from atspeed.losses import AlignmentLoss, AtSpeedS, Coverage, SequenceKD
from atspeed.models import LoRA, NewModel
from atspeed.modules import Alignment, TargetCaching, target_caching
from tests.modules.tiny import TINY, fit, make_trainer

NUM_BEAMS = 4


def alignment(loss: AlignmentLoss | None = None, **settings: object) -> Alignment:
    arguments = {"alpha": 0.5, "num_beams": NUM_BEAMS, "learning_rate": 1e-2, "warmup_steps": 2, **settings}
    sources = NewModel("llama", TINY, 1), NewModel("llama", TINY, 2)
    return Alignment("strict", *sources, loss or AtSpeedS(NUM_BEAMS), **arguments)  # type: ignore[arg-type]


def data(num_users: int = 24) -> RecommendationData:
    return RecommendationData(EmbeddedCatalog(num_users, num_items=140), examples="requests", max_tokens=512)


@pytest.fixture
def attached(tmp_path: Path) -> tuple[Alignment, RequestBatch]:
    """A module with its models built, and a batch."""
    module, requests = alignment(), data()
    trainer = make_trainer(tmp_path, limit_val_batches=2)
    trainer.validate(module, requests, verbose=False)
    module.eval()
    return module, next(iter(requests.val_dataloader()))


def walk(module: Alignment, prompt: Tensor, leaf: Tensor) -> Iterator[tuple[Tensor, Tensor, int]]:
    """The prompt repeated for one sequence: both models' log-probabilities of the children at each of its prefixes,
    float64 ``[C]``, and the child it goes on with."""
    trie: ItemTrie = module.trie
    path = trie.path(leaf).flip(-1)
    tokens = torch.cat([prompt, trie.token[path]])[None]
    draft, target = (model(tokens).logits[0, len(prompt) - 1 : -1].double() for model in (module.model, module.target))
    for level, node in enumerate([0, *path[:-1].tolist()]):
        first, count = int(trie.first_child[node]), int(trie.num_children[node])
        legal = trie.token[first : first + count]
        log_q, log_p = (logits[level, legal].log_softmax(-1) for logits in (draft, target))
        yield log_q, log_p, int(path[level]) - first


def at_speed_s(log_q: Tensor, log_p: Tensor, next_child: int) -> Tensor:
    """AtSpeed-S with the remainder as one more outcome, written anew."""
    q, p = log_q.exp(), log_p.exp()
    order = q.argsort(descending=True)
    top, others = order[:NUM_BEAMS], order[NUM_BEAMS:]
    divergence = (q[top] * (log_q[top] - log_p[top])).sum()
    if len(others):
        divergence += q[others].sum() * (q[others].sum() / p[others].sum()).log()
    kth = p.sort(descending=True).values[NUM_BEAMS - 1] if len(p) >= NUM_BEAMS else 0.0
    return divergence - kth * (q[top] * log_q[top]).sum()


def cross_entropy(log_q: Tensor, log_p: Tensor, next_child: int) -> Tensor:
    return -log_q[next_child]


def sequences(module: Alignment, batch: RequestBatch) -> tuple[Tensor, Tensor]:
    """All sources' leaves, and the share of each sequence, from the decoder's plain beam search."""
    trie = module.trie
    beams, own = (
        SpeculativeDecoder(model, trie, NoDrafter())(batch.prompts, batch.prompt_mask, NUM_BEAMS).leaves
        for model in (module.target, module.model)
    )
    shares = module.sources
    total = shares.target + shares.draft + shares.truth
    each = torch.tensor([shares.target / NUM_BEAMS] * NUM_BEAMS + [shares.draft / NUM_BEAMS] * NUM_BEAMS)
    each = torch.cat([each, torch.tensor([shares.truth])]) / total
    return torch.cat([beams, own, trie.leaves(batch.truth[:, :1])], dim=1), each.expand(len(beams), -1)


@torch.no_grad()
@pytest.mark.parametrize(
    "sources",
    [
        SequenceShares(),
        SequenceShares(target=0, truth=2),
        SequenceShares(target=0, draft=1),
        SequenceShares(target=2, draft=1, truth=1),
    ],
    ids=str,
)
@pytest.mark.parametrize(("loss", "oracle"), [(AtSpeedS(NUM_BEAMS), at_speed_s), (SequenceKD(), cross_entropy)])
def test_losses_equal_repeating_the_prompt_for_every_sequence(
    attached: tuple[Alignment, RequestBatch], sources: SequenceShares, loss: AlignmentLoss, oracle: object
) -> None:
    """The packed tree gives what one plain forward pass a sequence gives, prefix by prefix, in float64."""
    module, batch = attached
    module.sources, module.loss = sources, loss
    trie: ItemTrie = module.trie
    leaves, shares = sequences(module, batch)
    expected, rec_losses = [], []
    for row in range(len(batch.users)):
        prompt = batch.prompts[row][batch.prompt_mask[row]]
        total = torch.zeros(1, dtype=torch.float64)
        for leaf, share in zip(leaves[row], shares[row], strict=True):
            if share > 0:
                total += share * sum(oracle(*step) for step in walk(module, prompt, leaf)) / trie.num_levels  # type: ignore[operator]
        expected.append(total)
        truth = trie.token[trie.path(trie.leaves(batch.truth[row, 0])).flip(-1)]
        logits = module.model(torch.cat([prompt, truth])[None]).logits[0, len(prompt) - 1 : -1].double()
        rec_losses.append(-logits.log_softmax(-1).gather(1, truth[:, None]).mean())
    rec_loss, align_loss = module.losses(batch)
    torch.testing.assert_close(align_loss.double(), torch.cat(expected).mean(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(rec_loss.double(), torch.stack(rec_losses).mean(), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_coverage_weighs_each_prefix_of_the_beams_by_the_targets_probability(
    attached: tuple[Alignment, RequestBatch],
) -> None:
    module, batch = attached
    module.loss = Coverage(NUM_BEAMS, NUM_BEAMS, margin=0.0)
    leaves, shares = sequences(module, batch)
    expected = []
    for row in range(len(batch.users)):
        prompt = batch.prompts[row][batch.prompt_mask[row]]
        total, seen = torch.zeros(1, dtype=torch.float64), set()
        for leaf in leaves[row][shares[row] > 0]:
            prefix, log_probability = (), 0.0
            for log_q, log_p, next_child in walk(module, prompt, leaf):
                if prefix not in seen:  # each prefix once
                    total += torch.tensor(log_probability).exp() * (log_p.exp() * (log_p - log_q)).sum()
                seen.add(prefix)
                prefix, log_probability = (*prefix, next_child), log_probability + float(log_p[next_child])
        expected.append(total)
    torch.testing.assert_close(module.losses(batch)[1].double(), torch.cat(expected).mean(), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_scores_of_a_prefix_are_the_sums_of_its_codes(attached: tuple[Alignment, RequestBatch]) -> None:
    """With a margin, Coverage sees cumulative scores: recomputed here from the sequences."""
    module, batch = attached
    seen = []

    class Spy(SequenceKD):
        def forward(self, prefixes):  # type: ignore[no-untyped-def]
            seen.append(prefixes)
            return super().forward(prefixes)

    module.loss = Spy()
    module.losses(batch)
    leaves, _ = sequences(module, batch)
    assert [prefixes.level for prefixes in seen] == list(range(module.trie.num_levels))
    for row in range(len(batch.users)):
        prompt = batch.prompts[row][batch.prompt_mask[row]]
        for level, prefixes in enumerate(seen):
            expected = set()
            for leaf in leaves[row][:NUM_BEAMS]:
                steps = list(walk(module, prompt, leaf))[:level]
                expected.add(tuple(round(float(sum(step[which][step[2]] for step in steps)), 3) for which in (0, 1)))
            scores = zip(prefixes.draft_scores[row].tolist(), prefixes.target_scores[row].tolist(), strict=True)
            shares = prefixes.shares[row].tolist()
            found = {(round(q, 3), round(p, 3)) for (q, p), share in zip(scores, shares, strict=True) if share > 0}
            assert len(found) == len(expected)
            for ours, theirs in zip(sorted(found), sorted(expected), strict=True):
                assert ours == pytest.approx(theirs, abs=2e-3)
            assert sum(shares) == pytest.approx(1, abs=1e-6)


@torch.no_grad()
def test_a_loss_that_needs_no_leaves_gets_none_and_the_draft_does_not_score_them(
    attached: tuple[Alignment, RequestBatch],
) -> None:
    module, batch = attached
    lengths = []
    module.model.register_forward_hook(
        lambda model, args, kwargs, output: lengths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    levels = []
    for compares_leaves in (True, False):
        loss = SequenceKD()
        loss.compares_leaves = compares_leaves
        loss.register_forward_hook(lambda loss, args, output: levels.append(args[0].level))
        module.loss = loss
        module.losses(batch)
    assert levels == [0, 1, 2, 3, 0, 1, 2]
    assert lengths[1] < lengths[0]


def test_the_draft_is_trained_without_dropout(tmp_path: Path) -> None:
    """Its own and LoRA's: two passes in training mode agree."""
    network = NewModel("llama", {**TINY, "attention_dropout": 0.5}, 2)
    module = alignment()
    module.draft_source = LoRA(network, rank=2, dropout=0.5)
    make_trainer(tmp_path, limit_val_batches=2).validate(module, data(), verbose=False)
    module.train()
    batch = next(iter(module.data.val_dataloader()))
    with torch.no_grad():
        for adapter in (part for name, part in module.model.named_parameters() if "lora_B" in name):
            torch.nn.init.normal_(adapter)  # starts at zero, where dropout would not be seen
        first, second = module.losses(batch), module.losses(batch)
    assert module.model.training
    assert first[0].equal(second[0])
    assert first[1].equal(second[1])


def test_the_target_stays_in_evaluation_mode(attached: tuple[Alignment, RequestBatch]) -> None:
    module, _ = attached
    module.train()
    assert module.model.training
    assert not any(part.training for part in module.target.modules())


@pytest.mark.parametrize(
    ("sources", "draft_calls", "target_calls"),
    [
        # the target: one call a level; the draft: prompt, beams and the true item at once
        (SequenceShares(), 1, 4),
        (SequenceShares(target=1, truth=1), 1, 5),
        (SequenceShares(target=0, draft=1), 5, 5),  # its own search before
        (SequenceShares(target=1, draft=1, truth=1), 5, 5),
    ],
    ids=str,
)
def test_only_the_draft_gets_gradients_and_each_model_is_called_as_little_as_possible(
    attached: tuple[Alignment, RequestBatch], sources: SequenceShares, draft_calls: int, target_calls: int
) -> None:
    module, batch = attached
    module.sources = sources
    module.train()
    calls = {"draft": 0, "target": 0}
    for name, model in (("draft", module.model), ("target", module.target)):
        model.register_forward_hook(lambda *_, name=name: calls.__setitem__(name, calls[name] + 1))
    rec_loss, align_loss = module.losses(batch)
    (rec_loss + align_loss).backward()
    assert calls == {"draft": draft_calls, "target": target_calls}
    assert all(parameter.grad is not None for parameter in module.model.parameters())
    assert all(parameter.grad is None for parameter in module.target.parameters())
    assert module.model.training, "the draft's own search is done in evaluation mode"


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_alpha_weighs_the_two_losses(attached: tuple[Alignment, RequestBatch], alpha: float) -> None:
    module, batch = attached
    module.alpha = alpha
    module.log_dict = lambda *_, **__: None  # type: ignore[method-assign, assignment]
    rec_loss, align_loss = module.losses(batch)
    torch.testing.assert_close(module.training_step(batch, 0), align_loss if alpha else rec_loss)


@pytest.mark.parametrize(
    ("loss", "settings"),
    [
        (AtSpeedS(NUM_BEAMS), {}),
        (SequenceKD(), {"sources": SequenceShares(1, 1, 1)}),
        (Coverage(NUM_BEAMS, 10), {"precision": "bf16-mixed"}),
    ],
    ids=["AtSpeedS", "SequenceKD, all sources", "Coverage, bf16"],
)
def test_alignment_brings_the_draft_nearer_and_leaves_the_target_alone(
    tmp_path: Path, loss: AlignmentLoss, settings: dict
) -> None:
    class Modes(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Alignment, *_: object) -> None:  # type: ignore[override]
            assert pl_module.model.training
            assert not pl_module.target.training

    precision = settings.pop("precision", "32-true")
    module, requests = alignment(loss, alpha=1.0, **settings), data(60)
    checkpoint = pl.callbacks.ModelCheckpoint(tmp_path, save_last=True)
    trainer = make_trainer(tmp_path, limit_val_batches=2, precision=precision)
    trainer.validate(module, requests, verbose=False)
    before, frozen = trainer.callback_metrics["val/align_loss"].clone(), module.target.lm_head.weight.clone()
    assert before.dtype == torch.float32
    callbacks = [Modes(), checkpoint, HuggingFaceExport()]
    trainer = fit(module, requests, tmp_path, max_epochs=3, callbacks=callbacks, precision=precision)
    assert trainer.callback_metrics["val/align_loss"] < 0.95 * before
    assert module.target.lm_head.weight.equal(frozen)
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    assert state
    assert all(name.startswith("model.") for name in state)


@torch.no_grad()
def test_a_target_in_bfloat16_gives_nearly_the_same_losses_in_float32(
    attached: tuple[Alignment, RequestBatch], tmp_path: Path
) -> None:
    module, batch = attached
    halved = alignment(target_dtype="bfloat16")
    make_trainer(tmp_path, limit_val_batches=2).validate(halved, data(), verbose=False)
    halved.eval()
    assert {weight.dtype for weight in halved.target.parameters()} == {torch.bfloat16}
    assert {weight.dtype for weight in halved.model.parameters()} == {torch.float32}
    assert halved.target.model.rotary_emb.inv_freq.dtype == torch.float32
    for ours, expected in zip(halved.losses(batch), module.losses(batch), strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, expected, atol=5e-3, rtol=0)
    assert not halved.losses(batch)[1].equal(module.losses(batch)[1])


def test_a_cache_of_the_target_in_another_dtype_is_refused(tmp_path: Path) -> None:
    halved = alignment(target_dtype="bfloat16", target_cache=Path("cache"))
    caching = TargetCaching(halved, data())
    make_trainer(tmp_path).predict(caching)
    assert {weight.dtype for weight in caching.target.parameters()} == {torch.bfloat16}
    settings = {"max_epochs": 1, "limit_train_batches": 2, "limit_val_batches": 2}
    fit(alignment(target_dtype="bfloat16", target_cache=Path("cache")), data(), tmp_path, **settings)
    with pytest.raises(ValueError, match=r"is stale, model\.target_dtype changed"):
        fit(alignment(target_cache=Path("cache")), data(), tmp_path, **settings)


MPT = NewModel("mpt", {"d_model": 32, "n_heads": 2, "n_layers": 1, "max_seq_len": 128})
"""Numbers positions by cache slot (ALiBi), so that a tree mask gives other scores than plain rows."""


@pytest.mark.parametrize("role", ["target", "draft"])
def test_a_model_that_does_not_take_a_tree_mask_is_refused_before_training(tmp_path: Path, role: str) -> None:
    models = {"target": NewModel("llama", TINY, 1), "draft": NewModel("llama", TINY, 2), role: MPT}
    module = Alignment("strict", models["target"], models["draft"], AtSpeedS(NUM_BEAMS), num_beams=NUM_BEAMS)
    with pytest.raises(ValueError, match="MptForCausalLM cannot be used here"):
        fit(module, data(), tmp_path)
    assert module.trainer.global_step == 0


def test_with_a_cache_it_is_the_caching_that_refuses_the_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def module() -> Alignment:
        settings = {"num_beams": NUM_BEAMS, "target_cache": Path("cache")}
        return Alignment("strict", MPT, NewModel("llama", TINY, 2), AtSpeedS(NUM_BEAMS), **settings)  # type: ignore[arg-type]

    with pytest.raises(ValueError, match="MptForCausalLM cannot be used here"):
        make_trainer(tmp_path).predict(TargetCaching(module(), data()))
    with monkeypatch.context() as patch:
        patch.setattr(target_caching, "check_tree_attention", lambda *_: None)
        make_trainer(tmp_path).predict(TargetCaching(module(), data()))
    fit(module(), data(), tmp_path, limit_train_batches=2, limit_val_batches=0)  # the target is not there


@pytest.mark.parametrize(("name", "value"), [("alpha", 1.5), ("num_beams", 0)])
def test_settings_out_of_range_are_named(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"model\.{name} is {value}"):
        alignment(**{name: value})


@pytest.mark.parametrize("shares", [(0, 0, 0), (1, -1, 0)])
def test_shares_out_of_range_are_named(shares: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match=r"model\.sources has the shares \(.*; expected 0 or more, and not all 0"):
        SequenceShares(*shares)


def test_the_drafts_own_sequences_are_refused_with_a_cache() -> None:
    with pytest.raises(ValueError, match=r"model\.sources\.draft is 0\.5: .* model\.target_cache \(cache\) cannot"):
        alignment(sources=SequenceShares(draft=0.5), target_cache=Path("cache"))
