"""
One HTTP/1.x response, read from bytes within limits. No socket, no clock.

Source: RFC 9112; tests hold the reader against h11.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http_headers import Headers
from twisted.web.iweb import IResponse
from zope.interface import implementer  # type: ignore[import-untyped, unused-ignore]

from component_http.chunks import BodyTooLarge, ChunkedBody, ChunksMalformed, TrailerTooLarge
from component_http.contract.http import TOKEN
from component_http.contract.reply import Response

MAX_HEAD_BYTES = 65_536
"""Bytes of status lines and headers in all, interim responses included: more than any server sends on purpose."""

MAX_INTERIM_RESPONSES = 16
"""Responses of status 1xx before the real one; `100 Continue` is one, a server that shows progress sends a few."""

MAX_HEAD_LINES = 1000
"""Lines of these: each field costs as much as a hundred bytes of a long one, and nobody sends a hundred fields."""

MAX_KNOWN_HEAD_BYTES = 1024
"""Bytes of a head that may be remembered, so that what is remembered is at most 64 KiB of heads."""

IDLE_SECONDS = 4.0
"""Seconds an idle connection is kept: one less than the 5 s after which Node, uvicorn and Apache close theirs, so
that a request does not run into a closing connection."""

MAX_IDLE_SECONDS = 60.0
"""Seconds an idle connection is kept at most where the server announces its own time (`Keep-Alive: timeout=75`)."""

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
    A response that has arrived, as treq reads it.

    Attributes:
        code: The status.
        fields: Header fields by lower-case name; the values of several fields of one name are joined by commas.
        body: The body as it came, not decoded; empty where there was none or it was too large.
        whole: False where the body was larger than the agent reads.
        length: Bytes of the body.
    """

    version = (b"HTTP", 1, 1)
    phrase = b""
    request: Any = None
    previousResponse: Any = None

    def __init__(self, response: Response) -> None:
        self.code = response.status
        self.fields = response.headers
        self.body = response.body or b""
        self.whole = response.body is not None
        self.length = len(self.body)

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


class NotHTTP(Exception):
    """The answer is not HTTP/1; the message says why, as a phrase."""


class Head(NamedTuple):
    """
    The status line and the header fields of a response.

    Attributes:
        fields: Header fields by lower-case name, as in `component_http.contract.reply.Response`.
        body: How the body ends: after so many bytes, with its last chunk, or with the connection.
        keep: Seconds for which the connection may be kept afterwards; 0.0 or less if not at all.
    """

    status: int
    fields: Mapping[str, str]
    body: int | Literal["chunked", "closed"]
    keep: float


def read_head(head: bytes) -> Head:
    """
    Read one head, up to the empty line at its end.

    Raises:
        NotHTTP: It is no head, or two readers could understand differently where its body ends (section 6.3).
    """
    found = _HEAD.fullmatch(head)
    if found is None or found[2] == b"101":
        raise NotHTTP(_NOT_HTTP)
    status, old = int(found[2]), found[1] == b"0"
    if status < 200:
        return Head(status, {}, 0, 0.0)
    fields = _fields(found[3].decode("latin-1"))
    body = _end_of_body(status, fields, old)
    return Head(status, fields, body, 0.0 if old or body == "closed" else _seconds_to_keep(fields))


_known_head = lru_cache(64)(read_head)
"""The same for short heads, of which a server sends the same again and again."""


def read_at_once(data: bytes, body_limit: Callable[[int], int]) -> tuple[Response, float] | None:
    """
    Read a response of the usual shape: one short head with a Content-Length, and all of the body.

    Returns:
        The response, and the seconds for which its connection may be kept; None for any other shape, which a
        `ResponseReader` reads.
    """
    end = data.find(b"\r\n\r\n") + 4
    if not 4 <= end <= MAX_KNOWN_HEAD_BYTES:
        return None
    try:
        status, fields, length, keep = _known_head(data[:end])
    except NotHTTP:
        return None
    if status < 200 or length != len(data) - end or len(data) - end > body_limit(status):
        return None
    return Response(status, fields, data[end:]), keep


