"""Measures what packing a user's sequences as a trie saves against repeating the prompt for each of them.

Both ways compute the same alignment loss on the same K sequences, one forward pass of the target and one forward and
backward pass of the draft. Usage: python scripts/packing.py RUN_FOLDER [DATA_ROOT]
"""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from atspeed.alignment.sequences import pack, search_beams
from atspeed.data import AtSpeedLayout, RecommendationData, RequestBatch
from atspeed.data.batches import collate_requests
from atspeed.decoding import ItemTrie, PrefixScorer
from atspeed.losses.distillation import forward_kl
from atspeed.models import Exported
from atspeed.recommender import response_trie

NUM_BEAMS = 20
NUM_USERS = 16
REPEATS = 15


def packed_loss(models: tuple, trie: ItemTrie, batch: RequestBatch, beams: Tensor) -> Tensor:
    """Mean forward KL over the prefixes of the beams, each prefix through each model once."""
    levels = pack(trie, beams, torch.full(beams.shape, 1 / NUM_BEAMS))
    scorers = []
    for model, gradient in zip(models, (False, True), strict=True):
        with torch.set_grad_enabled(gradient):
            scorers.append(PrefixScorer(model, trie, batch.prompts, batch.prompt_mask))
            scorers[-1].score(torch.cat([level.nodes for level in levels], dim=1))
    loss = torch.zeros(())
    for level in levels:
        target, draft = (scorer.children(level.nodes)[1].log_softmax(-1) for scorer in scorers)
        loss = loss + (level.shares * forward_kl(draft, target)).sum(1).mean() / trie.num_levels
    return loss


def repeated_loss(models: tuple, trie: ItemTrie, batch: RequestBatch, beams: Tensor) -> Tensor:
    """The same with one row per sequence, which repeats the prompt."""
    path = trie.path(beams).flip(-1).flatten(0, 1)  # [B · K, L]
    tokens = torch.cat([batch.prompts.repeat_interleave(NUM_BEAMS, 0), trie.token[path[:, :-1]]], dim=1)
    mask = torch.cat(
        [batch.prompt_mask.repeat_interleave(NUM_BEAMS, 0), torch.ones_like(path[:, :-1], dtype=torch.bool)], dim=1
    )
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    parents = torch.cat([torch.zeros_like(path[:, :1]), path[:, :-1]], dim=1)  # [B · K, L]
    index = torch.arange(int(trie.num_children[parents].max()))  # of a child among its siblings
    exists = index < trie.num_children[parents][..., None]
    codes = trie.token[(trie.first_child[parents][..., None] + index) * exists]  # [B · K, L, C]
    log_probs = []
    for model, gradient in zip(models, (False, True), strict=True):
        with torch.set_grad_enabled(gradient):
            logits = model(
                input_ids=tokens,
                attention_mask=mask,
                position_ids=positions,
                use_cache=False,
                logits_to_keep=trie.num_levels,
            ).logits
            legal = logits.float().gather(2, codes).masked_fill(~exists, -torch.inf)
            log_probs.append(legal.log_softmax(-1))
    target, draft = log_probs
    return forward_kl(draft, target).mean()


def kept_bytes(run: Callable[[], Tensor]) -> int:
    """Bytes that a forward pass keeps for its backward pass; each storage counts once."""
    storages = {}

    def keep(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()  # alive, so that no address is reused
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run()
    return sum(storage.nbytes() for storage in storages.values())


def main(run_dir: str, root: str = "../AtSpeed-reference/data/beauty") -> None:
    """Print users per second and memory of both ways; medians of interleaved runs."""
    torch.set_num_threads(2)
    data = RecommendationData(AtSpeedLayout(Path(root)), examples="requests")
    data.setup()
    trie = response_trie(data.catalog, data.encoder)
    target, draft = (Exported(stage).build(data.encoder.vocabulary, Path(run_dir)) for stage in ("target", "draft"))
    requests = data.requests("val")[:: len(data.requests("val")) // NUM_USERS][:NUM_USERS]
    batch = collate_requests(requests, data.encoder, data.encoder)
    with torch.no_grad():
        beams = search_beams(PrefixScorer(target, trie, batch.prompts, batch.prompt_mask), NUM_BEAMS)
    losses, seconds, memory = {}, {packed_loss: [], repeated_loss: []}, {}
    for repeat in range(REPEATS + 1):
        for way in seconds:
            start = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16):
                loss = way((target, draft), trie, batch, beams)
            loss.backward()
            if repeat:  # the first warms up
                seconds[way].append(time.perf_counter() - start)
    for way in seconds:
        losses[way] = way((target, draft), trie, batch, beams).item()  # float32
        memory[way] = kept_bytes(lambda way=way: way((target, draft), trie, batch, beams))
        rate = NUM_USERS / statistics.median(seconds[way])
        print(f"{way.__name__}: {rate:.1f} users/s, {memory[way] / 2**20:.0f} MiB kept, loss {losses[way]:.6f}")
    ratios = [slow / fast for fast, slow in zip(seconds[packed_loss], seconds[repeated_loss], strict=True)]
    print(f"packed is {statistics.median(ratios):.1f} times as fast and keeps 1/{_ratio(memory):.1f} of the memory")


def _ratio(memory: dict) -> float:
    return memory[repeated_loss] / memory[packed_loss]


if __name__ == "__main__":
    main(*sys.argv[1:])
