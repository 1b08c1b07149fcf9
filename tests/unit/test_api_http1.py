"""HTTP/1.1 as bytes: what is read as a request, what is refused, and that h11 reads nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import h11
from attrs import frozen
from hypothesis import assume, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from component_http.api.exchange import Answer, Problem, json_answer
from component_http.api.http1 import MAX_HEAD_BYTES, Head, RequestReader, response
from component_http.chunks import MAX_CHUNK_LINE, BodyTooLarge
from tests.examples import examples

LIMIT = 1000


def read(data: bytes, limit: int = LIMIT) -> tuple[Head, bytes | None]:
    """The one request that some bytes begin with."""
    reader = RequestReader(limit)
    reader.feed(data)
    head = reader.head()
    assert head is not None
    return head, reader.body()


def status_of(data: bytes) -> int:
    """The status that some bytes are refused with; 0 where they are a request, or the beginning of one."""
    try:
        reader = RequestReader(LIMIT)
        reader.feed(data)
        if reader.head() is not None:
            reader.body()
    except Problem as problem:
        return problem.status
    except BodyTooLarge:
        return 413
    return 0


def post(*fields: str, body: str = "") -> bytes:
    return "\r\n".join(["POST / HTTP/1.1", "Host: h", *fields, "", body]).encode("latin-1")


class RequestLineTests(SynchronousTestCase):
    """The request line."""

    def test_targets(self) -> None:
        """
        Each form of a target is understood.
        """
        for target, method, expected in (
            ("/a/b?c=d?e", "GET", ("/a/b", "c=d?e")),
            ("http://h.example:80/a/b?c", "GET", ("/a/b", "c")),
            ("HTTPS://u@h", "GET", ("/", "")),
            ("http://h?c", "GET", ("/", "c")),
            ("http://h", "OPTIONS", ("*", "")),
            ("*", "OPTIONS", ("*", "")),
            ("h.example:443", "CONNECT", ("h.example:443", "")),
        ):
            head, _ = read(f"{method} {target} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
            self.assertEqual(expected, (head.path, head.query), target)

    def test_no_request_line(self) -> None:
        """
        What is no request line of HTTP/1.x is refused.
        """
        for status, line in (
            (400, b"nonsense"),
            (400, b"GET  / HTTP/1.1"),
            (400, b"GET /a b HTTP/1.1"),
            (400, b" GET / HTTP/1.1"),
            (400, b"G\xc3\xa9T / HTTP/1.1"),
            (400, b"GET /\xc3\xa9 HTTP/1.1"),
            (400, b"GET /\x7f HTTP/1.1"),
            (400, b"GET a HTTP/1.1"),
            (400, b"GET * HTTP/1.1"),
            (400, b"GET h:443 HTTP/1.1"),
            (400, b"GET http:///a HTTP/1.1"),
            (400, b"GET / http/1.1"),
            (400, b"GET / HTTP/1.1 "),
            (400, b"GET / HTTP/1.10"),
            (505, b"PRI * HTTP/2.0"),
            (505, b"GET / HTTP/0.9"),
            (400, b"GET / HTTP/1.1\n"),
            (414, b"GET /" + b"a" * MAX_HEAD_BYTES + b" HTTP/1.1"),
        ):
            self.assertEqual(status, status_of(line + b"\r\nHost: h\r\n\r\n"), line)

    def test_lines_of_unix(self) -> None:
        """
        A request whose lines end with LF is refused as soon as that is seen.
        """
        self.assertEqual(400, status_of(b"GET / HTTP/1.1\n"))
        self.assertEqual(400, status_of(b"\n"))

    def test_empty_lines_before(self) -> None:
        """
        Empty lines before a request are skipped.
        """
        self.assertEqual("GET", read(b"\r\n\r\n\r\nGET / HTTP/1.1\r\n\r\n")[0].method)

    def test_last_request(self) -> None:
        """
        The connection is kept unless the client says close, or speaks HTTP/1.0.
        """
        for keep, line, field in (
            (True, "HTTP/1.1", "Connection: keep-alive"),
            (False, "HTTP/1.1", "Connection: x, Close"),
            (False, "HTTP/1.0", "Connection: keep-alive"),
        ):
            head, _ = read(f"GET / {line}\r\nHost: h\r\n{field}\r\n\r\n".encode())
            self.assertEqual(keep, head.keep)


class FieldTests(SynchronousTestCase):
    """Header fields, and the length of the body among them."""

    def test_fields(self) -> None:
        """
        Fields come without the space around them, those of one name together.
        """
        head, _ = read(post("A:\t b c \t", "a:d", "Empty:"))
        self.assertEqual({"host": "h", "a": "b c, d", "empty": ""}, head.headers)

    def test_malformed_fields(self) -> None:
        """
        What is no field is refused, and what two readers could understand differently.
        """
        for field in ("a", " a: b", "a : b", "a:b\r\n c", "a\t:b", ": b", "a: b\x00", "a: b\x7f", "a: b\rc", "a: b\nc"):
            self.assertEqual(400, status_of(post(field)), field)
        self.assertEqual(400, status_of(post("Host: h")))

    def test_lengths(self) -> None:
        """
        A length is one number of digits; anything else is refused.
        """
        for length in (
            "9" * 5000, "0" * 5000, "+5", "-5", "5 5", "5,5", "5, 5", "5_0", "0x5", "5.0", "", "\xb2", "\xd9\xa5",
        ):  # fmt: skip
            self.assertEqual(400, status_of(post(f"Content-Length: {length}")), length)
        self.assertEqual(400, status_of(post("Content-Length: 5", "Content-Length: 5")))
        self.assertEqual(413, status_of(post("Content-Length: 999999999999999999")))
        self.assertEqual(b"hello", read(post("Content-Length: \t5 ", body="hello!"))[1])

    def test_transfer_codings(self) -> None:
        """
        Chunks are the only coding, never with a length as well.
        """
        for status, fields in (
            (400, ["Transfer-Encoding: chunked", "Content-Length: 5"]),
            (501, ["Transfer-Encoding: gzip, chunked"]),
            (501, ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"]),
            (501, ["Transfer-Encoding: identity"]),
            (501, ["Transfer-Encoding: xchunked"]),
        ):
            self.assertEqual(status, status_of(post(*fields)), fields)
        self.assertEqual(400, status_of(b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"))


class ChunkTests(SynchronousTestCase):
    """Bodies in chunks."""

    def chunked(self, text: str) -> bytes:
        return post("Transfer-Encoding: Chunked", body=text)

    def test_chunks(self) -> None:
        """
        A body is put together from its chunks; extensions and trailer fields are skipped.
        """
        for text in ("5\r\nhello\r\n0\r\n\r\n", "3;a=b\r\nhel\r\n002\r\nlo\r\n0;c\r\nA: b\r\nC: d\r\n\r\n"):
            self.assertEqual(b"hello", read(self.chunked(text))[1])
            reader = RequestReader(LIMIT)
            reader.feed(post("Transfer-Encoding: chunked"))
            reader.head()
            bodies = []
            for byte in text.encode():
                reader.feed(bytes([byte]))
                bodies.append(reader.body())
            self.assertEqual([None] * (len(text) - 1) + [b"hello"], bodies)

    def test_malformed_chunks(self) -> None:
        """
        What is no chunk is refused, as soon as it can be seen.
        """
        for text in (
            "-1\r\n", "+1\r\n", "0x1\r\n", "1_0\r\n", " 1\r\n", "1 \r\n", "\r\n", "g\r\n", "1\n", "1\r\nab", "1\r\na\n",
            "f" * 17 + "\r\n", "f" * 5000, "\xb2\r\n", "1;\x00\r\n", "1;" + "x" * MAX_CHUNK_LINE + "\r\n",
            "0\r\nno field\r\n\r\n", "0\r\na : b\r\n\r\n",
        ):  # fmt: skip
            self.assertEqual(400, status_of(self.chunked(text)), text)
        self.assertEqual(431, status_of(self.chunked("0\r\na: " + "x" * MAX_HEAD_BYTES)))

    def test_too_large(self) -> None:
        """
        A body that is too large is refused with the size of the chunk that makes it so.
        """
        self.assertEqual(413, status_of(self.chunked(f"{LIMIT + 1:x}\r\n")))
        self.assertEqual(413, status_of(self.chunked("f" * 16 + "\r\n")))
        self.assertEqual(413, status_of(self.chunked("1\r\na\r\n" * LIMIT + "1\r\n")))
        self.assertEqual(0, status_of(self.chunked("1\r\na\r\n" * LIMIT + "0\r\n")))

    def test_nothing_is_kept_of_the_framing(self) -> None:
        """
        Of a body in the smallest chunks no more is kept than its bytes.
        """
        reader = RequestReader(LIMIT)
        reader.feed(self.chunked("1\r\na\r\n" * LIMIT))
        reader.head()
        reader.body()
        self.assertEqual(0, reader.waiting)


class ResponseTests(SynchronousTestCase):
    """Answers as bytes."""

    def test_response(self) -> None:
        """
        An answer says how long it is and of what type, and that it is the last one if it is.
        """
        self.assertEqual(
            b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 5\r\nContent-Type: application/json\r\n"
            b"Content-Length: 2\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n{}",
            response(json_answer(429, {}, {"Retry-After": "5"}), close=True),
        )
        self.assertTrue(response(json_answer(200, {}), "HEAD", close=False).endswith(b"no-store\r\n\r\n"))
        self.assertNotIn(b"Content-Length", response(Answer(204), close=False))


@frozen
class Read:
    """What a reader made of some bytes, as far as it came."""

    method: bytes
    target: bytes
    headers: dict[bytes, bytes]
    body: bytes
    keep: bool


EMPTY_LINES = re.compile(rb"\A(?:\r\n)+")


def a_read(method: bytes, target: bytes, fields: Iterable[tuple[bytes, bytes]], body: bytes, keep: bool) -> Read:
    """What was read, without differences that say nothing."""
    headers: dict[bytes, bytes] = {}
    for name, value in fields:
        value = value.decode("utf-8", "replace").encode()
        headers[name] = headers[name] + b", " + value if name in headers else value
    if b"transfer-encoding" in headers:
        headers[b"transfer-encoding"] = headers[b"transfer-encoding"].lower()
    return Read(method, target.removesuffix(b"?"), headers, body, keep)


def ours(pieces: Sequence[bytes]) -> tuple[list[Read], bool]:
    """What we read of some bytes, and whether we refused the rest."""
    reader, found, head = RequestReader(10_000), [], None
    try:
        for piece in pieces:
            reader.feed(piece)
            while True:
                if head is None:
                    head = reader.head()
                body = None if head is None else reader.body()
                if head is None or body is None:
                    break
                target = head.path + (f"?{head.query}" if head.query else "")
                fields = [(name.encode(), value.encode()) for name, value in head.headers.items()]
                found.append(a_read(head.method.encode(), target.encode(), fields, body, head.keep))
                if not head.keep:
                    return found, False
                head = None
    except (Problem, BodyTooLarge):
        return found, True
    return found, False


def theirs(data: bytes) -> list[Read]:
    """
    What h11 reads of the same, where it is as lenient as we are on purpose.

    Empty lines before a request are skipped, and one without Host cannot be compared.
    """
    found: list[Read] = []
    while True:
        connection = h11.Connection(h11.SERVER)
        connection.receive_data(EMPTY_LINES.sub(b"", data))
        try:
            request: Any = connection.next_event()
            body = b""
            while isinstance(event := connection.next_event(), h11.Data):
                body += event.data
        except h11.RemoteProtocolError as error:
            assume("Missing mandatory Host" not in str(error))
            return found
        if not isinstance(request, h11.Request) or not isinstance(event, h11.EndOfMessage):
            return found
        connection.send(h11.Response(status_code=204, headers=[]))
        connection.send(h11.EndOfMessage())
        keep = connection.our_state is not h11.MUST_CLOSE
        found.append(a_read(request.method, request.target, request.headers, body, keep))
        if not keep:
            return found
        data = connection.trailing_data[0]


TOKENS = st.text("aZ09!#$%&'*+-.^_`|~", min_size=1, max_size=8).filter(lambda name: name.lower() != "host")
VALUES = st.text('aZ :,;=\t"\xe9', max_size=12)
CHUNKS = st.lists(st.tuples(st.binary(min_size=1, max_size=20), st.sampled_from(["", ";a", ';a="b"'])), max_size=5)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """A request that is well formed."""
    method = draw(st.sampled_from(["GET", "POST", "PATCH", "x!"]))
    target = draw(st.text("/aZ09%?=&.~", max_size=12))
    lines = [f"{method} /{target} HTTP/1.{draw(st.sampled_from('1110'))}", "Host: h"]
    lines.extend(f"{name}:{value}" for name, value in draw(st.lists(st.tuples(TOKENS, VALUES), max_size=4)))
    lines.extend(draw(st.sampled_from([[], ["Connection: close"], ["Expect: 100-continue"]])))
    body = b""
    if draw(st.booleans()):
        body = draw(st.binary(max_size=40))
        lines.append(f"{draw(st.sampled_from(['Content-Length', 'content-length']))}: {len(body)}")
    elif "HTTP/1.1" in lines[0] and draw(st.booleans()):
        lines.append(draw(st.sampled_from(["Transfer-Encoding: chunked", "transfer-encoding:CHUNKED"])))
        body = b"".join(b"%x%s\r\n%s\r\n" % (len(data), ext.encode(), data) for data, ext in draw(CHUNKS))
        body += b"0\r\n" + draw(st.sampled_from([b"", b"a: b\r\n"])) + b"\r\n"
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


@st.composite
def split(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """Some bytes in pieces."""
    ends = sorted({0, len(data), *draw(st.lists(st.integers(0, len(data)), max_size=6))})
    return [data[start:end] for start, end in pairwise(ends)]


FIELDS = [b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Host: i\r\n", b"GET / HTTP/1.1\r\n\r\n"]
MARKS = [b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b"0", b"5", b"+", b"-", b"_", b",", b";", b"\0", b"\xb2", b"\x0b"]
LONG = [b"f" * 20, b"9" * 30]


@st.composite
def spoilt(draw: st.DrawFn) -> bytes:
    """Requests in which something was changed."""
    data = b"".join(draw(st.lists(requests(), min_size=1, max_size=2)))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.sampled_from([0, 0, 1, 2, 10])))
        data = data[:start] + draw(st.sampled_from([b"", *FIELDS, *MARKS, *LONG])) + data[end:]
    return data


class AgainstH11Tests(SynchronousTestCase):
    """The reader, held against the one of h11."""

    @given(st.data(), st.lists(requests(), min_size=1, max_size=3))
    def test_well_formed(self, draws: st.DataObject, sent: list[bytes]) -> None:
        """
        Requests that are well formed are read as h11 reads them, in whatever pieces they come.
        """
        data = b"".join(sent)
        found, refused = ours(draws.draw(split(data)))
        self.assertFalse(refused)
        self.assertEqual(theirs(data), found)

    @examples(300, same=False)
    @given(st.data(), spoilt())
    def test_ill_formed(self, draws: st.DataObject, data: bytes) -> None:
        """
        Of anything else nothing is read that h11 would not read, or would read differently, in whatever pieces.
        """
        found, _ = ours(draws.draw(split(data)))
        whole, _ = ours([data])
        self.assertEqual(whole, found)
        self.assertEqual(theirs(data)[: len(found)], found)
