"""
What careless and hostile clients send to the API of a real gateway process.

Each is told what is wrong, nothing of it is sent, and a message of somebody else still arrives on the same stream.
"""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from xml.etree.ElementTree import Element
from xml.sax.saxutils import quoteattr

import pytest
from attrs import field, frozen
from hypothesis import settings

from tests.integration.api_gateway import HOOK, JSON, TOKEN, ApiClient, ApiGateway
from tests.integration.counterparts import unusable
from tests.integration.probe import Peer, ScriptedServer, child
from tests.integration.processes import ScriptedWebhook
from tests.integration.waiting import PATIENCE, eventually

DOMAIN = "bot.example.org"
ALICE = "alice@example.org/x"
NARROW = "a-token-that-may-do-little"
HELLO = {"to": ALICE, "body": "hello"}
PLACES = 50
REQUEST_TIMEOUT = 2.0
XMPP_XML = "application/xmpp+xml"
FORM = "application/x-www-form-urlencoded"


class Stage:
    """A gateway with its API between a scripted server and a webhook that is never asked."""

    def __init__(self, stack: ExitStack) -> None:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "narrow").write_text(NARROW)
        (folder / "narrow").chmod(0o600)
        self.server = stack.enter_context(ScriptedServer())
        self.webhook = stack.enter_context(ScriptedWebhook())
        tokens = [
            {"name": "ops", "token_file": "ops-token", "rate": "10000/1s"},
            {
                "name": "narrow",
                "token_file": str(folder / "narrow"),
                "may_send_as": [f"news@{DOMAIN}"],
                "may_send_to": ["*@example.org"],
                "kinds": ["message"],
            },
        ]
        self.gateway = stack.enter_context(
            ApiGateway(
                domain=DOMAIN,
                server=self.server.endpoint,
                secret=self.server.secret,
                post_url=self.webhook.url,
                sections={"spool": {"kind": "sqlite", "path": str(folder / "spool.sqlite3")}},
                api={
                    "max_connections": PLACES,
                    "request_timeout": REQUEST_TIMEOUT,
                    "max_wait": 1.0,
                    "token": tokens,
                    "hook": [
                        {"name": "any", "secret_file": "hook-secret", "to": ALICE, "rate": "10000/1s"},
                    ],
                },
            )
        )
        self.gateway.wait_until_open()
        self.peer = self.server.connected()
        self.api = self.gateway.api
        self.narrow = ApiClient(self.gateway.port, NARROW)
        self.nobody = ApiClient(self.gateway.port, None)

    def arrived(self) -> list[str | None]:
        """The texts of all that was sent since the last call, once a message of somebody else has come behind it."""
        self.api.say(ALICE, "fence")
        self.peer.wait(lambda: len(self.peer.elements) > 0 and text_of(self.peer.elements[-1]) == "fence", "the fence")
        *arrived, fence = map(text_of, self.peer.take())
        assert fence == "fence"
        return arrived

    def connect(self) -> socket.socket:
        """A raw connection to the API."""
        return socket.create_connection(("127.0.0.1", self.gateway.port), PATIENCE)


def text_of(element: Element) -> str | None:
    body = child(element, "body")
    return None if body is None else body.text


def read_all(connection: socket.socket) -> bytes:
    """What comes until the other side closes."""
    data = b""
    with suppress(ConnectionError):
        while piece := connection.recv(65536):
            data += piece
    return data


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with ExitStack() as stack:
        built = Stage(stack)
        yield built
        built.gateway.stop()
        [summary] = built.gateway.lines("stopped; in all")
        assert "api_failed" not in summary


@pytest.fixture(autouse=True)
def nothing_breaks(stage: Stage) -> Iterator[None]:
    """After every test nothing was sent that the test has not seen, the process is sound and its stream the first."""
    yield
    assert stage.arrived() == []
    stage.gateway.assert_sound()
    assert not stage.peer.gone and stage.peer.broken is None
    assert stage.webhook.requests == []


