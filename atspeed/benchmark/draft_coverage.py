"""How often a draft's best prefixes contain all of the target's beams."""

from collections import Counter
from collections.abc import Iterable

import torch
from torch import Tensor
from transformers import PreTrainedModel

from atspeed.benchmark.rows import CoverageRow
from atspeed.data import RequestBatch
from atspeed.decoding import ItemTrie, PrefixScorer
from atspeed.decoding.beams import beams_by_depth
from atspeed.decoding.indexing import index_of


@torch.inference_mode()
def measure_coverage(
    target: PreTrainedModel,
    draft: PreTrainedModel,
    trie: ItemTrie,
    draft_tokens: Tensor | None,
    batches: Iterable[RequestBatch],
    num_beams: tuple[int, ...],
    draft_beams: tuple[int, ...],
) -> list[CoverageRow]:
    """Return coverage(K, N) at each level: the share of requests whose K target beams all lie in the draft's best N.

    The draft's best prefixes at a level are those of its own beam search with the largest N. Level 0 has the prefixes
    of one code; the last level is left out, because leaves need no drafting.

    Args:
        target: the model whose beams count.
        draft: the model that would propose.
        trie: the catalog.
        draft_tokens: the draft's token id of each code; None: the target's.
        batches: requests.
        num_beams: the target's beam widths K.
        draft_beams: the draft's widths N.
    """
    draft_trie = trie.for_draft(draft_tokens)
    covered: Counter[tuple[int, int, int]] = Counter()
    count = 0
    for batch in batches:
        count += len(batch.users)
        target_scorer = PrefixScorer(target, trie, batch.prompts, batch.prompt_mask)
        draft_scorer = PrefixScorer(  # as the decoder has it
            draft, draft_trie, batch.draft_prompts, batch.draft_prompt_mask, "allowed"
        )
        drafted = beams_by_depth(draft_scorer, max(draft_beams))[1:]
        for width in num_beams:
            for level, (beams, best) in enumerate(zip(beams_by_depth(target_scorer, width)[1:], drafted, strict=True)):
                rank = _rank(beams.nodes, best.nodes).masked_fill(~beams.mask, 0).amax(1)  # of the worst beam, [B]
                for size in draft_beams:
                    covered[level, width, size] += int((rank < size).sum())
    return [
        CoverageRow(level, width, size, covered[level, width, size] / count)
        for level in range(trie.num_levels - 1)
        for width in num_beams
        for size in draft_beams
    ]


def _rank(nodes: Tensor, ranked: Tensor) -> Tensor:
    """Return the rank, from 0, of each node ``[B, K]`` in ``ranked`` ``[B, N]``; N where it is missing."""
    rank, found = index_of(nodes, ranked)
    return torch.where(found, rank, ranked.shape[1])