class ResponseReader:
    """
    Reads the response to one request.

    Args:
        body_limit: The bytes of body to read at most, given the status.

    Attributes:
        response: The response, once it is complete or known to be too large; else None.
        broken: Why there will be no response, as a phrase; else None.
    """

    def __init__(self, body_limit: Callable[[int], int]) -> None:
        self.response: Response | None = None
        self.broken: str | None = None
        self._body_limit = body_limit
        self._buffer = bytearray()
        # Of the heads that were read: their bytes, lines and number; and where in the next its end is not.
        self._head_bytes = self._head_lines = self._heads = 0
        self._searched = 0
        # Of the final head, once it was read.
        self._head: Head | None = None
        self._chunks: ChunkedBody | None = None

    @property
    def keep(self) -> float:
        """Seconds for which the connection may be kept; 0.0 or less if not at all, or not before all is read."""
        if self._head is None or self.response is None or self.response.body is None or self._buffer:
            return 0.0
        return self._head.keep

    @property
    def reads_known_length(self) -> bool:
        """Tell whether the head is read, and the body ends after a number of bytes that it names."""
        return self._head is not None and isinstance(self._head.body, int)

    def feed(self, data: bytes) -> None:
        """Read what has arrived; nothing more once there is a response, or none can come."""
        self._buffer += data
        try:
            while self._head is None:
                if not self._read_head():
                    return
            if self.response is None and self.broken is None:
                self._read_body(self._head)
        except NotHTTP as error:
            self.broken = str(error)
        except BodyTooLarge:
            assert self._head is not None
            self.response = Response(self._head.status, self._head.fields, None)
            self._buffer.clear()

    def ended(self) -> None:
        """End a body without a length: the server has closed the connection properly (section 6.3)."""
        if self.response is not None or self.broken is not None:
            return
        if self._head is None:
            self.broken = f"{_NOT_HTTP}, or ended in its headers"
        elif self._head.body == "closed":
            self._complete(self._head, bytes(self._buffer))
        else:
            self.broken = _BAD_BODY

    def _read_head(self) -> bool:
        """Read one head, if all of it is there; False if it is not, or the response is broken already."""
        if self.broken is not None:
            return False
        if not _BEGINNING.startswith(self._buffer[: len(_BEGINNING)]):
            raise NotHTTP(_NOT_HTTP)
        end = _HEAD_END.search(self._buffer, max(0, self._searched - 2))
        self._searched = len(self._buffer)
        size = self._searched if end is None else end.end()
        if self._head_bytes + size > MAX_HEAD_BYTES:
            raise NotHTTP(f"more than {MAX_HEAD_BYTES} bytes of headers")
        if end is None:
            return False
        self._head_bytes += size
        self._head_lines += self._buffer.count(b"\n", 0, size)
        self._heads += 1
        if self._head_lines > MAX_HEAD_LINES:
            raise NotHTTP(f"more than {MAX_HEAD_LINES} lines of headers")
        head = read_head(bytes(self._buffer[:size]))
        if head.status >= 200:
            self._head = head
        elif self._heads > MAX_INTERIM_RESPONSES:
            raise NotHTTP(f"more than {MAX_INTERIM_RESPONSES} interim responses")
        del self._buffer[:size]
        self._searched = 0
        return True

    def _read_body(self, head: Head) -> None:
        limit, buffer = self._body_limit(head.status), self._buffer
        if head.body == "chunked":
            if self._chunks is None:
                self._chunks = ChunkedBody(limit, MAX_HEAD_BYTES)
            try:
                content = self._chunks.take(buffer)
            except (ChunksMalformed, TrailerTooLarge):
                raise NotHTTP(_BAD_BODY) from None
            if content is not None:
                if not _TRAILER.fullmatch(self._chunks.trailer):
                    raise NotHTTP(_BAD_BODY)
                self._complete(head, content)
        elif head.body == "closed":
            if len(buffer) > limit:
                raise BodyTooLarge
        elif head.body > limit:
            raise BodyTooLarge
        elif len(buffer) >= head.body:
            self._complete(head, bytes(buffer[: head.body]))
            del buffer[: head.body]

    def _complete(self, head: Head, body: bytes) -> None:
        self.response = Response(head.status, head.fields, body)


def _end_of_body(status: int, fields: Mapping[str, str], old: bool) -> int | Literal["chunked", "closed"]:
    if status in (204, 304):
        return 0
    if "transfer-encoding" in fields:
        if fields["transfer-encoding"].lower() != "chunked" or "content-length" in fields or old:
            raise NotHTTP(f"{_NOT_HTTP}: its Transfer-Encoding is not plain chunked")
        return "chunked"
    if "content-length" not in fields:
        return "closed"
    lengths = {each.strip() for each in fields["content-length"].split(",")}
    length = lengths.pop()
    if lengths or not _LENGTH.fullmatch(length):
        raise NotHTTP(f"{_NOT_HTTP}: its Content-Length is not a number")
    return int(length)


def _seconds_to_keep(fields: Mapping[str, str]) -> float:
    """Seconds for which the connection may be kept (section 9.3; `Keep-Alive: timeout=`: RFC 2068 section 19.7.1.1)."""
    if "connection" in fields and _CLOSE.search(fields["connection"]):
        return 0.0
    announced = _KEEP_ALIVE.search(fields["keep-alive"]) if "keep-alive" in fields else None
    return IDLE_SECONDS if announced is None else min(MAX_IDLE_SECONDS, float(announced[1]) - 1.0)


def _fields(text: str) -> dict[str, str]:
    """Read the fields of a head."""
    if "\n " in text or "\n\t" in text:
        text = _FOLD.sub(" ", text)
    fields: dict[str, str] = {}
    for line in text.split("\n")[:-1]:
        name, _, value = line.partition(":")
        name, value = name.lower(), value.strip(" \t\r")
        fields[name] = f"{fields[name]}, {value}" if name in fields else value
    return fields
