"""What a benchmark compares."""

from dataclasses import dataclass, field

from atspeed.decoding import Drafter, Eager, Execution, StrictTopK, Verifier


@dataclass(frozen=True)
class Method:
    """A way to answer requests.

    Args:
        drafter: who proposes.
        verifier: what is accepted.
        execution: how rounds are run.
    """

    drafter: Drafter
    verifier: Verifier = field(default_factory=StrictTopK)
    execution: Execution = field(default_factory=Eager)
