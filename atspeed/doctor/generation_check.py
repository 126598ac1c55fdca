"""Settings in a checkpoint's ``generation_config.json`` that make ``generate`` answer differently."""

from collections.abc import Iterator
from typing import Any

from transformers import GenerationConfig

from atspeed.catalog import Spelling
from atspeed.catalog.spelling import ENDED
from atspeed.doctor.findings import Finding

FORBIDS = "forbids tokens, whatever the catalog says"
REPEATS = "forbids what has been seen before, such as the codes of items in the history"
PENALISES = "changes the probability of all tokens seen before, such as the codes of items in the history"
FORCES = "forces a token, whatever the model says"
LENGTHENS = "forbids or disfavours some lengths"
OTHERWISE = "searches in another way than beam search"
EFFECTS: dict[str, tuple[Any, str]] = {
    "repetition_penalty": (1.0, PENALISES),
    "encoder_repetition_penalty": (1.0, PENALISES),
    "no_repeat_ngram_size": (0, REPEATS),
    "encoder_no_repeat_ngram_size": (0, REPEATS),
    "bad_words_ids": ([], FORBIDS),
    "suppress_tokens": ([], FORBIDS),
    "begin_suppress_tokens": ([], FORBIDS),
    "sequence_bias": ({}, "adds to the scores of some tokens"),
    "forced_bos_token_id": (None, FORCES),
    "forced_eos_token_id": (None, FORCES),
    "exponential_decay_length_penalty": (None, LENGTHENS),
    "min_length": (0, LENGTHENS),
    "min_new_tokens": (0, LENGTHENS),
    "max_time": (None, "stops before the answer is complete, if time is up"),
    "stop_strings": (None, "ends an answer at some text"),
    "renormalize_logits": (False, "scores by the allowed tokens only, not by all"),
    "guidance_scale": (1.0, "subtracts what the model says without the prompt"),
    "watermarking_config": (None, "adds to the scores of random tokens"),
    "num_beam_groups": (1, OTHERWISE),
    "diversity_penalty": (0.0, OTHERWISE),
    "penalty_alpha": (0.0, OTHERWISE),
    "dola_layers": (None, OTHERWISE),
    "constraints": (None, OTHERWISE),
    "force_words_ids": (None, OTHERWISE),
}
"""Setting → its value that changes nothing, besides None, and what others do."""
CHECK = "settings of generate"
SAMPLING = ("temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")
"""Settings that have an effect with ``do_sample`` only."""


def check_generation(settings: GenerationConfig, spelling: Spelling | None) -> Finding:
    """Name each setting with its value and what it does to the answers of ``generate``.

    Args:
        settings: those of the checkpoint.
        spelling: of the responses, if it is known.
    """
    found, facts = list(_effects(settings)), []
    lengths = None if spelling is None else (spelling.sids != ENDED).sum(1)
    one_length = lengths is not None and int(lengths.min()) == int(lengths.max())
    if scores := _division(settings.length_penalty):
        if one_length:
            facts = [f"{scores}; the order of items stays, because all responses have as many tokens."]
        else:
            found.append(f"{scores}: the order of items of different lengths may change")
    if settings.early_stopping and not one_length:
        found.append(
            f"early_stopping = {settings.early_stopping} may leave out items that take more tokens than others"
        )
    if not found:
        return Finding(CHECK, "good", ["No setting changes answers.", *facts])
    return Finding(
        CHECK,
        "warning",
        [
            "The checkpoint's own generate searches otherwise. Answers of atspeed do not depend on that.",
            *(f"- {effect}" for effect in found),
            *facts,
        ],
        [
            "for the answers of atspeed from your own generate: set model.generation_config = GenerationConfig(), and "
            "call it with do_sample=False, length_penalty=0.0 and prefix_allowed_tokens_fn; or take the settings out "
            "of generation_config.json"
        ],
    )


def _effects(settings: GenerationConfig) -> Iterator[str]:
    """Yield what each setting with an effect does."""
    if settings.do_sample:
        how = [f"{name} = {value}" for name in SAMPLING if (value := getattr(settings, name, None)) is not None]
        with_how = f" ({', '.join(how)})" if how else ""
        yield f"do_sample = True{with_how} draws answers at random"
    for name, (neutral, effect) in EFFECTS.items():
        value = getattr(settings, name, None)
        if value is not None and value != neutral:
            yield f"{name} = {value} {effect}"


def _division(length_penalty: float | None) -> str:
    """Return what a length penalty does; empty if nothing."""
    if length_penalty is None:
        return "length_penalty = 1.0, the default of generate, divides scores by the length"
    return f"length_penalty = {length_penalty} divides scores by a power of the length" if length_penalty else ""
