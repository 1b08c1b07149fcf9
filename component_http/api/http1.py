"""
HTTP/1.1 as bytes: requests read from a connection within bounds, and answers written. No socket, no clock.

Source: RFC 9112; a test holds the reader against h11.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus

from attrs import frozen

from component_http.api.exchange import Answer, Live, Problem
from component_http.chunks import BodyTooLarge, ChunkedBody, ChunksMalformed, TrailerTooLarge
from component_http.contract.http import TOKEN

MAX_HEAD_BYTES = 16_384
"""The most bytes of the request line and all header fields, and of the trailer fields after a body in chunks."""

MAX_HEADERS = 64
"""The most header fields of a request; browsers and proxies send some twenty."""

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

_TOKEN = re.compile(TOKEN.encode("ascii"))
_REQUEST_LINE = re.compile(rb"(%s) ([\x21-\x7e]+) HTTP/([0-9])\.([0-9])" % _TOKEN.pattern)
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_LENGTH = re.compile(rb"[0-9]{1,18}")
_ABSOLUTE = re.compile(r"https?://[^/?#]+", re.IGNORECASE)
_BLANK_LINES = re.compile(rb"(?:\r\n)+")


@frozen
class Head:
    """
    The head of a request.

    Attributes:
        path: The path of the target, percent-encoded; `*` for the server as a whole.
        headers: Field values by lower-case name.
        length: The bytes of the body; None for a body in chunks.
        keep: Whether the connection may be used for another request.
        expects_continue: Whether the client waits for "100 Continue" before it sends the body.
        takes_interim: Whether answers of status 1xx may be sent before the answer; HTTP/1.0 has none.
    """

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    length: int | None
    keep: bool
    expects_continue: bool
    takes_interim: bool


class RequestReader:
    """
    Reads the requests of one connection, one at a time: `feed` takes bytes, then `head` and `body` give one request.

    After any exception nothing more can be read, because the start of the next request is unknown.

    Args:
        max_body_bytes: The largest body that is read.
    """

    def __init__(self, max_body_bytes: int) -> None:
        self._max_body_bytes = max_body_bytes
        self._buffer = bytearray()
        self._searched = 0
        self._length: int | None = 0
        self._chunks: ChunkedBody | None = None

    @property
    def waiting(self) -> int:
        """The number of bytes that were fed and not read yet."""
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        """Take bytes as they come."""
        self._buffer += data

    def head(self) -> Head | None:
        """Read the head of the next request; None if it is not in yet. Raises `Problem` if it is not valid."""
        if self._buffer.startswith(b"\r\n"):
            # RFC 9112 section 2.2: some old clients send one after a body.
            blank = _BLANK_LINES.match(self._buffer)
            assert blank is not None
            del self._buffer[: blank.end()]
        end = self._buffer.find(b"\r\n\r\n", max(0, self._searched - 3))
        if end > MAX_HEAD_BYTES or (end < 0 and len(self._buffer) > MAX_HEAD_BYTES):
            if self._buffer.find(b"\r\n", 0, MAX_HEAD_BYTES) < 0:
                raise Problem(414, f"the request line is longer than {MAX_HEAD_BYTES} bytes")
            raise Problem(431, f"the header fields have more than {MAX_HEAD_BYTES} bytes")
        if end < 0:
            self._searched = len(self._buffer)
            newline = self._buffer.find(b"\n")
            if newline >= 0 and self._buffer[newline - 1 : newline] != b"\r":
                raise Problem(400, "a line of the request ends with LF instead of CR LF")
            return None
        lines = bytes(self._buffer[:end]).split(b"\r\n")
        del self._buffer[: end + 4]
        self._searched = 0
        head = _head(lines)
        self._length = head.length
        return head

    def skip(self) -> bool:
        """Throw away the body of the request whose head was read last; False if not all of it is in."""
        if self._length is None or len(self._buffer) < self._length:
            return False
        del self._buffer[: self._length]
        return True

    def body(self) -> bytes | None:
        """
        Read the body of the request whose head was read last; None if it is not in yet.

        Raises:
            BodyTooLarge: The body is larger than is read; raised before it is in, if its head says so.
            Problem: The body is in chunks, and they are malformed.
        """
        if self._length is None:
            return self._chunked()
        if self._length > self._max_body_bytes:
            raise BodyTooLarge
        if len(self._buffer) < self._length:
            return None
        body = bytes(self._buffer[: self._length])
        del self._buffer[: self._length]
        return body

    def _chunked(self) -> bytes | None:
        if self._chunks is None:
            self._chunks = ChunkedBody(self._max_body_bytes, MAX_HEAD_BYTES)
        try:
            body = self._chunks.take(self._buffer)
        except ChunksMalformed as error:
            raise Problem(400, str(error)) from None
        except TrailerTooLarge:
            raise Problem(431, f"the trailer fields have more than {MAX_HEAD_BYTES} bytes") from None
        if body is not None:
            _fields(self._chunks.trailer.split(b"\r\n")[:-1])
            self._chunks = None
        return body


def _head(lines: Sequence[bytes]) -> Head:
    request = _REQUEST_LINE.fullmatch(lines[0])
    if request is None:
        raise Problem(400, "the request line is not one of HTTP")
    method, target = request[1].decode("ascii"), request[2].decode("ascii")
    if request[3] != b"1":
        raise Problem(505, "only HTTP/1.1 and HTTP/1.0 are spoken here")
    is_old = request[4] == b"0"
    fields = _fields(lines[1:])
    if len(fields.get("host", ())) > 1:
        raise Problem(400, "the request has more than one Host")
    path, query = _target(method, target)
    connection = b",".join(fields.get("connection", ())).lower().split(b",")
    expectation = b",".join(fields.get("expect", ())).lower()
    return Head(
        method,
        path,
        query,
        {name: ", ".join(value.decode("utf-8", "replace") for value in values) for name, values in fields.items()},
        _length(fields, is_old),
        not is_old and b"close" not in (option.strip() for option in connection),
        not is_old and expectation == b"100-continue",
        not is_old,
    )


def _fields(lines: Sequence[bytes]) -> dict[str, list[bytes]]:
    """
    Read header fields: their values by lower-case name.

    Source: RFC 9112 section 5: no space before the colon, no line that continues the one before it.
    """
    if len(lines) > MAX_HEADERS:
        raise Problem(431, f"the request has more than {MAX_HEADERS} header fields")
    fields: dict[str, list[bytes]] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not _TOKEN.fullmatch(name):
            raise Problem(400, "the name of a header field is not valid")
        if _CONTROL.search(value):
            raise Problem(400, "a header field has a control character in it")
        fields.setdefault(name.decode("ascii").lower(), []).append(value.strip(b" \t"))
    return fields


def _length(fields: Mapping[str, Sequence[bytes]], is_old: bool) -> int | None:
    """
    Read the number of bytes of the body, or None for chunks.

    A request that two readers could understand differently is refused.

    Source: RFC 9112 sections 6.1 to 6.3.
    """
    codings, lengths = fields.get("transfer-encoding"), fields.get("content-length")
    if codings is not None:
        if lengths is not None or is_old:
            raise Problem(400, "a Transfer-Encoding comes with a Content-Length, or with HTTP/1.0")
        if [coding.lower() for coding in codings] != [b"chunked"]:
            raise Problem(501, "the only Transfer-Encoding that is read is chunked")
        return None
    if lengths is None:
        return 0
    if len(lengths) > 1 or not _LENGTH.fullmatch(lengths[0]):
        raise Problem(400, "the Content-Length is not one number of bytes")
    return int(lengths[0])


def _target(method: str, target: str) -> tuple[str, str]:
    """
    Read the path and the query from a request target, in each of its four forms.

    Source: RFC 9112 section 3.2.
    """
    if method == "CONNECT":
        return target, ""
    absolute = _ABSOLUTE.match(target)
    if absolute is not None:
        target = target[absolute.end() :]
        if not target.startswith("/"):
            target = "*" if method == "OPTIONS" and not target else f"/{target}"
    if not target.startswith("/") and (method, target) != ("OPTIONS", "*"):
        raise Problem(400, "the request target is neither a path nor a URL of http")
    path, _, query = target.partition("?")
    return path, query


def response(answer: Answer, method: str = "", *, close: bool) -> bytes:
    """Write an answer to a request of this method; `close` says that the connection is closed after it."""
    lines = [f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}"]
    lines.extend(f"{name}: {value}" for name, value in answer.headers.items())
    if answer.body:
        lines.append(f"Content-Type: {answer.media_type}")
    if answer.status != 204:
        lines.append(f"Content-Length: {len(answer.body)}")
    lines.append("Cache-Control: no-store")
    if close:
        lines.append("Connection: close")
    head = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
    return head if method == "HEAD" else head + answer.body


def live_head(live: Live) -> bytes:
    """Write the head of a response that ends with its connection (RFC 9112 section 6.3)."""
    lines = ("HTTP/1.1 200 OK", f"Content-Type: {live.media_type}", "Cache-Control: no-store", "Connection: close")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
