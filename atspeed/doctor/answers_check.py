"""Whether answers are those of ``transformers.generate``, and what they cost."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from atspeed.benchmark.agreement import Answer, answers_of, overlap, score_gap
from atspeed.benchmark.near_ties import tie_tolerance
from atspeed.benchmark.reference import HFGenerate, reference_for
from atspeed.benchmark.timing import time_interleaved
from atspeed.data import RequestBatch
from atspeed.decoding import ItemTrie, NoDrafter, SpeculativeDecoder, TrieDrafter
from atspeed.doctor.findings import Finding, attempt
from atspeed.preparation.trie_prediction import FEW_CALLS, MAX_NODES
from atspeed.prompts import PromptEncoder

EXACT = 1e-4
"""Largest difference of scores in float32 on a CPU, as the strict contract has it."""
GENERATE = "generate"


@dataclass(frozen=True)
class Reply:
    """What a method answered to a request.

    Attributes:
        answer: the answer.
        calls: tokens that went through the target in each forward pass.
    """

    answer: Answer
    calls: list[int]


@dataclass(frozen=True)
class Trial:
    """What all methods did, method → request by request.

    Attributes:
        replies: their answers.
        seconds: their wall times.
    """

    replies: dict[str, list[Reply]]
    seconds: dict[str, list[float]]


def try_out(
    model: PreTrainedModel, trie: ItemTrie, encoder: PromptEncoder, batches: list[RequestBatch], num_beams: int
) -> Trial:
    """Answer requests by ``generate``, by plain beam search and with ``TrieDrafter``.

    Args:
        model: the target.
        trie: of what it writes; on its device.
        encoder: of its prompts.
        batches: of one request each.
        num_beams: beam width K.
    """
    reference = reference_for(model, encoder)
    decoders = {
        "plain": SpeculativeDecoder(model, trie, NoDrafter()),
        "trie": SpeculativeDecoder(model, trie, TrieDrafter(MAX_NODES)),
    }

    def generate(batch: RequestBatch) -> tuple[Tensor, Tensor]:
        return reference(batch.prompts, batch.prompt_mask, num_beams)

    def decode(decoder: SpeculativeDecoder) -> Callable[[RequestBatch], tuple[Tensor, Tensor]]:
        def answer(batch: RequestBatch) -> tuple[Tensor, Tensor]:
            decoded = decoder(batch.prompts, batch.prompt_mask, num_beams)
            return trie.tokens(decoded.leaves), decoded.scores

        return answer

    methods = {GENERATE: generate, **{name: decode(decoder) for name, decoder in decoders.items()}}
    counted = {name: _counted(model, method) for name, method in methods.items()}
    trial = Trial({name: [] for name in methods}, {name: [] for name in methods})
    for _, done in time_interleaved(counted, batches, num_warmup=1, seed=0, title="answering", device=model.device):
        for name, (took, reply) in done.items():
            trial.seconds[name].append(took.seconds)
            trial.replies[name].append(reply)
    return trial


def _counted(
    model: PreTrainedModel, method: Callable[[RequestBatch], tuple[Tensor, Tensor]]
) -> Callable[[RequestBatch], Reply]:
    """Count a method's forward passes, and their tokens, where they all go: through the input embeddings."""

    def answer(batch: RequestBatch) -> Reply:
        calls: list[int] = []
        embeddings: torch.nn.Module = model.get_input_embeddings()
        hook = embeddings.register_forward_pre_hook(lambda _, inputs: calls.append(inputs[0].numel()))
        try:
            answers = answers_of(*method(batch))  # waits for the device
        finally:
            hook.remove()
        return Reply(answers[0], calls)

    return answer


def check_answers(trial: Trial, model: PreTrainedModel) -> Finding:
    """Compare strict answers with those of ``generate``.

    Args:
        trial: what the methods answered.
        model: the target; in bfloat16 or on a GPU, rounding may swap items.
    """
    tolerance = tie_tolerance(model)
    facts, gaps, differ = [], [], False
    for name in [name for name in trial.replies if name != GENERATE]:
        replies = zip(trial.replies[name], trial.replies[GENERATE], strict=True)
        pairs = [(ours.answer, theirs.answer) for ours, theirs in replies]
        identical = sum(ours.sids == theirs.sids for ours, theirs in pairs)
        gaps.append(max(score_gap(*pair) for pair in pairs))
        differ |= identical < len(pairs)
        facts.append(
            f"{name}: {identical} of {len(pairs)} identical to generate, in items and order; scores within "
            f"{gaps[-1]:.1e}."
        )
    if max(gaps) > (EXACT if tolerance is None else tolerance):
        change = (
            "answers differ by more than rounding: serve this model by transformers.generate, and report it, with its "
            "config.json, to the authors of atspeed"
        )
        return Finding("answers", "failed", facts, [change])
    if not differ:
        return Finding("answers", "good", facts)
    facts.append("Where items or their order differ, scores are nearly equal, and rounding decides.")
    if tolerance is None:
        return Finding("answers", "good", facts)
    return Finding("answers", "warning", facts, ["for answers that do not differ: --dtype float32 --device cpu"])


def own_settings(
    model: PreTrainedModel, encoder: PromptEncoder, batches: list[RequestBatch], trial: Trial, num_beams: int
) -> str:
    """Return how far ``generate`` by the checkpoint's own settings agrees, in a sentence.

    Arguments as for :func:`try_out`, and what that returned.
    """
    reference: HFGenerate = reference_for(model, encoder)

    def answer() -> list[Answer]:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            codes = torch.cat([reference.by_own_settings(*batch[1:3], num_beams) for batch in batches])
        return answers_of(codes, torch.zeros(codes.shape[:2]))

    answers, problem = attempt(answer)
    if answers is None:
        return f"With the checkpoint's own settings, generate fails: {problem}"
    expected = [reply.answer for reply in trial.replies[GENERATE]]
    pairs = list(zip(answers, expected, strict=True))
    identical = sum(ours.sids == theirs.sids for ours, theirs in pairs)
    return (
        f"generate with the checkpoint's own settings: {identical} of {len(pairs)} identical to that, "
        f"{statistics.mean(overlap(*pair) for pair in pairs):.0%} of the items in common."
    )


def check_speed(trial: Trial, num_beams: int) -> Finding:
    """Say what the methods cost, and whether a draft could save more."""
    rows = [f"  {'':10}{'target calls':>14}{'new tokens':>12}{'milliseconds':>14}"]
    calls = {}
    for name, replies in trial.replies.items():
        calls[name] = statistics.median(len(reply.calls) for reply in replies)
        tokens = statistics.median(sum(reply.calls) for reply in replies)
        milliseconds = 1000 * statistics.median(trial.seconds[name])
        rows.append(f"  {name:10}{calls[name]:14g}{tokens:12g}{milliseconds:14.1f}")
    facts = [
        f"Medians of {len(trial.seconds[GENERATE])} requests at K = {num_beams}, one at a time: a rough indication of "
        "the speed, which python -m atspeed benchmark measures. Tokens include the prompt's."
    ]
    changes = []
    if calls["trie"] > FEW_CALLS:
        changes.append(
            f"a learned draft can save target calls, of which TrieDrafter takes {calls['trie']:g}: train one by "
            "python -m atspeed fit with draft.yaml, then with strict.yaml"
        )
    else:
        facts.append(f"No learned draft is needed: TrieDrafter answers in {calls['trie']:g} target calls.")
    return Finding("cost", "good", facts, changes, rows)
