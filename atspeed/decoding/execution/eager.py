"""A search whose sizes are those of the data."""

from atspeed.decoding.execution.execution import Engine, Execution, Requests
from atspeed.decoding.scorer import PrefixScorer
from atspeed.decoding.search import Decoded, search


class Eager(Execution):
    """Takes any shape, makes nothing larger than the data need, and lets requests leave the batch when they are done.

    The way for a CPU. On a GPU the host launches each operation and waits for sizes, so small calls are bound by it.
    """

    def answer(self, engine: Engine, requests: Requests, num_beams: int) -> Decoded:
        """Answer a batch of requests; see :meth:`Execution.answer`."""
        target = PrefixScorer(
            engine.target,
            engine.trie,
            requests.prompts,
            requests.prompt_mask,
            engine.normalize,
            requests.allowed,
        )
        # Alignment compares the models over legal codes only: what a draft gives to other tokens means nothing.
        draft = None
        if engine.draft is not None:
            draft = PrefixScorer(
                engine.draft,
                engine.draft_trie,
                requests.draft_prompts,
                requests.draft_prompt_mask,
                "allowed",
                requests.allowed,
            )
        return search(target, draft, engine.drafter, engine.verifier, num_beams, requests.seeds)
