import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from atspeed.benchmark import HFGenerate
from atspeed.callbacks import PredictionWriter, SpeedupMonitor
from atspeed.data import Dataset, EmbeddedCatalog, ItemSequences, RecommendationData
from atspeed.decoding import BoundedTopK, ModelDrafter, SpeculativeDecoder, StrictTopK, TrieDrafter
from atspeed.metrics import recall_at_k
from atspeed.models import NewModel
from atspeed.modules import Inference
from atspeed.recommender.baselines import TransitionCounts, recommend_popular
from tests.modules.tiny import TINY, make_trainer


def recommender(**settings: object) -> Inference:
    arguments = {"drafter": TrieDrafter(), "verifier": StrictTopK(), "num_beams": 10, "metrics_at": [5, 10], **settings}
    return Inference("recommend", NewModel("llama", TINY), **arguments)  # type: ignore[arg-type]


def data() -> RecommendationData:
    return RecommendationData(EmbeddedCatalog(num_users=20, num_items=140), batch_size=6)


def share_semantic_ids(requests: RecommendationData) -> None:
    """Let neighbours share a semantic ID, in the catalog and in the prompts."""
    requests.setup()
    requests.catalog.codes[::2] = requests.catalog.codes[1::2]
    requests.encoder = requests.draft_encoder = requests.prompt.encoder(requests.catalog, requests.max_history)


def test_metrics_are_those_of_generate_and_baselines_stand_beside(tmp_path: Path) -> None:
    module, requests = recommender(), data()
    trainer = make_trainer(tmp_path, callbacks=[SpeedupMonitor(2)])
    (values,) = trainer.test(module, requests, verbose=False)
    sids = requests.encoder.spelling.sids
    items_of: dict[tuple[int, ...], list[int]] = {}
    for item, codes in enumerate(sids.tolist()):
        items_of.setdefault(tuple(codes), []).append(item)
    recalls, popular, followers = [], [], []
    train = requests.dataset.train
    transitions = TransitionCounts(train.offsets, train.values, requests.catalog.num_items)
    top = recommend_popular(train.values, requests.catalog.num_items, 10)
    generate = HFGenerate(module.target, sids)
    for request in requests.test_requests():
        prompt = requests.encoder.encode(request.history)[None]
        answers, _ = generate(prompt, torch.ones_like(prompt, dtype=torch.bool), 10)
        items = [item for codes in answers[0].tolist() for item in items_of[tuple(codes)]]
        truth = torch.tensor([request.truth])
        recalls.append(recall_at_k(torch.tensor([items]), truth, 5))
        popular.append(recall_at_k(top[None], truth, 10))
        followers.append(recall_at_k(transitions.recommend(request.history, 10)[None], truth, 10))
    for name, expected in (
        ("recall@5", recalls),
        ("popularity_recall@10", popular),
        ("transitions_recall@10", followers),
    ):
        assert values[f"test/{name}"] == pytest.approx(float(torch.stack(expected).mean()), abs=1e-6)
    assert values["test/target_calls"] <= 2
    assert values["test/accepted_levels"] >= 1
    assert values["test/acceptance_rate"] == values["test/acceptance_rate_level_2"] == 1
    assert 0 < values["test/catalog_coverage@10"] <= 1
    assert values["test/mrr@10"] <= values["test/hit_rate@10"]
    assert values["test/recall@10"] <= values["test/hit_rate@10"]
    assert values["test/draft_calls"] == 0
    assert values["test/speedup"] > 0
    assert "test/exact_share" not in values


def test_bounded_verification_says_how_much_of_the_answers_is_certain(tmp_path: Path) -> None:
    verifier, drafter = BoundedTopK(0.1), ModelDrafter(20, 3)
    module, requests = recommender(verifier=verifier, drafter=drafter, draft=NewModel("llama", TINY)), data()
    (values,) = make_trainer(tmp_path).test(module, requests, verbose=False)
    decoder = SpeculativeDecoder(module.target, module.trie, drafter, verifier, module.draft)
    shares = []
    for request in requests.test_requests():
        prompt = requests.encoder.encode(request.history)[None]
        decoded = decoder(prompt, torch.ones_like(prompt, dtype=torch.bool), 10)
        shares.append(float((decoded.scores > decoded.loss_bound[:, None]).sum()) / 10)
    assert len(set(shares)) > 1, "the case must lose something in some requests and nothing in others"
    assert values["test/exact_share"] == pytest.approx(sum(shares) / len(shares))


