"""
What hostile, broken or careless peers send on either side: the gateway process lives through all of it.

The XMPP side is a scripted server on loopback, the webhook a scripted one; the gateway between them is the real
process. After each test its stream must still be the first one, unless XML that nobody can read ended it.
"""

from __future__ import annotations

import gzip
import itertools
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from xml.etree.ElementTree import Element, tostring
from xml.sax.saxutils import quoteattr

import pytest

from tests.integration.exchange import Exchange
from tests.integration.probe import ScriptedServer, canonical, child, parse, stanza_error
from tests.integration.processes import NO_REPLY, Answer, GatewayProcess, ScriptedWebhook, reply
from tests.integration.waiting import eventually

DOMAIN = "bot.localhost"
ALICE = "alice@localhost/phone"
MAX_STANZA_BYTES = 262144
MAX_BODY_BYTES = 1048576
MAX_PENDING = 64

MESSAGE = f"<message from='{ALICE}' to='bot@{DOMAIN}' type='chat' id='m1'><body>hello</body></message>"
IQ = f"<iq from='{ALICE}' to='bot@{DOMAIN}' type='get' id='i1'><query xmlns='urn:example'/></iq>"


def message(content: str, *, sender: str = ALICE, recipient: str = f"bot@{DOMAIN}", attributes: str = "") -> str:
    """A chat message with raw content."""
    return (
        f"<message from={quoteattr(sender)} to={quoteattr(recipient)} type='chat' id='m1' {attributes}>"
        f"{content}</message>"
    )


class Stage:
    """A gateway that forwards messages and iqs, between a scripted server and a scripted webhook."""

    def __init__(self, stack: ExitStack) -> None:
        self.server = stack.enter_context(ScriptedServer())
        self.webhook = stack.enter_context(ScriptedWebhook())
        self.gateway = stack.enter_context(
            GatewayProcess(
                domain=DOMAIN,
                server=self.server.endpoint,
                secret=self.server.secret,
                post_url=self.webhook.url,
                sections={
                    "component": {"component_post_stanzas": ["message", "iq"]},
                    "webhook": {"timeout": 1.0, "max_connections": 8},
                    "delivery": {"max_pending": MAX_PENDING},
                },
            )
        )
        self.peer = self.server.connected()
        self.exchange = Exchange(self.peer, self.webhook, "fence@localhost/x")

    def play(
        self, stanza: str | bytes, answer: Answer = NO_REPLY, *, requests: int = 1, replies: int = 0, warnings: int = 0
    ) -> tuple[int, list[Element], list[str]]:
        """
        Play one stanza to its end.

        Args:
            stanza, answer, requests, replies: As for `Exchange.play`.
            warnings: How many new lines at warn or worse are waited for; a large answer is read after a small one.

        Returns:
            How many requests it made, what came back, and the log's new lines at warn or worse.
        """
        before = len(self.gateway.warnings())
        made, came = self.exchange.play(stanza, answer, to=DOMAIN, requests=requests, replies=replies)
        eventually(
            lambda: len(self.gateway.warnings()) >= before + warnings,
            "a warning in the log",
            detail=lambda: self.gateway.log()[-2000:],
        )
        if warnings:
            self.exchange.fence(DOMAIN)
            came += [one for one in self.peer.take() if one.get("from") != f"fence@{DOMAIN}"]
        assert not self.peer.gone and self.peer.broken is None
        return len(made), came, self.gateway.warnings()[before:]


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with ExitStack() as stack:
        built = Stage(stack)
        yield built
        built.gateway.stop()


@pytest.fixture(autouse=True)
def nothing_breaks(stage: Stage) -> Iterator[None]:
    """After every test the process is sound, answers on its stream and has sent nothing malformed."""
    yield
    stage.gateway.assert_sound()
    assert not stage.peer.gone and stage.peer.broken is None
    assert stage.peer.ping("localhost", DOMAIN).get("type") == "result"


# ------------------------------------------------------------------------------------- answers that are refused


def nested_json(depth: int) -> str:
    """A reply with an unknown property of nested arrays."""
    return '{"body": "x", "more": ' + "[" * depth + "]" * depth + "}"


def nested_xml(depth: int) -> str:
    """A message with so many elements inside each other."""
    inside = depth - 1
    return "<message>" + "<a xmlns='urn:deep'>" * inside + "</a>" * inside + "</message>"


