"""How the agent reads responses, held against how h11 reads the same bytes."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import h11
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure

from component_http.errors import ConnectionCut
from component_http.webhook.response import MAX_HEAD_BYTES
from tests.examples import examples
from tests.unit.test_webhook_agent import AgentCase

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

SEVERAL = examples(150, same=False)
"""Enough to come across each thing that can stand in a response, in a second or so."""

TOKENS = st.sampled_from([b"a", b"name", b"x-y", b"!#$%&'*+.^_`|~", b"A" * 200])
BLANKS = st.sampled_from([b"", b" ", b"\t", b" \t  "])
QUOTED = st.sampled_from([b'""', b'"a b"', b'"a;b"', b'"\\"\\\\;"', b'"\t"', b'"\xe9\xff"'])
FIELD_VALUES = st.sampled_from([b"", b" b", b" b: c ", b'\t"b"\t', b" \xe9", b" b\r\n c"])
CHUNKS = st.binary(min_size=1, max_size=20) | st.sampled_from([b"\r\n", b"0\r\n\r\n", b"5\r\n"])
CUTS = st.lists(st.integers(0, 2000), max_size=4)


@st.composite
def extensions(draw: Any) -> bytes:
    """What may follow the size of a chunk."""
    text = b""
    for _ in range(draw(st.integers(0, 2))):
        text += draw(BLANKS) + b";" + draw(BLANKS) + draw(TOKENS)
        if draw(st.booleans()):
            text += draw(BLANKS) + b"=" + draw(BLANKS) + draw(TOKENS | QUOTED)
    return text


@st.composite
def fields(draw: Any) -> bytes:
    """Some header fields, or trailers, that mean nothing to us."""
    return b"".join(name + b":" + draw(FIELD_VALUES) + b"\r\n" for name in draw(st.lists(TOKENS, max_size=2)))


@st.composite
def chunked_bodies(draw: Any) -> tuple[bytes, bytes]:
    """A body as it is sent in chunks, and what is in it."""
    chunks = draw(st.lists(CHUNKS, max_size=4))
    sent = b""
    for chunk in chunks:
        size = draw(st.sampled_from([b"%x", b"%X", b"%04x"])) % len(chunk)
        sent += size + draw(extensions()) + b"\r\n" + chunk + b"\r\n"
    last = draw(st.sampled_from([b"0", b"000"])) + draw(extensions()) + b"\r\n"
    return sent + last + draw(fields()) + b"\r\n", b"".join(chunks)


@st.composite
def responses(draw: Any) -> bytes:
    """A response with a body that ends in one of the three ways, or without any."""
    status = draw(st.sampled_from([b"200 OK", b"200", b"200 ", b"204 No Content", b"404 Not Found", b"599 \xe9"]))
    version = draw(st.sampled_from([b"1.1", b"1.0"]))
    head: bytes = b"HTTP/" + version + b" " + status + b"\r\n" + draw(fields())
    if status.startswith(b"204"):
        return head + b"\r\n"
    body: bytes = draw(st.sampled_from([b"", b"{}", b'{"body": "x"}']))
    match draw(st.sampled_from(["length", "close", "chunked"])):
        case "length":
            return head + b"Content-Length: %d\r\n\r\n" % len(body) + body
        case "chunked" if version == b"1.1":
            body, _ = draw(chunked_bodies())
            return head + b"Transfer-Encoding: chunked\r\n\r\n" + body
        case _:
            return head + b"\r\n" + body


@st.composite
def damaged(draw: Any, text: bytes) -> bytes:
    """The same with one to three bytes lost, added or changed."""
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(text)))
        put = draw(
            st.sampled_from([b"", b"\r", b"\n", b" ", b";", b"0", b":", b"+", b"_", b"\r\n"]) | st.binary(max_size=1)
        )
        text = text[:place] + put + text[place + draw(st.integers(0, 1)) :]
    return text


def segments(text: bytes, cuts: list[int]) -> list[bytes]:
    """A text in the pieces that it arrives in."""
    places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return [text[start:end] for start, end in pairwise(places)]


def read_by_h11(text: bytes) -> tuple[int, bytes] | None:
    """The status and the body of a response after which the server closes; None if it is not a whole one."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
    connection.send(h11.Request(method="POST", target="/", headers=[("Host", "bot"), ("Content-Length", "0")]))
    connection.send(h11.EndOfMessage())
    status, body = 0, b""
    try:
        connection.receive_data(text)
        connection.receive_data(b"")
        while not isinstance(event := connection.next_event(), h11.EndOfMessage):
            if isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += event.data
            elif not isinstance(event, h11.InformationalResponse):
                return None
    except h11.RemoteProtocolError:
        return None
    return status, body


class ResponseTests(AgentCase):
    """A response is read as another careful implementation reads it, or not at all."""

    def read(self, text: bytes, cuts: list[int]) -> tuple[int, bytes] | None:
        """What `read_by_h11` gives, from our agent."""
        self.setUp()
        _, wire, answer = self.connected()
        results: list[Any] = []
        answer.addBoth(results.append)
        wire.say(*segments(text, cuts))
        wire.lose(ConnectionDone())
        (result,) = results
        if isinstance(result, Failure):
            result.trap(ConnectionCut)
            return None
        return (result.code, result.body) if result.whole else None

    @SEVERAL
    @given(chunked_bodies(), CUTS)
    @example((b'2 ;a=b\r\n{}\r\n0\t; c = "\\""\r\n\r\n', b"{}"), [])
    def test_chunks(self, body: tuple[bytes, bytes], cuts: list[int]) -> None:
        """
        A body in chunks is read with whatever extensions and trailers it has, in whatever pieces it arrives.
        """
        sent, meant = body
        self.assertEqual((200, meant), self.read(CHUNKED + sent, cuts))

    @SEVERAL
    @given(responses(), CUTS)
    def test_good_responses(self, sent: bytes, cuts: list[int]) -> None:
        """
        A response that is as it should be is read, as h11 reads it.
        """
        self.assertEqual(read_by_h11(_without_blanks(sent)), self.read(sent, cuts))

    @SEVERAL
    @given(chunked_bodies().map(lambda body: CHUNKED + body[0]).flatmap(damaged), CUTS)
    def test_damaged_chunks(self, sent: bytes, cuts: list[int]) -> None:
        """
        A body in chunks that was damaged is refused, or read as h11 reads it.
        """
        self.assertIn(self.read(sent, cuts), (None, read_by_h11(sent), read_by_h11(_without_blanks(sent))))

    @SEVERAL
    @given(responses().flatmap(damaged), CUTS)
    def test_damaged_responses(self, sent: bytes, cuts: list[int]) -> None:
        """
        A response that was damaged anywhere is refused, or read as h11 reads it.
        """
        self.assertIn(self.read(sent, cuts), (None, read_by_h11(sent), read_by_h11(_without_blanks(sent))))


def _without_blanks(sent: bytes) -> bytes:
    """Without the blanks before a chunk's extension, which RFC 9112 allows and h11 refuses."""
    return re.sub(rb"(?m)^([0-9A-Fa-f]+)[ \t]+;", rb"\1;", sent)
