"""
One HTTP/1.x response, read from bytes within limits. No socket, no clock.

Source: RFC 9112; tests hold the reader against h11.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http_headers import Headers
from twisted.web.iweb import IResponse
from zope.interface import implementer  # type: ignore[import-untyped, unused-ignore]

from component_http.chunks import BodyTooLarge, ChunkedBody, ChunksMalformed, TrailerTooLarge
from component_http.contract.http import TOKEN

MAX_HEAD_BYTES = 65_536
"""Bytes of status lines and headers in all, interim responses included: more than any server sends on purpose."""

MAX_INTERIM_RESPONSES = 16
"""Responses of status 1xx before the real one; `100 Continue` is one, a server that shows progress sends a few."""

MAX_HEAD_LINES = 1000
"""Lines of these: each field costs as much as a hundred bytes of a long one, and nobody sends a hundred fields."""

# Sections 2.2 and 5.2: a line may end with LF alone, and a field may go on in a line that begins with a blank.
_FIELDS = rb"(?:" + TOKEN.encode("ascii") + rb":[^\0\n\v\f\r]*\r?\n(?:[ \t][^\0\n\v\f\r]*\r?\n)*)*"
_HEAD = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: [^\0\n\v\f\r]*)?\r?\n(" + _FIELDS + rb")\r?\n")
_BEGINNING = b"HTTP/1."
_HEAD_END = re.compile(rb"\n\r?\n")
_TRAILER = re.compile(_FIELDS)
_FOLD = re.compile(r"\r?\n[ \t]+")
_LENGTH = re.compile(r"[0-9]{1,18}")
_CLOSE = re.compile(r"\bclose\b", re.IGNORECASE)
_KEEP_ALIVE = re.compile(r"\btimeout\s*=\s*(\d{1,9})", re.IGNORECASE)
_NOT_HTTP = "the answer is not HTTP/1"
_BAD_BODY = "the body ended early, or is not properly chunked"


@implementer(IResponse)
class WholeResponse:
    """
    A response that has arrived.

    Attributes:
        code: The status.
        fields: Header fields by lower-case name; the values of several fields of one name are joined by commas.
        body: The body as it came, not decoded; empty where there was none or it was too large.
        whole: False where the body was larger than the agent reads.
    """

    version = (b"HTTP", 1, 1)
    phrase = b""
    request: Any = None
    previousResponse: Any = None

    def __init__(self, code: int, fields: Mapping[str, str], body: bytes, *, whole: bool) -> None:
        self.code = code
        self.fields = fields
        self.body = body
        self.whole = whole

    @property
    def length(self) -> int:
        """Bytes of the body."""
        return len(self.body)

    @property
    def headers(self) -> Headers:
        """The header fields, as Twisted has them."""
        return Headers({name: [value] for name, value in self.fields.items()})

    def deliverBody(self, protocol: Any) -> None:
        """Give the body to `protocol` before this returns. It gets no transport: nothing is left to pause or stop."""
        protocol.dataReceived(self.body)
        protocol.connectionLost(Failure(ResponseDone("the response was read before")))

    def setPreviousResponse(self, response: Any) -> None:
        self.previousResponse = response


class ResponseReader:
    """
    Reads the response to one request.

    Args:
        body_limit: The bytes of body to read at most, given the status.

    Attributes:
        started: A byte has arrived.
        response: The response, once it is complete or known to be too large; else None.
        broken: Why there will be no response, as a phrase; else None.
    """

    def __init__(self, body_limit: Callable[[int], int]) -> None:
        self.started = False
        self.response: WholeResponse | None = None
        self.broken: str | None = None
        self._body_limit = body_limit
        self._buffer = bytearray()
        # Of the heads that were read: their bytes, lines and number; and where in the next its end is not.
        self._head_bytes = self._head_lines = self._heads = 0
        self._searched = 0
        # Of the final head, once it was read.
        self._old = False
        self._status = 0
        self._fields: dict[str, str] = {}
        # The most bytes of body, and how it ends: after so many bytes, with its last chunk, or with the connection.
        self._limit = 0
        self._body: int | ChunkedBody | None = None

    @property
    def surplus(self) -> bool:
        """More than the response has arrived."""
        return self.response is not None and bool(self._buffer)

    def feed(self, data: bytes) -> None:
        """Read what has arrived; nothing more once there is a response, or none can come."""
        self.started = True
        self._buffer += data
        while not self._status and self.broken is None:
            if not self._read_head():
                return
        if self.response is None and self.broken is None:
            self._read_body()

    def ended(self) -> None:
        """The server has closed the connection properly, which ends a body without a length (section 6.3)."""
        if self.response is not None or self.broken is not None:
            return
        if not self.started:
            self.broken = "closed without an answer"
        elif not self._status:
            self.broken = f"{_NOT_HTTP}, or ended in its headers"
        elif self._body is None:
            self._complete(bytes(self._buffer))
            self._buffer.clear()
        else:
            self.broken = _BAD_BODY

    def seconds_to_keep(self, usual: float, most: float) -> float:
        """
        Say how long the connection may be kept for another request; 0.0 or less if not at all.

        Args:
            usual: Where the server does not say.
            most: At most; else a second less than what it says.

        Source: section 9.3; `Keep-Alive: timeout=` is RFC 2068 section 19.7.1.1.
        """
        if self.response is None or not self.response.whole or self._buffer or self._old or self._body is None:
            return 0.0
        fields = self._fields
        if "connection" in fields and _CLOSE.search(fields["connection"]):
            return 0.0
        announced = _KEEP_ALIVE.search(fields["keep-alive"]) if "keep-alive" in fields else None
        return usual if announced is None else min(most, float(announced[1]) - 1.0)

    def _read_head(self) -> bool:
        """Read one head, if all of it is there; False if it is not, or is no head."""
        if not _BEGINNING.startswith(self._buffer[: len(_BEGINNING)]):
            self.broken = _NOT_HTTP
            return False
        end = _HEAD_END.search(self._buffer, max(0, self._searched - 2))
        self._searched = len(self._buffer)
        size = self._searched if end is None else end.end()
        if self._head_bytes + size > MAX_HEAD_BYTES:
            self.broken = f"more than {MAX_HEAD_BYTES} bytes of headers"
            return False
        if end is None:
            return False
        self._head_bytes += size
        self._head_lines += self._buffer.count(b"\n", 0, size)
        self._heads += 1
        if self._head_lines > MAX_HEAD_LINES:
            self.broken = f"more than {MAX_HEAD_LINES} lines of headers"
            return False
        head = _HEAD.fullmatch(self._buffer, 0, size)
        status = 0 if head is None else int(head[2])
        if head is None or status == 101:
            self.broken = _NOT_HTTP
            return False
        if status >= 200:
            self._old = head[1] == b"0"
            self._status = status
            self._fields = _fields(head[3].decode("latin-1"))
            self._find_length()
        elif self._heads > MAX_INTERIM_RESPONSES:
            self.broken = f"more than {MAX_INTERIM_RESPONSES} interim responses"
        del self._buffer[:size]
        self._searched = 0
        return self.broken is None

    def _find_length(self) -> None:
        """Find out how the body ends; whatever two readers could understand differently is refused (section 6.3)."""
        self._limit = self._body_limit(self._status)
        fields = self._fields
        if self._status in (204, 304):
            self._body = 0
        elif "transfer-encoding" in fields:
            if fields["transfer-encoding"].lower() != "chunked" or "content-length" in fields or self._old:
                self.broken = f"{_NOT_HTTP}: its Transfer-Encoding is not plain chunked"
            else:
                self._body = ChunkedBody(self._limit, MAX_HEAD_BYTES)
        elif "content-length" in fields:
            length = fields["content-length"]
            if not _LENGTH.fullmatch(length):
                lengths = {each.strip() for each in length.split(",")}
                length = lengths.pop() if len(lengths) == 1 else ""
            if not _LENGTH.fullmatch(length):
                self.broken = f"{_NOT_HTTP}: its Content-Length is not a number"
            else:
                self._body = int(length)

    def _read_body(self) -> None:
        body, buffer = self._body, self._buffer
        if isinstance(body, ChunkedBody):
            try:
                content = body.take(buffer)
            except BodyTooLarge:
                self._too_large()
            except (ChunksMalformed, TrailerTooLarge):
                self.broken = _BAD_BODY
            else:
                if content is None:
                    return
                if _TRAILER.fullmatch(body.trailer):
                    self._complete(content)
                else:
                    self.broken = _BAD_BODY
        elif body is None:
            if len(buffer) > self._limit:
                self._too_large()
        elif body > self._limit:
            self._too_large()
        elif len(buffer) >= body:
            self._complete(bytes(buffer[:body]))
            del buffer[:body]

    def _complete(self, body: bytes) -> None:
        self.response = WholeResponse(self._status, self._fields, body, whole=True)

    def _too_large(self) -> None:
        self.response = WholeResponse(self._status, self._fields, b"", whole=False)
        self._buffer.clear()


def _fields(text: str) -> dict[str, str]:
    """The fields of a head, or of a trailer, by lower-case name."""
    if "\n " in text or "\n\t" in text:
        text = _FOLD.sub(" ", text)
    fields: dict[str, str] = {}
    for line in text.split("\n")[:-1]:
        name, _, value = line.partition(":")
        name, value = name.lower(), value.strip(" \t\r")
        fields[name] = f"{fields[name]}, {value}" if name in fields else value
    return fields
