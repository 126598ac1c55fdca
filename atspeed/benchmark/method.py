"""What a benchmark compares."""

from dataclasses import dataclass, field

from atspeed.decoding import Drafter, StrictTopK, Verifier


@dataclass(frozen=True)
class Method:
    """A way to answer requests.

    Args:
        drafter: who proposes.
        verifier: what is accepted.
    """

    drafter: Drafter
    verifier: Verifier = field(default_factory=StrictTopK)
