"""What a caller holds: models, catalog, drafter and verifier, ready to answer batches of requests."""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from atspeed.checks import require_at_least
from atspeed.decoding.drafters.drafter import Drafter
from atspeed.decoding.execution import Eager, Engine, Execution, Requests
from atspeed.decoding.filters import ItemFilter
from atspeed.decoding.forward import Normalize
from atspeed.decoding.probe import ensure_tree_attention
from atspeed.decoding.search import Decoded, seeds_or_random
from atspeed.decoding.trie import ItemTrie
from atspeed.decoding.verifiers.strict_top_k import StrictTopK
from atspeed.decoding.verifiers.verifier import Verifier


class SpeculativeDecoder:
    """Top-K semantic IDs by beam search over a catalog, with as few target calls as the drafter makes possible.

    Args:
        target: the model whose answer counts.
        trie: the catalog.
        drafter: who proposes; ``NoDrafter`` is plain beam search.
        verifier: what is accepted; strict if not given.
        draft: the model of a drafter that needs one.
        normalize: of the target's scores; see :class:`PrefixScorer`. The draft's are over legal codes in any case.
        max_prompt_tokens: tokens of the longest prompt to come; the models are probed at this length before anything
            else happens (:mod:`atspeed.decoding.probe`). Without it they are probed at the first prompt, and again
            before a longer one is answered.
        draft_tokens: the draft's token id of each code of the trie, ``[codes]``, int64; not given, the draft has the
            target's vocabulary.
        max_draft_prompt_tokens: the same for the draft, if it has prompts of its own.
        execution: how searches are run; :class:`Eager` if not given.

    Raises:
        ValueError: if the drafter needs a draft and there is none, a code is no token of a model, or a model cannot
            take a tree attention mask.
    """

    def __init__(
        self,
        target: PreTrainedModel,
        trie: ItemTrie,
        drafter: Drafter,
        verifier: Verifier | None = None,
        draft: PreTrainedModel | None = None,
        normalize: Normalize = "vocabulary",
        max_prompt_tokens: int | None = None,
        draft_tokens: Tensor | None = None,
        max_draft_prompt_tokens: int | None = None,
        execution: Execution | None = None,
    ) -> None:
        if drafter.needs_draft and draft is None:
            raise ValueError(f"{type(drafter).__name__} needs a draft model; give one, or choose TrieDrafter")
        self.target = target
        self.drafter = drafter
        self.verifier = verifier or StrictTopK()
        self.draft = draft if drafter.needs_draft else None
        self.normalize = normalize
        self.draft_tokens = draft_tokens
        self.execution = execution or Eager()
        self.use_catalog(trie)
        if max_prompt_tokens is not None:
            self._probe(max_prompt_tokens, max_draft_prompt_tokens or max_prompt_tokens)
        drafter.prepare(target, self.draft, self.verifier.tolerance)
        if max_prompt_tokens is not None:
            with torch.inference_mode():
                self.execution.prepare(self._engine(), max_prompt_tokens, max_draft_prompt_tokens or max_prompt_tokens)

    def _probe(self, prompt_tokens: int, draft_prompt_tokens: int) -> None:
        ensure_tree_attention(self.target, prompt_tokens, self.trie.max_depth)
        if self.draft is not None:
            ensure_tree_attention(self.draft, draft_prompt_tokens, self.draft_trie.max_depth)

    def use_catalog(self, trie: ItemTrie) -> None:
        """Answer later requests from another catalog, with the same models; requests under way keep theirs.

        Raises:
            ValueError: if a code is no token of the models, or the verifier cannot serve the catalog.
        """
        self.verifier.check(trie)
        trie = trie.to(self.target.device)
        draft_trie = trie.for_draft(self.draft_tokens)
        _check_tokens("target", self.target, trie.token)
        if self.draft is not None:
            _check_tokens("draft", self.draft, draft_trie.token)
        self.trie, self.draft_trie = trie, draft_trie

    @torch.inference_mode()
    def __call__(
        self,
        prompts: Tensor,
        prompt_mask: Tensor,
        num_beams: int,
        item_filter: ItemFilter | None = None,
        seeds: Tensor | None = None,
        draft_prompts: Tensor | None = None,
        draft_prompt_mask: Tensor | None = None,
    ) -> Decoded:
        """Answer a batch of requests.

        Args:
            prompts: tokens, padded on the left, ``[B, P]``, int64, on the target's device.
            prompt_mask: True where a token is no padding, ``[B, P]``, bool.
            num_beams: beam width ``K``; with more than the catalog has, all semantic IDs are returned.
            item_filter: which items may be recommended; a request without any gets an empty answer.
            seeds: of a verifier that samples, one per request, ``[B]``, int64. The same seed gives a request the same
                answer, whatever shares its batch. Drawn from torch's own generator if not given.
            draft_prompts: the same requests as the draft reads them, ``[B, P']``; not given, it reads what the target
                does.
            draft_prompt_mask: True where a token of these is no padding.

        Raises:
            ValueError: if ``num_beams`` is less than 1, a model cannot take a tree attention mask after prompts of
                this length, or the filter or the seeds do not fit the catalog or the batch.
        """
        require_at_least(1, num_beams=num_beams)
        if draft_prompts is None or draft_prompt_mask is None:
            draft_prompts, draft_prompt_mask = prompts, prompt_mask
        self._probe(prompts.shape[1], draft_prompts.shape[1])
        allowed = item_filter.node_mask(self.trie, len(prompts)) if item_filter else None
        seeds = seeds_or_random(seeds, prompts[:, 0], self.verifier)
        requests = Requests(prompts, prompt_mask, draft_prompts, draft_prompt_mask, allowed, seeds)
        return self.execution.answer(self._engine(), requests, num_beams)

    def _engine(self) -> Engine:
        return Engine(self.target, self.draft, self.drafter, self.verifier, self.normalize, self.trie, self.draft_trie)


def _check_tokens(name: str, model: PreTrainedModel, tokens: Tensor) -> None:
    num_tokens = model.config.get_text_config().vocab_size
    if not 0 <= int(tokens.min()) <= int(tokens.max()) < num_tokens:
        raise ValueError(
            f"the catalog's codes have token ids from {int(tokens.min())} to {int(tokens.max())}; the {name} knows "
            f"tokens from 0 to {num_tokens - 1}"
        )
