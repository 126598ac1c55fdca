import pytest
import torch

from atspeed.catalog import ItemCatalog
from atspeed.data.batches import collate_requests, collate_sequences
from atspeed.data.examples import RequestExample, SequenceExample
from atspeed.data.samplers import BatchesInTurn, LengthBucketSampler
from atspeed.prompts import CompactPrompt

CATALOG = ItemCatalog({"x": ["a0", "b0"], "y": ["a0", "b1"], "z": ["a1", "b0"]})  # a0=3 a1=4 b0=5 b1=6


def test_prompt_closes_every_item_and_is_cut_to_the_last_ones() -> None:
    prompt = CompactPrompt().encoder(CATALOG, max_items=2)
    assert prompt.encode([]).tolist() == [1]
    assert prompt.encode([0]).tolist() == [1, 3, 5, 2]
    assert prompt.encode([0, 1, 2]).tolist() == [1, 3, 6, 2, 4, 5, 2]


def test_every_code_is_a_label_and_no_special_token_is() -> None:
    tokens, labels = CompactPrompt().encoder(CATALOG, max_items=2).encode_labelled([0, 1, 2])
    assert tokens.tolist() == [1, 3, 5, 2, 3, 6, 2, 4, 5]
    assert labels.tolist() == [-100, 3, 5, -100, 3, 6, -100, 4, 5]
    _, labels = CompactPrompt().encoder(CATALOG, max_items=2).encode_labelled([0, 1, 2], last_only=True)
    assert labels.tolist() == [-100] * 7 + [4, 5]


def test_a_training_sequence_starts_with_the_prompt_of_its_history() -> None:
    prompt = CompactPrompt().encoder(CATALOG, max_items=20)
    tokens, _ = prompt.encode_labelled([2, 0, 1])
    assert tokens[: -CATALOG.num_levels].tolist() == prompt.encode([2, 0]).tolist()


def test_padding_is_on_the_right_for_sequences_and_on_the_left_for_requests() -> None:
    prompt = CompactPrompt().encoder(CATALOG, max_items=20)
    sequences = collate_sequences([SequenceExample(7, [0], False), SequenceExample(3, [0, 1], False)], prompt)
    assert sequences.tokens[0].tolist() == [1, 3, 5, 0, 0, 0]
    assert sequences.token_mask[0].tolist() == [True] * 3 + [False] * 3
    assert sequences.labels[0].tolist() == [-100, 3, 5, -100, -100, -100]
    assert sequences.users.tolist() == [7, 3]
    requests = collate_requests([RequestExample(4, [], [2], 0), RequestExample(1, [0], [1, 2], 1)], prompt, prompt)
    assert requests.users.tolist() == [4, 1]
    assert requests.prompts.tolist() == [[0, 0, 0, 1], [1, 3, 5, 2]]
    assert requests.prompt_mask.tolist() == [[False, False, False, True], [True] * 4]
    assert requests.truth.tolist() == [[2, -1], [1, 2]]


def lengths(count: int = 500) -> torch.Tensor:
    return torch.randint(5, 106, (count,), generator=torch.Generator().manual_seed(0))


def test_batches_hold_each_example_once_with_little_padding() -> None:
    sampler = LengthBucketSampler(lengths(), max_tokens=1000, shuffle=True)
    batches = list(sampler)
    assert len(batches) == len(sampler)
    assert sorted(sum(batches, [])) == list(range(500))
    padded = [len(batch) * int(lengths()[batch].max()) for batch in batches]
    assert max(padded) <= 1000
    assert 1 - int(lengths().sum()) / sum(padded) < 0.1


def test_order_depends_on_seed_and_epoch_only() -> None:
    sampler = LengthBucketSampler(lengths(), 1000, shuffle=True, seed=1)
    first = list(sampler)
    assert first == list(LengthBucketSampler(lengths(), 1000, shuffle=True, seed=1))
    sampler.set_epoch(1)
    assert first != list(sampler)
    assert sorted(map(len, first)) == sorted(map(len, sampler)), "the Trainer counts the batches once"
    assert first != list(LengthBucketSampler(lengths(), 1000, shuffle=True, seed=2))


def test_processes_share_out_the_batches_and_take_equally_many() -> None:
    whole = list(LengthBucketSampler(lengths(), 1000, shuffle=True))
    parts = [list(LengthBucketSampler(lengths(), 1000, True, rank=rank, world_size=3)) for rank in range(3)]
    assert len({len(part) for part in parts}) == 1
    assert sum(map(len, parts)) < len(whole) + 3
    assert {tuple(batch) for part in parts for batch in part} == {tuple(batch) for batch in whole}


def test_an_example_longer_than_the_budget_is_a_batch_alone() -> None:
    assert sorted(map(sorted, LengthBucketSampler([50, 5, 5], 20, shuffle=True))) == [[0], [1, 2]]


@pytest.mark.parametrize("shuffle", [True, False])
def test_one_example_is_one_batch(shuffle: bool) -> None:
    assert list(LengthBucketSampler([7], 100, shuffle)) == [[0]]


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_batches_in_turn_give_each_example_to_one_process(world_size: int) -> None:
    positions = [0, 1, 4, 5, 6, 9, 10, 11, 20, 21, 30]
    samplers = [BatchesInTurn(positions, 3, rank, world_size) for rank in range(world_size)]
    dealt = sorted(batch for sampler in samplers for batch in sampler)
    assert dealt == [[0, 1, 4], [5, 6, 9], [10, 11, 20], [21, 30]], "the same batches, whatever the number of processes"
    assert [len(sampler) for sampler in samplers] == [len(list(sampler)) for sampler in samplers]
    assert max(map(len, samplers)) - min(map(len, samplers)) <= 1
