"""How requests are answered."""

from typing import NamedTuple


class Method(NamedTuple):
    """How a request is answered; requests of one method share batches.

    Attributes:
        verification: name of the verifier.
        speculation: whether the bundle's drafter proposes; otherwise the search is plain beam search.
    """

    verification: str
    speculation: bool