def bomb() -> str:
    """A message behind a document type with entities that multiply."""
    names = "abcdefghij"
    entities = f'<!ENTITY {names[0]} "lol">'
    for smaller, larger in itertools.pairwise(names):
        entities += f'<!ENTITY {larger} "{f"&{smaller};" * 10}">'
    return f"<!DOCTYPE message [{entities}]><message><body>&{names[-1]};</body></message>"


REFUSED: dict[str, Answer] = {
    "json that ends early": Answer(body='{"body":'),
    "json with something after it": Answer(body='{"body": "x"} trailing'),
    "not a number": Answer(body='{"body": NaN}'),
    "infinity": Answer(body='{"priority": Infinity}'),
    "not utf-8": Answer(body=b'{"body": "\xff\xfe"}'),
    "json nested 65 deep": Answer(body=nested_json(64)),
    "json nested 100000 deep": Answer(body=nested_json(100_000)),
    "a string": reply("hi"),
    "a number": reply(5),
    "a boolean": reply(True),
    "an array with a string": reply(["hi"]),
    "an array in an array": reply([[{"body": "x"}]]),
    "an array with one bad member": reply([{"body": "good"}, {"type": "bogus"}]),
    "a body that is an object": reply(body={}),
    "a body that is an array": reply(body=["x"]),
    "a kind that is a number": reply(kind=5, body="x"),
    "an unknown kind": reply(kind="stream", body="x"),
    "an unknown type": reply(type="bogus", body="x"),
    "a type of another kind": reply(kind="presence", type="chat"),
    "a sender that is no string": reply({"from": 7, "body": "x"}),
    "a foreign sender": reply({"from": "ceo@elsewhere.example", "body": "x"}),
    "a sender in a subdomain": reply({"from": f"x@evil.{DOMAIN}", "body": "x"}),
    "a recipient that is no string": reply(to=["a@b"], body="x"),
    "a recipient that is no address": reply(to="a@b..c", body="x"),
    "an empty recipient": reply(to="", body="x"),
    "a recipient of 4000 bytes": reply(to="a" * 4000 + "@localhost", body="x"),
    "a stanza that is a number": reply(stanza=7),
    "an empty stanza": reply(stanza=""),
    "a stanza that is not well-formed": reply(stanza="<message><body>x</message>"),
    "a stanza that is cut": reply(stanza="<message><body>x"),
    "a stanza that closes the stream": reply(stanza="<message/></stream:stream>"),
    "no stanza but another element": reply(stanza="<foo/>"),
    "a stanza of another protocol": reply(stanza="<message xmlns='urn:other'><body>x</body></message>"),
    "text around a stanza": reply(stanza="hello <message><body>x</body></message>"),
    "an unbound prefix": reply(stanza="<message><x:y/></message>"),
    "a document type": reply(stanza="<!DOCTYPE message><message><body>x</body></message>"),
    "entities that multiply": reply(stanza=bomb()),
    "an unknown entity": reply(stanza="<message><body>&nbsp;</body></message>"),
    "a comment": reply(stanza="<message><!-- x --><body>x</body></message>"),
    "a processing instruction": reply(stanza="<message><?php x ?><body>x</body></message>"),
    "xml nested 65 deep": reply(stanza=nested_xml(65)),
    "xml nested 20000 deep": reply(stanza=nested_xml(20_000)),
    "a stanza over the limit": reply(stanza=f"<message><body>{'x' * MAX_STANZA_BYTES}</body></message>"),
    "a stanza from elsewhere": reply(stanza="<message from='ceo@elsewhere.example'><body>x</body></message>"),
    "a stanza to no address": reply(stanza="<message to='@'><body>x</body></message>"),
    "a second stanza from elsewhere": reply(
        stanza="<message><body>x</body></message><message from='ceo@elsewhere.example'/>"
    ),
    "an answer over the limit": Answer(body='{"body": "x", "more": "' + "y" * MAX_BODY_BYTES + '"}'),
    "a compressed answer": Answer(body=gzip.compress(b'{"body": "x"}'), headers={"Content-Encoding": "gzip"}),
}


