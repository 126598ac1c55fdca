"""HTTP/1.1 as uvicorn speaks it, with a limit to request lines and headers, and problems for what is no HTTP."""

import asyncio
import secrets
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from atspeed.serving.problems import ProblemError, ProblemResponse

MAX_HEAD_BYTES = 65_536
HEAD_SECONDS = 10.0


class LimitedHttp(HttpToolsProtocol):
    """A connection; its requests' lines and headers are limited in size and in the time that they may take.

    uvicorn limits neither. The piece (256 kB at most) in which headers begin does not count, and a piece is parsed
    before its size is looked at.
    """

    _head_bytes: int | None = 0  # of the request that arrives; None: its body does, or no request does
    _too_slow: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Expect a request."""
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Expect nothing more."""
        self._expect_no_head()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """Expect headers."""
        super().on_message_begin()
        self._expect_head()

    def on_headers_complete(self) -> None:
        """Expect a body."""
        self._expect_no_head()
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        """Parse what has arrived."""
        head = self._too_slow
        super().data_received(data)
        if self._too_slow is not head:  # the rest of the last request came before these headers
            return
        if self._head_bytes is not None and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(431, f"the headers have more than {MAX_HEAD_BYTES} bytes")

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP."""
        self._refuse(400, msg)

    def _expect_head(self) -> None:
        self._expect_no_head()
        self._head_bytes = 0
        self._too_slow = self.loop.call_later(HEAD_SECONDS, self._refuse, 408, f"no headers within {HEAD_SECONDS:g} s")

    def _expect_no_head(self) -> None:
        self._head_bytes = None
        if self._too_slow is not None:
            self._too_slow.cancel()

    def _refuse(self, status: int, detail: str) -> None:
        problem = ProblemResponse(ProblemError(status, detail), secrets.token_hex(8), {"Connection": "close"})
        headers = [name + b": " + value + b"\r\n" for name, value in problem.raw_headers]
        self.transport.write(b"".join([STATUS_LINE[status], *headers, b"\r\n", bytes(problem.body)]))
        self.transport.close()
