from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch

from atspeed.data import EmbeddedCatalog, RecommendationData
from atspeed.data.batches import RequestBatch
from atspeed.decoding import ItemTrie, NoDrafter, SpeculativeDecoder
from atspeed.losses import AtSpeedS
from atspeed.losses.strict import top_k_density, top_k_reverse_kl
from atspeed.models import NewModel
from atspeed.modules import Alignment, TargetCaching
from callbacks import HuggingFaceExport
from tests.modules.tiny import TINY, fit, make_trainer


def alignment(**settings: object) -> Alignment:
    arguments = {"alpha": 0.5, "num_beams": 4, "learning_rate": 1e-2, "warmup_steps": 2, **settings}
    return Alignment("strict", NewModel("llama", TINY, 1), NewModel("llama", TINY, 2), AtSpeedS(4), **arguments)  # type: ignore[arg-type]


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


@torch.no_grad()
def test_losses_equal_repeating_the_prompt_for_every_sequence(attached: tuple[Alignment, RequestBatch]) -> None:
    """The packed tree gives what one plain forward pass a sequence gives, prefix by prefix, in float64."""
    module, batch = attached
    trie: ItemTrie = module.trie
    beams = SpeculativeDecoder(module.target, trie, NoDrafter())(batch.prompts, batch.prompt_mask, 4).leaves
    divergences, rec_losses = [], []
    for row in range(len(batch.users)):
        prompt = batch.prompts[row][batch.prompt_mask[row]]
        for leaf in beams[row]:
            path = trie.path(leaf).flip(-1)
            tokens = torch.cat([prompt, trie.token[path]])[None]
            draft, target = (
                model(tokens).logits[0, len(prompt) - 1 : -1].double() for model in (module.model, module.target)
            )
            for level, node in enumerate([0, *path[:-1].tolist()]):
                children = range(int(trie.first_child[node]), int(trie.first_child[node] + trie.num_children[node]))
                legal = trie.token[list(children)]
                draft_log_probs, target_log_probs = (
                    logits[level, legal].log_softmax(-1)[None] for logits in (draft, target)
                )
                divergences.append(
                    top_k_reverse_kl(draft_log_probs, target_log_probs, 4)
                    + top_k_density(draft_log_probs, target_log_probs, 4)
                )
        truth = trie.token[trie.path(trie.leaves(batch.truth[row, 0])).flip(-1)]
        logits = module.model(torch.cat([prompt, truth])[None]).logits[0, len(prompt) - 1 : -1].double()
        rec_losses.append(-logits.log_softmax(-1).gather(1, truth[:, None]).mean())
    rec_loss, align_loss = module.losses(batch)
    torch.testing.assert_close(align_loss.double(), torch.cat(divergences).mean(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(rec_loss.double(), torch.stack(rec_losses).mean(), atol=1e-5, rtol=1e-4)


def test_the_target_stays_in_evaluation_mode(attached: tuple[Alignment, RequestBatch]) -> None:
    module, _ = attached
    module.train()
    assert module.model.training
    assert not any(part.training for part in module.target.modules())


def test_only_the_draft_gets_gradients_and_each_model_is_called_as_little_as_possible(
    attached: tuple[Alignment, RequestBatch],
) -> None:
    module, batch = attached
    calls = {"draft": 0, "target": 0}
    for name, model in (("draft", module.model), ("target", module.target)):
        model.register_forward_hook(lambda *_, name=name: calls.__setitem__(name, calls[name] + 1))
    rec_loss, align_loss = module.losses(batch)
    (rec_loss + align_loss).backward()
    assert calls["draft"] == 1, "prompt, the target's beams and the true item go through the draft at once"
    assert calls["target"] <= 2, "the target's scores are those of its own search"
    assert all(parameter.grad is not None for parameter in module.model.parameters())
    assert all(parameter.grad is None for parameter in module.target.parameters())


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_alpha_weighs_the_two_losses(attached: tuple[Alignment, RequestBatch], alpha: float) -> None:
    module, batch = attached
    module.alpha = alpha
    module.log_dict = lambda *_, **__: None  # type: ignore[method-assign, assignment]
    rec_loss, align_loss = module.losses(batch)
    torch.testing.assert_close(module.training_step(batch, 0), align_loss if alpha else rec_loss)


@pytest.mark.slow
def test_alignment_brings_the_draft_nearer_and_leaves_the_target_alone(tmp_path: Path) -> None:
    class Modes(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Alignment, *_: object) -> None:  # type: ignore[override]
            assert pl_module.model.training
            assert not pl_module.target.training

    module, requests = alignment(alpha=1.0), data(60)
    checkpoint = pl.callbacks.ModelCheckpoint(tmp_path, save_last=True)
    trainer = make_trainer(tmp_path, limit_val_batches=2)
    trainer.validate(module, requests, verbose=False)
    before, frozen = trainer.callback_metrics["val/align_loss"].clone(), module.target.lm_head.weight.clone()
    trainer = fit(module, requests, tmp_path, max_epochs=5, callbacks=[Modes(), checkpoint, HuggingFaceExport()])
    assert trainer.callback_metrics["val/align_loss"] < 0.9 * before
    assert module.target.lm_head.weight.equal(frozen)
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    assert state
    assert all(name.startswith("model.") for name in state)
    fit(alignment(), data(60), tmp_path, max_epochs=6, ckpt_path=str(tmp_path / "last.ckpt"))


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
    with pytest.raises(ValueError, match="is stale, target_dtype changed"):
        fit(alignment(target_cache=Path("cache")), data(), tmp_path, **settings)


@pytest.mark.parametrize(("name", "value"), [("alpha", 1.5), ("num_beams", 0)])
def test_settings_out_of_range_are_named(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"model\.{name} is {value}"):
        alignment(**{name: value})