@pytest.mark.parametrize("answer", REFUSED.values(), ids=REFUSED.keys())
def test_an_unusable_answer_is_refused_whole(stage: Stage, answer: Answer) -> None:
    """
    A webhook that answers nonsense has said nothing: the person hears nothing, an iq gets internal-server-error, and
    the operator reads one line about it.
    """
    requests, replies, warnings = stage.play(MESSAGE, answer, warnings=1)
    assert (requests, replies) == (1, [])
    assert len(warnings) == 1 and "refused" in warnings[0], warnings
    assert "#error" not in warnings[0] and "elsewhere" not in warnings[0]

    requests, replies, warnings = stage.play(IQ, answer, warnings=1)
    assert requests == 1 and len(warnings) == 1
    (error,) = replies
    assert (error.get("type"), error.get("id"), error.get("to")) == ("error", "i1", ALICE)
    assert stanza_error(error) == ("cancel", "internal-server-error")


def test_a_reply_over_the_limit_is_refused(stage: Stage) -> None:
    """
    A reply whose stanza would be too large for the server is not sent.
    """
    _, replies, warnings = stage.play(MESSAGE, reply(body="x" * MAX_STANZA_BYTES), warnings=1)
    assert replies == [] and len(warnings) == 1


def test_a_second_answer_to_an_iq_is_refused(stage: Stage) -> None:
    """
    A webhook that answers one iq twice has answered it with internal-server-error.
    """
    _, replies, warnings = stage.play(IQ, reply([{"type": "result"}, {"type": "error"}]))
    assert [stanza_error(one) for one in replies] == [("cancel", "internal-server-error")]
    assert len(warnings) == 1


# ------------------------------------------------------------------------- answers that are used for what is good


def test_what_xml_forbids_is_replaced(stage: Stage) -> None:
    """
    Characters that would end the stream leave as U+FFFD, in text and in attributes.
    """
    forbidden = "\x00\x08\x0b\x1f\ud800\ufffe\uffff"
    _, replies, _ = stage.play(MESSAGE, reply(body=f"a{forbidden}b", id=f"c{forbidden}d", thread="\x1b[31m"))
    (answer,) = replies
    body = child(answer, "body")
    assert body is not None and body.text == "a" + "\ufffd" * len(forbidden) + "b"
    assert answer.get("id") == "c" + "\ufffd" * len(forbidden) + "d"


def test_markup_in_a_property_stays_text(stage: Stage) -> None:
    """
    A webhook cannot break out of a property into XML.
    """
    text = "</body></message><presence type='unavailable'/> ]]> &amp; ' \" > </stream:stream>"
    _, replies, _ = stage.play(MESSAGE, reply(body=text, subject=text, thread=text, id=text, lang="x' y='z"))
    (answer,) = replies
    body, subject = child(answer, "body"), child(answer, "subject")
    assert body is not None and subject is not None
    assert (body.text, subject.text, answer.get("id")) == (text, text, text)
    assert answer.get("y") is None


def test_hostile_namespaces_leave_as_they_came(stage: Stage) -> None:
    """
    Namespace names and prefixes of a webhook's stanza are sent so that they mean the same to whoever reads them.
    """
    content = (
        "<a:x xmlns:a=\"urn:'&lt;&amp;&gt;&quot; b\" a:y='1'><a:x xmlns:a='urn:inner' a:y='2'/><stream:features "
        "xmlns:stream='urn:not-the-stream'/><x xmlns=''><body xmlns='jabber:client'/></x></a:x>"
    )
    stanza = f"<message id='n'>{content}</message>"
    _, replies, _ = stage.play(MESSAGE, reply(stanza=stanza))
    (answer,) = replies
    wanted = parse(f"<message id='n' from='bot@{DOMAIN}' to='{ALICE}'>{content}</message>")
    assert canonical(answer) == canonical(wanted)


def test_html_with_status_200_is_no_reply(stage: Stage) -> None:
    """
    A web page instead of JSON, the usual mistake, is no reply, and the operator reads why, once a minute.
    """
    page = Answer(content_type="text/html; charset=utf-8", body="<!DOCTYPE html><html><body>It works!</body></html>")
    said = []
    for _ in range(5):
        requests, replies, warnings = stage.play(MESSAGE, page)
        assert (requests, replies) == (1, [])
        said.extend(warnings)
    (line,) = said
    assert "text/html" in line


# -------------------------------------------------------------------------------- webhooks that break HTTP itself


