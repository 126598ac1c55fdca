"""What every way to run a search is."""

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor
from transformers import PreTrainedModel

from atspeed.decoding.drafters.drafter import Drafter
from atspeed.decoding.forward import Normalize
from atspeed.decoding.search import Decoded
from atspeed.decoding.trie import ItemTrie
from atspeed.decoding.verifiers.verifier import Verifier


class Engine(NamedTuple):
    """Who answers.

    Attributes:
        target: the target.
        draft: the draft, if the drafter needs one.
        drafter: who proposes.
        verifier: what is accepted.
        normalize: of the target's scores; the draft's are over legal codes.
        trie: the catalog, on the target's device.
        draft_trie: the catalog as the draft sees it.
    """

    target: PreTrainedModel
    draft: PreTrainedModel | None
    drafter: Drafter
    verifier: Verifier
    normalize: Normalize
    trie: ItemTrie
    draft_trie: ItemTrie


class Requests(NamedTuple):
    """A batch of requests, on the target's device.

    Attributes:
        prompts: tokens, padded on the left, ``[B, P]``, int64.
        prompt_mask: True where a token is no padding, ``[B, P]``, bool.
        draft_prompts: the same requests as the draft reads them, ``[B, P']``.
        draft_prompt_mask: True where a token of these is no padding.
        allowed: nodes that a request may use, ``[B, M]``, bool; None: all.
        seeds: of the random numbers of each request, ``[B]``, int64.
    """

    prompts: Tensor
    prompt_mask: Tensor
    draft_prompts: Tensor
    draft_prompt_mask: Tensor
    allowed: Tensor | None
    seeds: Tensor


class Execution(ABC):
    """Runs the rounds of searches; a subclass is named by ``class_path`` in a config."""

    def prepare(  # noqa: B027 (there may be nothing to prepare)
        self, engine: Engine, prompt_tokens: int, draft_prompt_tokens: int
    ) -> None:
        """Get ready for requests.

        Args:
            engine: who will answer.
            prompt_tokens: tokens of the longest prompt to come.
            draft_prompt_tokens: the same for the draft.
        """

    @abstractmethod
    def answer(self, engine: Engine, requests: Requests, num_beams: int) -> Decoded:
        """Answer a batch of requests.

        Args:
            engine: who answers.
            requests: the requests.
            num_beams: the beam width K, 1 or more.
        """
