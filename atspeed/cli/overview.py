"""The commands, and what each of them is for."""

PROGRAM = "python -m atspeed"
TRAINER_COMMANDS = {
    "fit": "Train the model that a config describes: fine-tune a target or a draft, or align a draft.",
    "validate": "Compute the validation losses of a model.",
    "test": "Measure ranking metrics, target calls and speed on the test users.",
    "predict": "Write recommendations for all users, or for a file of histories (--data.histories).",
}
"""Commands that run a Lightning Trainer."""
COMMANDS = {
    **TRAINER_COMMANDS,
    "prepare": "Read a data set of any format, check and report it, and write it in a format that loads at once.",
    "semantic-ids": "Make semantic IDs for the items of a data set, from embeddings or from the interactions.",
    "show-prompt": "Print the prompt of a user as the models see it: text, tokens and response.",
    "doctor": "Check a checkpoint with its tokenizer and a prompt on a few users, and say what to change.",
    "bundle": "Write models, catalog, prompt and settings as one folder, for serving and for Python.",
    "serve": "Serve a bundle over HTTP, with a page to try it; --demo makes one first.",
    "cache-target": "Score the training prompts with the frozen target once, for alignments without the target.",
    "benchmark": "Compare speculative decoding with plain beam search and transformers.generate.",
    "benchmark-alignment": "Compare drafts of one target: target calls, accepted levels, recall and coverage.",
    "benchmark-catalogs": "Measure what a catalog costs as it grows: build, memory, filters and requests.",
    "tune": "Find the drafter with the lowest latency, and write it as an overlay for recommend.yaml.",
    "quickstart": "Train a target and a draft, align the draft, and benchmark them, all in one run folder.",
}


def usage(command: str) -> str:
    """Return the usage line of a command that takes a config."""
    return f"{PROGRAM} {command} --config FILE [options]"


def overview() -> str:
    """Return what ``--help`` without a command shows."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {purpose}" for name, purpose in COMMANDS.items()]
    return "\n".join(
        [
            f"usage: {PROGRAM} COMMAND [options]",
            "",
            *lines,
            "",
            f"{PROGRAM} COMMAND --help shows the options of a command. Start with quickstart.",
            "--config FILE also finds the configs that come with atspeed by their names, such as --config strict.yaml.",
        ]
    )
