"""How often a draft's best prefixes hold all of the target's beams."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from atspeed.data import RequestBatch
from atspeed.decoding import Beams, ItemTrie, PrefixScorer, next_beams


@torch.inference_mode()
def measure_coverage(
    target: PreTrainedModel,
    draft: PreTrainedModel,
    trie: ItemTrie,
    batches: Iterable[RequestBatch],
    num_beams: tuple[int, ...],
    draft_beams: tuple[int, ...],
) -> list[dict[str, Any]]:
    """Return coverage(K, N) of each level: the share of requests whose K target beams all lie in the draft's best N.

    The draft's best prefixes of a level are those of its own beam search with the largest N. The last level is left
    out, because leaves need no drafting. A level counts the codes of a prefix: level 2 are the prefixes of two codes.

    Args:
        target: the model whose beams count.
        draft: the model that would propose.
        trie: the catalog.
        batches: requests.
        num_beams: the target's beam widths K.
        draft_beams: the draft's widths N.

    Returns:
        rows ``{"level", "num_beams", "draft_beams", "coverage"}``.
    """
    covered: Counter[tuple[int, int, int]] = Counter()
    count = 0
    for batch in batches:
        count += len(batch.users)
        target_scorer = PrefixScorer(target, trie, batch.prompts, batch.prompt_mask)
        draft_scorer = PrefixScorer(draft, trie, batch.prompts, batch.prompt_mask, "allowed")  # as the decoder has it
        drafted = _beams_by_level(draft_scorer, max(draft_beams))
        for width in num_beams:
            for level, (beams, best) in enumerate(zip(_beams_by_level(target_scorer, width), drafted, strict=True), 1):
                rank = _rank(beams.nodes, best.nodes).masked_fill(~beams.mask, 0).amax(1)  # of the worst beam, [B]
                for size in draft_beams:
                    covered[level, width, size] += int((rank < size).sum())
    return [
        {"level": level, "num_beams": width, "draft_beams": size, "coverage": covered[level, width, size] / count}
        for level in range(1, trie.num_levels)
        for width in num_beams
        for size in draft_beams
    ]


def _beams_by_level(scorer: PrefixScorer, width: int) -> list[Beams]:
    """Return the beams of plain beam search at each level but the last."""
    levels = [Beams.at_root(len(scorer.prompts), width, scorer.prompts.device)]
    for _ in range(scorer.trie.num_levels - 1):
        scorer.score(levels[-1].nodes)
        levels.append(next_beams(scorer, levels[-1]))
    return levels[1:]


def _rank(nodes: Tensor, ranked: Tensor) -> Tensor:
    """Return the place of each node ``[B, K]`` in ``ranked`` ``[B, N]``; N where it is missing."""
    found, place = (nodes[..., None] == ranked[:, None]).max(2)
    return torch.where(found, place, ranked.shape[1])