def one_by_one(stop: threading.Event) -> Iterator[bytes]:
    """A right answer, one byte at a time, slower than anybody wants to wait."""
    body = b'{"body": "too late"}'
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    yield head
    for byte in body:
        if stop.wait(0.3):
            return
        yield bytes([byte])


def silent_until(stop: threading.Event) -> Iterator[bytes]:
    """Nothing at all."""
    stop.wait(30.0)
    yield b""


JSON_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"

BROKEN_HTTP: dict[str, Callable[[threading.Event], Iterator[bytes]]] = {
    "one byte every 0.3 s": one_by_one,
    "nothing": silent_until,
    "endless headers": lambda stop: itertools.chain(
        [b"HTTP/1.1 200 OK\r\n"], (b"X-%d: %s\r\n" % (number, b"y" * 1000) for number in itertools.count())
    ),
    "one endless header": lambda stop: itertools.chain([b"HTTP/1.1 200 OK\r\nX: "], itertools.repeat(b"y" * 65536)),
    "an endless status line": lambda stop: itertools.chain([b"HTTP/1.1 200 "], itertools.repeat(b"y" * 65536)),
    "a body shorter than it said": lambda stop: iter([JSON_HEAD + b'Content-Length: 100\r\n\r\n{"body": "x"}']),
    "a cut chunk": lambda stop: iter([JSON_HEAD + b'Transfer-Encoding: chunked\r\n\r\nd\r\n{"body"']),
    "a chunk that is none": lambda stop: iter([JSON_HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"]),
    "a length that is none": lambda stop: iter([JSON_HEAD + b"Content-Length: ten\r\n\r\n{}"]),
    "two lengths": lambda stop: iter([JSON_HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{} "]),
    "no http": lambda stop: iter([b"SSH-2.0-OpenSSH_9.2p1\r\n"]),
    "a hang-up": lambda stop: iter([]),
}


@pytest.mark.parametrize("behave", BROKEN_HTTP.values(), ids=BROKEN_HTTP.keys())
def test_a_webhook_that_breaks_http_counts_as_unreachable(
    stage: Stage, behave: Callable[[threading.Event], Iterator[bytes]]
) -> None:
    """
    A webhook that stalls, floods or lies about its lengths costs its sender one error that says to try again later.
    """
    stop = threading.Event()
    try:
        requests, replies, warnings = stage.play(MESSAGE, Answer(raw=behave(stop)), replies=1)
    finally:
        stop.set()
    assert requests == 1 and len(warnings) == 1, warnings
    (error,) = replies
    assert (error.get("type"), error.get("id"), stanza_error(error)) == (
        "error",
        "m1",
        ("wait", "remote-server-timeout"),
    )


def test_an_endless_body_is_not_read(stage: Stage) -> None:
    """
    A webhook whose JSON never ends is cut off, and its answer refused.
    """
    endless = itertools.chain([JSON_HEAD + b'\r\n{"body": "'], itertools.repeat(b"y" * 65536))
    _, replies, warnings = stage.play(MESSAGE, Answer(raw=endless), warnings=1)
    assert replies == []
    assert len(warnings) == 1 and "refused" in warnings[0], warnings


def test_100_continue_is_passed_over(stage: Stage) -> None:
    """
    An interim response does not hide the real one.
    """
    body = b'{"body": "pong"}'
    raw = b"HTTP/1.1 100 Continue\r\n\r\n" + JSON_HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
    _, replies, _ = stage.play(MESSAGE, Answer(raw=[raw]))
    (answer,) = replies
    body_element = child(answer, "body")
    assert body_element is not None and body_element.text == "pong"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(stage: Stage, status: int) -> None:
    """
    A webhook cannot send the gateway elsewhere; the sender gets an error and the operator reads that the URL is wrong.
    """
    with ScriptedWebhook() as elsewhere:
        _, replies, warnings = stage.play(MESSAGE, Answer(status=status, headers={"Location": elsewhere.url}))
        assert elsewhere.requests == []
    (error,) = replies
    assert stanza_error(error) == ("cancel", "service-unavailable")
    assert any("URL is wrong" in line for line in warnings), warnings


def test_cookies_are_not_kept(stage: Stage) -> None:
    """
    A webhook's cookie does not come back to it.
    """
    stage.play(MESSAGE, Answer(status=204, content_type=None, headers={"Set-Cookie": "session=1; Path=/"}))
    stage.webhook.take()
    stage.peer.send(MESSAGE)
    (request,) = stage.webhook.wait_for(1)
    assert "cookie" not in request.headers


# ----------------------------------------------------------------------------------------- stanzas that are too much


def oversized(how: str) -> str:
    """A message that is over one limit."""
    return {
        "a long text": lambda: message(f"<body>{'x' * MAX_STANZA_BYTES}</body>"),
        "many newlines": lambda: message("<body>" + "\n" * MAX_STANZA_BYTES + "</body>"),
        "many references": lambda: message("<body>" + "&lt;" * (MAX_STANZA_BYTES // 4) + "</body>"),
        "a long attribute": lambda: message("", attributes=f"x='{'y' * MAX_STANZA_BYTES}'"),
        "a long name": lambda: message(f"<{'n' * MAX_STANZA_BYTES}/>"),
        "many attributes": lambda: message("<x " + " ".join(f"a{n}='1'" for n in range(200)) + "/>"),
        "many namespaces": lambda: message("<x " + " ".join(f"xmlns:p{n}='urn:{n}'" for n in range(200)) + "/>"),
        "many elements": lambda: message("<a/>" * 20_000),
        "deep nesting": lambda: message("<a>" * 65 + "</a>" * 65),
        "very deep nesting": lambda: message("<a>" * 30_000 + "</a>" * 30_000),
        "four mebibytes": lambda: message("<body>" + "<a b='c'>]]&gt;</a>" * 220_000 + "</body>"),
    }[how]()


@pytest.mark.parametrize(
    "how",
    [
        "a long text",
        "many newlines",
        "many references",
        "a long attribute",
        "a long name",
        "many attributes",
        "many namespaces",
        "many elements",
        "deep nesting",
        "very deep nesting",
        "four mebibytes",
    ],
)
def test_an_oversized_stanza_is_refused_and_the_stream_goes_on(stage: Stage, how: str) -> None:
    """
    A stanza over the limits never reaches the webhook; its sender is told policy-violation and the next one is heard.

    The log has a line once a minute, which the first of these tests may have used up.
    """
    requests, replies, warnings = stage.play(oversized(how), requests=0)
    assert requests == 0 and len(warnings) <= 1, warnings
    (error,) = replies
    assert (error.get("type"), error.get("id"), error.get("to")) == ("error", "m1", ALICE)
    assert stanza_error(error) == ("modify", "policy-violation")


def test_an_oversized_iq_is_answered(stage: Stage) -> None:
    """
    A client whose request is too large is told so and does not wait for its timeout.
    """
    iq = f"<iq from='{ALICE}' to='bot@{DOMAIN}' type='set' id='big'><x xmlns='urn:x'>{'y' * MAX_STANZA_BYTES}</x></iq>"
    _, replies, _ = stage.play(iq, requests=0)
    assert [(one.get("id"), stanza_error(one)) for one in replies] == [("big", ("modify", "policy-violation"))]


@pytest.mark.parametrize("kind", ["error", "groupchat", "headline"])
def test_an_oversized_stanza_that_may_not_be_answered_is_not(stage: Stage, kind: str) -> None:
    """
    An error is never answered, and a room or a headline never gets one.
    """
    stanza = oversized("a long text").replace("type='chat'", f"type='{kind}'")
    assert stage.play(stanza, requests=0)[:2] == (0, [])


def test_a_stanza_just_below_the_limit_is_delivered(stage: Stage) -> None:
    """
    A large message that is not too large reaches the webhook whole.
    """
    text = "x" * (MAX_STANZA_BYTES - 300)
    stage.webhook.take()
    stage.peer.send(message(f"<body>{text}</body>"))
    (request,) = stage.webhook.wait_for(1)
    assert request.json["body"] == text


def test_any_cut_into_segments_gives_the_same_stanza(stage: Stage) -> None:
    """
    A stanza is understood the same whether it comes at once or byte by byte, and as soon as its last byte is in.
    """
    stanza = message("<body>h\u00e9 \U0001f600 &amp; <![CDATA[<x>]]></body><x xmlns='urn:a b' y='&#10;'/>").encode()
    for size in (1, 2, 3, 7, 50, len(stanza)):
        stage.webhook.take()
        stage.peer.send_in_pieces(stanza, itertools.repeat(size))
        (request,) = stage.webhook.wait_for(1)
        assert request.json["body"] == "h\u00e9 \U0001f600 & <x>"
        assert canonical(parse(request.json["stanza"])) == canonical(parse(stanza.decode()))


@pytest.mark.parametrize(
    "content",
    [
        "<x xmlns='a b'/>",
        '<x xmlns="urn:\'&lt;&gt;&amp;&quot;"/>',
        "<p:x xmlns:p='urn:1'><p:x xmlns:p='urn:2' p:y='z'/><x xmlns='urn:3'/></p:x>",
        "<stream:error xmlns:stream='urn:mine'/>",
        "<x xmlns='http://etherx.jabber.org/streams'/>",
        "<body xmlns='urn:other'>not mine</body>",
        "<x xmlns='urn:x'><message xmlns='jabber:component:accept'/></x>",
        "<a>" * 63 + "</a>" * 63,
        "<x " + " ".join(f"a{n}='1'" for n in range(100)) + "/>",
    ],
    ids=[
        "space",
        "quotes",
        "shadowed prefix",
        "taken prefix",
        "stream",
        "foreign body",
        "nested",
        "deep",
        "attributes",
    ],
)
def test_odd_but_right_xml_reaches_the_webhook_as_it_is(stage: Stage, content: str) -> None:
    """
    XML that is unusual and within the limits is passed on, and means the same to a reader on its own.
    """
    stanza = message(f"<body>hello</body>{content}")
    stage.webhook.take()
    stage.peer.send(stanza)
    (request,) = stage.webhook.wait_for(1)
    assert canonical(parse(request.json["stanza"])) == canonical(parse(stanza))
    assert request.json["body"] == "hello"
    stage.exchange.fence(DOMAIN)


# ----------------------------------------------------------------------------------------------------- addresses


ADDRESSES = {
    "4000 bytes": "a" * 4000 + "@localhost",
    "4000 bytes of resource": "a@localhost/" + "r" * 4000,
    "4000 bytes of domain": "a." * 2000 + "localhost",
    "an empty label": "a@b..c",
    "nothing": "",
    "only @": "@",
    "only /": "/",
    "no domain": "a@",
    "no local part": "@localhost",
    "no resource": "a@localhost/",
    "a space": "a b@localhost",
    "a control character": "a\x7f@localhost",
    "both directions": "\u0627a@localhost",
    "two @": "a@b@c",
}


@pytest.mark.parametrize("address", ADDRESSES.values(), ids=ADDRESSES.keys())
@pytest.mark.parametrize("place", ["sender", "recipient"])
@pytest.mark.parametrize("kind", ["message", "presence", "iq"])
def test_a_malformed_address_is_ignored(stage: Stage, kind: str, place: str, address: str) -> None:
    """
    A stanza from or to what is no address goes nowhere, whatever its kind, and the stream goes on.
    """
    sender, recipient = (address, f"bot@{DOMAIN}") if place == "sender" else (ALICE, address)
    type_ = {"message": "chat", "presence": "subscribe", "iq": "get"}[kind]
    content = {"message": "<body>hello</body>", "presence": "", "iq": "<ping xmlns='urn:xmpp:ping'/>"}[kind]
    stanza = f"<{kind} from={quoteattr(sender)} to={quoteattr(recipient)} type='{type_}' id='m1'>{content}</{kind}>"
    requests, replies, warnings = stage.play(stanza, requests=0)
    assert requests == 0, stage.webhook.requests
    assert [one for one in replies if one.get("type") != "error"] == [], [tostring(one) for one in replies]
    assert len(warnings) <= 1, warnings
    assert "a" * 1000 not in stage.gateway.log()


@pytest.mark.parametrize(
    "stanza",
    [
        "<message id='m1'><body>x</body></message>",
        f"<message from='{ALICE}'><body>x</body></message>",
        f"<message to='bot@{DOMAIN}'><body>x</body></message>",
        f"<message from='{ALICE}' to='bot@elsewhere.example'><body>x</body></message>",
        f"<presence from='{ALICE}' to='bot@elsewhere.example' type='subscribe'/>",
        f"<iq from='{ALICE}' to='bot@elsewhere.example' type='get' id='1'><ping xmlns='urn:xmpp:ping'/></iq>",
        f"<iq from='{ALICE}' to='bot@{DOMAIN}' type='get'><query xmlns='urn:example'/></iq>",
        f"<iq from='{ALICE}' to='bot@{DOMAIN}' id='1'><query xmlns='urn:example'/></iq>",
        f"<iq from='{ALICE}' to='bot@{DOMAIN}' id='1' type='bogus'/>",
        f"<iq from='{ALICE}' to='bot@{DOMAIN}' id='unasked' type='result'/>",
        "<unknown xmlns='urn:unknown'/>",
        "<message xmlns='urn:unknown'><body>x</body></message>",
        f"<handshake xmlns='urn:other'/><presence from='{ALICE}' to='bot@{DOMAIN}' type='bogus'/>",
    ],
    ids=[
        "no addresses",
        "no recipient",
        "no sender",
        "message to somebody else",
        "presence to somebody else",
        "iq to somebody else",
        "iq without id",
        "iq without type",
        "iq of unknown type",
        "result that nobody waits for",
        "unknown element",
        "message of another protocol",
        "unknown presence",
    ],
)
def test_an_incomplete_stanza_does_no_harm(stage: Stage, stanza: str) -> None:
    """
    A stanza that lacks what every stanza needs, or is none, neither ends the stream nor is answered wrongly.
    """
    _, replies, warnings = stage.play(stanza, requests=0)
    assert all(one.get("type") == "error" for one in replies), [tostring(one) for one in replies]
    assert len(warnings) <= 2


# -------------------------------------------------------------------------------- XML that nobody can read further


UNREADABLE: dict[str, bytes] = {
    "a document type": b"<!DOCTYPE message [<!ENTITY x 'y'>]>",
    "an unknown entity": message("<body>&x;</body>").encode(),
    "a processing instruction": message("<?php x ?>").encode(),
    "tags that do not match": message("<body></message>").encode(),
    "a control character": message("<body>\x01</body>").encode(),
    "a null": message("<body>\x00</body>").encode(),
    "what is not utf-8": message("<body>?</body>").encode().replace(b"?", b"\xff\xfe"),
    "an unbound prefix": message("<x:y/>").encode(),
    "two attributes of one name": message("<x y='1' y='2'/>").encode(),
    "rubbish": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "a second stream": b"<?xml version='1.0'?><stream:stream xmlns:stream='http://etherx.jabber.org/streams'>",
}


@pytest.mark.parametrize("data", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_unreadable_xml_never_reaches_the_webhook(data: bytes) -> None:
    """
    Nothing of XML that cannot be read is delivered, and the process comes back from it.
    """
    with ExitStack() as stack:
        server = stack.enter_context(ScriptedServer())
        webhook = stack.enter_context(ScriptedWebhook())
        gateway = stack.enter_context(
            GatewayProcess(domain=DOMAIN, server=server.endpoint, secret=server.secret, post_url=webhook.url)
        )
        peer = server.connected()
        peer.send(data)
        # Either the stream has ended, or what was sent did no harm to it.
        with suppress(OSError):
            peer.send(MESSAGE.replace("hello", "after"))
        eventually(lambda: peer.gone or webhook.requests, "an end of the stream or a delivery")
        if peer.gone:
            peer = server.connected(60.0)
            peer.send(MESSAGE.replace("hello", "after"))
        assert [one.json["body"] for one in webhook.wait_for(1)] == ["after"]
        gateway.stop()


# ------------------------------------------------------------------------------------------------------- memory


def stranger(number: int) -> str:
    """An address nobody had before, longer than most."""
    return f"user{number}-{'x' * 100}@localhost/phone{number}"


def test_memory_stays_flat_through_a_flood_of_messages(stage: Stage) -> None:
    """
    Many messages, each from somebody else and with names nobody used before, leave the process as large as it was.
    """

    def flood(first: int, count: int) -> None:
        stage.webhook.take()
        for number in range(first, first + count):
            content = f"<body>{number}</body><n{number} xmlns='urn:{number}' a{number}=''/>"
            stage.peer.send(message(content, sender=stranger(number)))
            if number % 50 == 49:  # stay below what the gateway holds
                stage.webhook.wait_for(number - first + 1)
        stage.exchange.fence(DOMAIN)
        stage.peer.take()

    flood(0, 500)
    before = stage.gateway.resident_kib()
    flood(500, 4000)
    grown = stage.gateway.resident_kib() - before
    assert grown < 16 * 1024, f"{grown} KiB more"


def test_memory_stays_flat_through_a_flood_of_presence(stage: Stage) -> None:
    """
    Thousands of strangers who ask whether the bot is there leave nothing behind, nor do the bots they made up.
    """

    def flood(first: int, count: int) -> None:
        for number in range(first, first + count):
            name = f"made-up-{number}-{'y' * 100}"
            stage.peer.send(f"<presence from='{stranger(number)}' to='{name}@{DOMAIN}' type='probe'/>")
            if number % 500 == 499:
                stage.peer.wait(lambda: len(stage.peer.elements) >= 500, "500 answers")
                stage.peer.take()

    flood(0, 1000)
    before = stage.gateway.resident_kib()
    flood(1000, 6000)
    grown = stage.gateway.resident_kib() - before
    assert grown < 16 * 1024, f"{grown} KiB more"


def test_memory_stays_flat_through_oversized_stanzas(stage: Stage) -> None:
    """
    Sixty megabytes of stanzas that are too large leave nothing behind.
    """
    stanza = oversized("four mebibytes").encode()
    for _ in range(5):
        stage.play(stanza, requests=0)
    before = stage.gateway.resident_kib()
    for _ in range(10):
        stage.play(stanza, requests=0)
    grown = stage.gateway.resident_kib() - before
    # What was built of one up to its limit is 5 MiB, and waits for the garbage collector.
    assert grown < 32 * 1024, f"{grown} KiB more after ten stanzas of 4 MiB"


def test_a_webhook_that_hangs_costs_a_bounded_number_of_deliveries(stage: Stage) -> None:
    """
    While the webhook hangs a crowd of messages is held up to the limit and refused with a wait error above it;
    every one of them is answered in the end and none is held for ever.
    """
    release = threading.Event()
    stage.webhook.take()
    stage.peer.take()

    def hang(request: object) -> Answer:
        release.wait(90.0)
        return NO_REPLY

    scripted, stage.webhook.answer = stage.webhook.answer, hang
    count = 250
    try:
        for number in range(count):
            stanza = message(f"<body>{number}</body>", sender=f"user{number}@localhost/x")
            stage.peer.send(stanza.replace("id='m1'", f"id='crowd-{number}'"))
        # The timeout of 1 s ends what the webhook holds, eight at a time.
        stage.peer.wait(
            lambda: sum(str(one.get("id")).startswith("crowd-") for one in stage.peer.elements) >= count,
            "an answer to everybody",
            90.0,
        )
    finally:
        release.set()
        stage.webhook.answer = scripted
    answers = [one for one in stage.peer.take() if str(one.get("id")).startswith("crowd-")]
    assert len({one.get("id") for one in answers}) == count
    outcomes = {stanza_error(one) for one in answers}
    assert outcomes <= {("wait", "resource-constraint"), ("wait", "remote-server-timeout")}
    refused = sum(stanza_error(one) == ("wait", "resource-constraint") for one in answers)
    # How many are refused depends on how often reading paused instead.
    assert 0 < refused < count


def test_nothing_private_is_in_the_log(stage: Stage) -> None:
    """
    After all of this the log holds no secret and no body of anybody.
    """
    stage.play(message("<body>a very private sentence</body>"), reply(body="a very private answer"))
    stage.play(message("<body>a very private sentence</body>"), reply(body="a very private answer", type="bogus"))
    for text in ("a very private", stage.server.secret):
        assert text not in stage.gateway.log()


def test_the_json_is_what_the_standard_calls_json(stage: Stage) -> None:
    """
    Whatever is in a stanza, its request is plain UTF-8 JSON.
    """
    stage.webhook.take()
    stage.peer.send(message('<body>\u2028 \x7f \ufffd \U0010fffd &#9;&#13; " \\ </body>'))
    (request,) = stage.webhook.wait_for(1)
    assert json.loads(request.body.decode("utf-8"))["body"] == '\u2028 \x7f \ufffd \U0010fffd \t\r " \\ '
    assert request.headers["content-type"].partition(";")[0] == "application/json"
