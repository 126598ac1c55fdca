"""What a user would pick without atspeed: ``transformers.generate`` with a strict trie."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from atspeed.decoding import END
from atspeed.prompts import PromptEncoder


class HFGenerate:
    """Constrained beam search by ``transformers.generate`` and a ``prefix_allowed_tokens_fn`` over a dict of prefixes.

    Args:
        model: the target.
        sids: token ids of the items' semantic IDs, ``[num_items, L]``; shorter ones are padded with -1.
        pad_token: token id that pads prompts.
        end_token: token id that ends semantic IDs, if they have different lengths.
        prefix: token ids of the response before the codes; prompts end with them.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        sids: Tensor,
        pad_token: int = 0,
        end_token: int | None = None,
        prefix: Sequence[int] = (),
    ) -> None:
        self.model = model
        self.pad_token = pad_token
        self.end_token = end_token
        self.num_prefix = len(prefix)
        self.num_tokens = len(prefix) + sids.shape[1]
        allowed: dict[tuple[int, ...], set[int]] = defaultdict(set)
        for codes in sids.unique(dim=0).tolist():
            response = *prefix, *codes
            for position, token in enumerate(response):
                if token != END:
                    allowed[response[:position]].add(token)
        self.allowed = {prefix: sorted(codes) for prefix, codes in allowed.items()}

    @torch.inference_mode()
    def __call__(self, prompts: Tensor, prompt_mask: Tensor, num_beams: int) -> tuple[Tensor, Tensor]:
        """Return token ids of the top-K semantic IDs, ``[B, K, D]``, and their log-probabilities, ``[B, K]``.

        Those of the prefix count, too. Token ids after an end token are -1. Where the catalog has fewer than K semantic
        IDs, ``generate`` adds hypotheses whose scores are -1e9 or lower; they are returned unchanged.
        """
        length = prompts.shape[1] - self.num_prefix
        prompts, prompt_mask = prompts[:, :length], prompt_mask[:, :length]
        generate: Any = self.model.generate  # typed as a tensor by transformers' mixins
        with default_generation(self.model):
            output = generate(
                input_ids=prompts,
                attention_mask=prompt_mask.long(),
                prefix_allowed_tokens_fn=self._allowed_after(length),
                generation_config=GenerationConfig(
                    num_beams=num_beams,
                    num_return_sequences=num_beams,
                    max_new_tokens=self.num_tokens,
                    min_new_tokens=self.num_tokens if self.end_token is None else None,
                    length_penalty=0.0 if num_beams > 1 else None,
                    do_sample=False,
                    pad_token_id=self.pad_token,
                    eos_token_id=self.end_token,
                    return_dict_in_generate=True,
                    output_scores=num_beams > 1,
                    output_logits=num_beams == 1,
                ),
            )
        codes, ended = self._responses(output.sequences[:, length:])
        shape = len(prompts), num_beams
        if num_beams > 1:
            scores = output.sequences_scores
        else:  # greedy: no beam scores
            log_probs = torch.stack([step.float() for step in output.logits], 1).log_softmax(-1)  # [B, ≤ L, V]
            steps = log_probs.shape[1]
            scores = (log_probs.gather(2, codes[:, :steps, None])[..., 0] * ~ended[:, :steps]).sum(1)
        codes = codes.masked_fill(ended, END)[:, self.num_prefix :]
        return codes.unflatten(0, shape), scores.unflatten(0, shape)

    @torch.inference_mode()
    def by_own_settings(self, prompts: Tensor, prompt_mask: Tensor, num_beams: int) -> Tensor:
        """Return token ids, ``[B, K, D]``, where the model's ``generation_config`` decides how ``generate`` searches.

        It is told no more than the catalog, the beam width and a length, so it may sample, penalise tokens and so on.
        """
        length = prompts.shape[1] - self.num_prefix
        generate: Any = self.model.generate
        sequences = generate(
            input_ids=prompts[:, :length],
            attention_mask=prompt_mask[:, :length].long(),
            prefix_allowed_tokens_fn=self._allowed_after(length),
            num_beams=num_beams,
            num_return_sequences=num_beams,
            max_new_tokens=self.num_tokens,
            pad_token_id=self.pad_token,
        )
        codes, ended = self._responses(sequences[:, length:])
        return codes.masked_fill(ended, END)[:, self.num_prefix :].unflatten(0, (len(prompts), num_beams))

    def _allowed_after(self, length: int) -> Callable[[int, Tensor], list[int]]:
        """Return what ``generate`` asks for the tokens that may follow, after prompts of ``length`` tokens."""
        return lambda _, tokens: self.allowed.get(tuple(tokens[length:].tolist()), [self.pad_token])

    def _responses(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return responses padded to their full length, and which of their tokens come after the end token."""
        tokens = torch.nn.functional.pad(tokens, (0, self.num_tokens - tokens.shape[1]), value=self.pad_token)
        ended = torch.zeros_like(tokens, dtype=torch.bool)
        if self.end_token is not None:
            ended[:, 1:] = (tokens == self.end_token).cumsum(1)[:, :-1] > 0
        return tokens, ended


def reference_for(model: PreTrainedModel, encoder: PromptEncoder) -> HFGenerate:
    """Return what ``transformers.generate`` answers to a target's prompts."""
    spelling = encoder.spelling
    first = spelling.sids[0]
    end_token = int(first[first != END][-1]) if (spelling.sids == END).any() else None  # the one that ends them all
    return HFGenerate(model, spelling.sids, encoder.vocabulary.pad_token, end_token, spelling.prefix)


@contextmanager
def default_generation(model: PreTrainedModel) -> Iterator[None]:
    """Hide a model's own settings for generating, which ``generate`` applies where it is not told otherwise.

    Some (suppressed or forced tokens, a length) cannot be told otherwise, because None means the model's.
    """
    settings: Any = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = settings