def test_predictions_name_users_items_and_semantic_ids_in_order(tmp_path: Path) -> None:
    module, requests = recommender(draft=NewModel("llama", TINY, 1), drafter=ModelDrafter(20, 3)), data()
    trainer = make_trainer(tmp_path, callbacks=[PredictionWriter()])
    for _ in range(2):  # a second run replaces the first
        trainer.predict(module, requests, return_predictions=False)
    lines = (tmp_path / "recommend" / "predictions.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [record["user"] for record in records] == requests.dataset.users
    catalog = requests.catalog
    for record in records:
        assert len(record["recommended"]) == 10
        assert record["target_calls"] >= 1
        scores = [answer["score"] for answer in record["recommended"]]
        assert scores == sorted(scores, reverse=True)
        for answer in record["recommended"]:
            sharing = [name for item, name in enumerate(catalog.names) if list(catalog.sid(item)) == answer["sid"]]
            assert answer["items"] == sharing


def test_seen_items_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = EmbeddedCatalog.load

    def load_with_collisions(source: EmbeddedCatalog) -> Dataset:
        dataset = load(source)
        dataset.catalog.codes[::2] = dataset.catalog.codes[1::2]  # neighbours share a semantic ID
        return dataset

    monkeypatch.setattr(EmbeddedCatalog, "load", load_with_collisions)
    requests = data()
    catalog = requests.source.load().catalog
    seen_somewhere = beside_seen = 0
    for exclude_seen in (False, True):
        module = recommender(exclude_seen=exclude_seen, num_beams=40)
        make_trainer(tmp_path, callbacks=[PredictionWriter()]).predict(module, data(), return_predictions=False)
        records = [json.loads(line) for line in (tmp_path / "recommend" / "predictions.jsonl").read_text().splitlines()]
        requests.setup()
        for user, record in enumerate(records):
            seen = {catalog.names[item] for item in requests.predict_histories.items[user]}
            shown = {item for answer in record["recommended"] for item in answer["items"]}
            if exclude_seen:
                assert all(answer["items"] for answer in record["recommended"])
                assert not shown & seen
                assert len(record["recommended"]) == 40
                beside_seen += any(len(answer["items"]) == 1 for answer in record["recommended"])
            seen_somewhere += bool(shown & seen)
    assert seen_somewhere
    assert beside_seen, "the case must have an item whose semantic ID is also that of a seen one"


def test_metrics_do_not_see_what_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = data()
    share_semantic_ids(requests)
    module = recommender(exclude_seen=True, num_beams=40)
    shown: list[torch.Tensor] = []
    update = module.ranking.update
    monkeypatch.setattr(module.ranking, "update", lambda items, truth: (shown.extend(items), update(items, truth)))
    make_trainer(tmp_path).test(module, requests, verbose=False)
    histories = [set(request.history) for request in requests.test_requests()]
    assert len(shown) == len(histories)
    for items, history in zip(shown, histories, strict=True):
        assert not set(items.tolist()) & history


def test_where_items_share_a_semantic_id_both_are_measured(tmp_path: Path) -> None:
    (values,) = make_trainer(tmp_path).test(recommender(), data(), verbose=False)
    assert not [name for name in values if "sid" in name], "here no items share one, so both would be the same"
    module, requests = recommender(), data()
    share_semantic_ids(requests)
    sids = requests.encoder.spelling.sids
    (values,) = make_trainer(tmp_path).test(module, requests, verbose=False)
    generate = HFGenerate(module.target, sids)
    recalls: dict[str, list[float]] = {"recall@5": [], "sid_recall@5": []}
    for request in requests.test_requests():
        prompt = requests.encoder.encode(request.history)[None]
        answers, _ = generate(prompt, torch.ones_like(prompt, dtype=torch.bool), 10)
        found = [tuple(codes) for codes in answers[0].tolist()]
        items = [item for codes in found for item, own in enumerate(sids.tolist()) if tuple(own) == codes]
        true_sids = {tuple(sids[item].tolist()) for item in request.truth}
        recalls["recall@5"].append(len(set(items[:5]) & set(request.truth)) / len(request.truth))
        recalls["sid_recall@5"].append(len(set(found[:5]) & true_sids) / len(true_sids))
    for name, expected in recalls.items():
        assert values[f"test/{name}"] == pytest.approx(sum(expected) / len(expected), abs=1e-6)
    assert values["test/sid_recall@5"] > values["test/recall@5"]


def test_a_user_who_has_seen_everything_gets_an_empty_list(tmp_path: Path) -> None:
    requests = data()
    requests.setup()
    train = requests.dataset.train.tolist()
    train[3] = list(range(requests.catalog.num_items))
    requests.dataset = replace(requests.dataset, train=ItemSequences.from_lists(train))
    trainer = make_trainer(tmp_path, callbacks=[PredictionWriter()])
    trainer.predict(recommender(exclude_seen=True), requests, return_predictions=False)
    records = [json.loads(line) for line in (tmp_path / "recommend" / "predictions.jsonl").read_text().splitlines()]
    assert [len(record["recommended"]) for record in records] == [10, 10, 10, 0, *[10] * (len(records) - 4)]


def test_a_missing_draft_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="ModelDrafter needs a draft model"):
        make_trainer(tmp_path).test(recommender(drafter=ModelDrafter()), data(), verbose=False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_beams": 0}, r"model\.num_beams is 0; expected 1 or more"),
        ({"metrics_at": [20]}, r"model\.metrics_at is \[20\]; expected values up to model.num_beams 10"),
    ],
)
def test_settings_out_of_range_are_named(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recommender(**settings)