@frozen
class Bad:
    """A request that cannot be carried out, what it is answered, and a word of why."""

    status: int
    why: str
    body: object
    path: str = "/v1/messages"
    media_type: str = JSON
    headers: dict[str, str] = field(factory=dict)


def message(**facts: object) -> dict[str, object]:
    return {**HELLO, **facts}


def in_xml(xml: str) -> dict[str, object]:
    return {"to": ALICE, "stanza": xml}


BAD: dict[str, Bad] = {
    "a foreign sender": Bad(422, "from", message(**{"from": "alice@elsewhere.example"})),
    "the server as sender": Bad(422, "from", message(**{"from": "example.org"})),
    "a foreign sender in XML": Bad(422, "from", in_xml("<message from='x@elsewhere.example'><body>x</body></message>")),
    "a subdomain as sender": Bad(422, "from", message(**{"from": f"x@sub.{DOMAIN}"})),
    "no recipient": Bad(422, "to", {"body": "hello"}),
    "an empty recipient": Bad(422, "to", message(to="")),
    "a recipient that is none": Bad(422, "to", message(to="@@")),
    "a recipient with a control character": Bad(422, "to", message(to="a\x01b@example.org")),
    "a recipient with a line break": Bad(422, "to", message(to="alice@example.org\r\nX: y")),
    "a body that is an object": Bad(422, "body", message(body={})),
    "an unknown type": Bad(422, "type", message(type="bogus")),
    "an unknown kind": Bad(422, "kind", message(kind="stream")),
    "presence where messages are taken": Bad(422, "kind", {"to": ALICE, "kind": "presence"}),
    "nothing to say": Bad(422, "", {"to": ALICE}),
    "nothing at all": Bad(422, "", []),
    "one bad one among good ones": Bad(422, "", [HELLO, HELLO, message(type="bogus")]),
    "too many": Bad(422, "1000", [HELLO] * 1001),
    "a string": Bad(400, "object", "hello"),
    "null": Bad(422, "", b"null"),
    "no body": Bad(400, "", b""),
    "half of JSON": Bad(400, "JSON", b'{"to": "alice@example.org", "body": '),
    "JSON and more": Bad(400, "JSON", json.dumps(HELLO).encode() + b"x"),
    "NaN": Bad(400, "JSON", b'{"to": "alice@example.org", "priority": NaN}'),
    "JSON that is not UTF-8": Bad(400, "UTF-8", b'{"to": "alice@example.org", "body": "\xff\xfe"}'),
    "a raw control character in JSON": Bad(400, "JSON", b'{"to": "alice@example.org", "body": "a\x01b"}'),
    "JSON nested 100000 deep": Bad(400, "nest", b"[" * 100_000 + b"]" * 100_000),
    "form for JSON": Bad(415, "Content-Type", b"to=alice", media_type=FORM),
    "no media type": Bad(415, "", HELLO, media_type=""),
    "another charset": Bad(415, "UTF-8", b"<message/>", media_type=f"{XMPP_XML}; charset=klingon"),
    "a compressed body": Bad(415, "gzip", HELLO, headers={"Content-Encoding": "br"}),
    "a body that is not compressed as it says": Bad(400, "gzip", HELLO, headers={"Content-Encoding": "gzip"}),
    "XML that ends early": Bad(422, "stanza", b"<message to='a@example.org'><body>x", media_type=XMPP_XML),
    "XML that is no stanza": Bad(422, "stanza", b"<stream/>", media_type=XMPP_XML),
    "the end of the stream": Bad(422, "stanza", b"</stream:stream>", media_type=XMPP_XML),
    "XML that is not UTF-8": Bad(400, "UTF-8", b"<message><body>\xff</body></message>", media_type=XMPP_XML),
    "a reference to one": Bad(
        422, "stanza", b"<message to='a@example.org'><body>&#1;</body></message>", media_type=XMPP_XML
    ),
    "a document type": Bad(422, "stanza", in_xml("<!DOCTYPE m [<!ENTITY a 'b'>]><message><body>&a;</body></message>")),
    "a comment": Bad(422, "stanza", in_xml("<message><!-- x --><body>x</body></message>")),
    "XML nested 100 deep": Bad(422, "nest", in_xml("<message>" + "<a>" * 100 + "</a>" * 100 + "</message>")),
    "a stanza that is too large": Bad(422, "", message(body="x" * 300_000)),
    "10 MiB": Bad(413, "max_body_bytes", b"x" * 10 * 1024 * 1024),
    "an unknown wait": Bad(400, "wait", HELLO, path="/v1/messages?wait=forever"),
    "an endless wait": Bad(400, "timeout", HELLO, path="/v1/messages?wait=sent&timeout=1e9"),
    "an unusable key": Bad(400, "Idempotency-Key", HELLO, headers={"Idempotency-Key": "x" * 256}),
    "a link that nobody gave": Bad(404, "link", HELLO, path="/v1/deliveries/d1/reply?seal=e30.e30"),
    "an iq that asks nothing": Bad(422, "", {"to": ALICE, "kind": "iq", "type": "get"}, path="/v1/iq"),
    "a message that asks": Bad(422, "iq", HELLO | {"kind": "message"}, path="/v1/iq"),
    "no such path": Bad(404, "path", HELLO, path="/v1/nothing"),
    "a path that is not UTF-8": Bad(400, "UTF-8", HELLO, path="/v1/%ff"),
    "no such hook": Bad(404, "", HELLO, path="/hooks/0123456789abcdef"),
    "a hook without a text": Bad(422, "", {"blocks": 7}, path=f"/hooks/{HOOK}"),
    "a hook with half of JSON": Bad(400, "JSON", b"{", path=f"/hooks/{HOOK}"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_requests(stage: Stage, name: str) -> None:
    """
    Each gets its status and a sentence that names what is wrong.
    """
    bad = BAD[name]
    headers = {"Content-Type": bad.media_type, **bad.headers}
    told = stage.api.ask("POST", bad.path, bad.body, headers=headers)
    assert (told.status, told.headers["content-type"]) == (bad.status, "application/problem+json"), told
    assert told.json["status"] == bad.status
    assert bad.why in told.json["detail"], told.json


@pytest.mark.parametrize(
    ("path", "body", "media_type", "statuses"),
    [
        ("/msg/@@", b"x", "text/plain", {422}),
        ("/msg/alice@example.org", b"\xff", "text/plain", {400}),
        ("/msg/alice@example.org", b"{", JSON, {400}),
        ("/msg/alice@example.org", b"<x/>", "text/html", {415}),
        ("/rest", b"<message", XMPP_XML, {422, 400}),
        ("/rest", b"\xff", JSON, {400}),
        ("/rest/message/chat/@@", b"x", "text/plain", {422}),
        ("/rest/message/bogus/alice@example.org", b"x", "text/plain", {422}),
        ("/rest", json.dumps({**HELLO, "from": "a@elsewhere.example"}).encode(), JSON, {422, 403}),
    ],
)
def test_bad_requests_in_other_shapes(
    stage: Stage, path: str, body: bytes, media_type: str, statuses: set[int]
) -> None:
    """
    The shapes of other programs refuse the same, each with a text in its own way.
    """
    told = stage.api.ask("POST", path, body, headers={"Content-Type": media_type})
    assert told.status in statuses, told
    assert told.body


@pytest.mark.parametrize(
    "authorization", [None, "Bearer wrong-wrong-wrong-wrong", "Basic !!", "Basic Og==", "Digest x"]
)
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/iq", "/msg/alice@example.org", "/rest"])
def test_unknown_tokens(stage: Stage, path: str, authorization: str | None) -> None:
    """
    Without a token that is ours the answer is 401, with a challenge.
    """
    headers = {} if authorization is None else {"Authorization": authorization}
    told = stage.nobody.ask("POST", path, HELLO, headers=headers)
    assert told.status == 401
    assert "Bearer" in told.headers["www-authenticate"]


@pytest.mark.parametrize(
    ("why", "path", "body"),
    [
        ("may_send_as", "/v1/messages", message(**{"from": f"other@{DOMAIN}"})),
        ("may_send_to", "/v1/messages", message(to="x@elsewhere.example")),
        ("may_send_to", "/v1/messages", [HELLO, message(to="x@elsewhere.example")]),
        ("kinds", "/v1/presences", {"to": ALICE, "show": "away"}),
        ("kinds", "/v1/iq", in_xml("<iq type='get'><ping xmlns='urn:xmpp:ping'/></iq>")),
        ("may_send_to", "/v1/messages", {"stanza": "<message to='x@elsewhere.example'><body>x</body></message>"}),
    ],
)
def test_what_a_token_may_not(stage: Stage, why: str, path: str, body: object) -> None:
    """
    What a token may not do is 403, with the name of the setting.
    """
    told = stage.narrow.post(path, body)
    assert told.status == 403, told
    assert why in told.json["detail"]


def test_characters_that_xml_forbids(stage: Stage) -> None:
    """
    In the text of a message they are mended, and the stream lives.
    """
    told = stage.api.post("/v1/messages", b'{"to": "%s", "body": "a\\u0000\\u001b\\ud800\\uffff"}' % ALICE.encode())
    assert told.status == 202
    xml = f"<message to='{ALICE}'><body>\x01</body></message>"
    assert stage.api.post("/v1/messages", xml.encode(), Content_Type=XMPP_XML).status == 202
    assert stage.arrived() == ["a\ufffd\ufffd\ufffd\ufffd", "\ufffd"]


def test_two_bodies_for_one_key(stage: Stage) -> None:
    """
    The same key with another body is 422, and only the first was sent.
    """
    assert stage.api.post("/v1/messages", message(body="first"), Idempotency_Key="k1").status == 202
    told = stage.api.post("/v1/messages", message(body="second"), Idempotency_Key="k1")
    assert told.status == 422 and "Idempotency-Key" in told.json["detail"]
    assert stage.arrived() == ["first"]


def test_one_key_at_the_same_time(stage: Stage) -> None:
    """
    Of many at once with one key one is sent; the others get its answer, or 409.
    """
    told = []

    def post(number: int) -> None:
        told.append(stage.api.post("/v1/messages", message(body="once"), Idempotency_Key="k2"))

    threads = [threading.Thread(target=post, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(told) == 20 and {one.status for one in told} <= {202, 409}
    assert len({one.body for one in told if one.status == 202}) == 1
    assert all(one.headers["retry-after"] for one in told if one.status == 409)
    assert stage.arrived() == ["once"]


def test_ten_mebibytes_in_chunks(stage: Stage) -> None:
    """
    A body whose length nobody said is 413 too.
    """
    with stage.connect() as connection:
        head = f"POST /v1/messages HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {TOKEN}\r\nConnection: close\r\n"
        with suppress(ConnectionError):
            connection.sendall(f"{head}Content-Type: {JSON}\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
            for _ in range(160):
                connection.sendall(b"10000\r\n" + b"x" * 65536 + b"\r\n")
            connection.sendall(b"0\r\n\r\n")
        assert b" 413 " in read_all(connection)


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"POST /v1/messages HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/messages HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"POST /v1/messages HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /v1/messages HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /v1/messages HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(500)) + b"\r\n",
        b"POST /v1/messages HTTP/1.1\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
        b"POST /" + b"y" * 100_000 + b" HTTP/1.1\r\n\r\n",
    ],
    ids=lambda data: data[:60].decode("latin-1").encode("unicode_escape").decode(),
)
def test_no_http(stage: Stage, data: bytes) -> None:
    """
    What is not HTTP, or too much of it, is closed with an error or without a word.
    """
    with stage.connect() as connection:
        with suppress(OSError):
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
        told = read_all(connection)
    assert told == b"" or told.split(b" ", 2)[1][:1] in (b"4", b"5"), told


def test_slow_clients(stage: Stage) -> None:
    """
    Clients that say nothing, or a byte now and then, are closed in time, and nobody is kept out.
    """
    head = f"POST /v1/messages HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: {JSON}\r\n"
    with ExitStack() as stack:
        slow = [stack.enter_context(stage.connect()) for _ in range(30)]
        for connection in slow[:20]:
            connection.sendall(f"{head}Content-Length: 1000\r\n\r\n{{".encode())

        def is_closed() -> bool:
            with suppress(ConnectionError):
                slow[0].sendall(b" ")
                return False
            return True

        stage.api.say(ALICE, "meanwhile")
        eventually(is_closed, "the end of who sends a byte now and then")
        assert all(b" 2" not in read_all(connection)[:15] for connection in slow)
    assert stage.arrived() == ["meanwhile"]


def test_a_thousand_connections(stage: Stage) -> None:
    """
    Of a thousand connections at once those that find a place are served, and the others told to come again, or closed
    where even of these there are too many.
    """
    text = json.dumps(message(body="one of many")).encode()
    head = f"POST /v1/messages HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: {JSON}\r\n"
    request = f"{head}Content-Length: {len(text)}\r\nConnection: close\r\n\r\n".encode() + text

    async def post() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", stage.gateway.port)
        answer = b""
        with suppress(ConnectionError):
            writer.write(request)
            while piece := await reader.read(65536):
                answer += piece
        writer.close()
        return answer

    async def crowd() -> list[bytes]:
        return await asyncio.wait_for(asyncio.gather(*(post() for _ in range(1000))), 60)

    answers = asyncio.run(crowd())
    told = Counter(answer[9:12] for answer in answers)
    assert set(told) <= {b"202", b"503", b""}, told
    assert told[b"202"] >= PLACES, told
    assert all(b"Retry-After: " in answer for answer in answers if answer[9:12] == b"503")
    # A client whose connection was reset before it could read the answer may have been served as well.
    arrived = stage.arrived()
    assert set(arrived) == {"one of many"}
    assert told[b"202"] <= len(arrived) <= told[b"202"] + told[b""]


@contextmanager
def answering(peer: Peer) -> Iterator[None]:
    """Meanwhile every iq that asks gets an empty result: who gets an error is told so by 502, and who waits, by 504."""
    over = threading.Event()

    def answer() -> None:
        while not over.wait(0.005):
            for element in peer.take():
                if element.tag.endswith("}iq") and element.get("type") in ("get", "set"):
                    addresses = {"id": element.get("id"), "from": element.get("to"), "to": element.get("from")}
                    written = " ".join(f"{name}={quoteattr(value or '')}" for name, value in addresses.items())
                    peer.send(f"<iq {written} type='result'/>")

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(PATIENCE)


def test_schemathesis(stage: Stage) -> None:
    """
    No request that schemathesis makes of the description is answered by an internal error, or in a way that the
    description does not have.
    """
    if find_spec("schemathesis") is None:
        unusable("schemathesis is not installed (pip install schemathesis)")
    with tempfile.TemporaryDirectory() as folder, answering(stage.peer):
        command = [
            str(Path(sys.executable).with_name("schemathesis")),
            "run",
            f"http://127.0.0.1:{stage.gateway.port}/v1/openapi.json",
            *("--header", f"Authorization: Bearer {TOKEN}"),
            *("--phases", "examples,coverage,fuzzing"),
            *("--checks", "not_a_server_error,status_code_conformance,content_type_conformance"),
            *("--checks", "response_schema_conformance"),
            *("--max-examples", str(settings().max_examples // 10)),
            *("--seed", "5", "--suppress-health-check", "all", "--no-color"),
        ]
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600, cwd=folder)
    assert ended.returncode == 0, ended.stdout[-8000:] + ended.stderr[-2000:]
    stage.arrived()
