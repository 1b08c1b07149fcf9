"""
Talk to a bot from the terminal, and see what goes back and forth: a real gateway between a server in a box and the bot.

`component-http playground` ends here. Nothing of it runs in production.
"""

from __future__ import annotations

import json
import os
import select
import sys
from argparse import Namespace
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import suppress
from http import HTTPStatus
from io import StringIO
from threading import Thread
from typing import Any, TextIO

from attrs import evolve
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionLost
from twisted.logger import LogEvent, LogLevel, formatEvent, globalLogBeginner, globalLogPublisher
from twisted.python.failure import Failure
from twisted.words.xish.domish import Element

from component_http.clock import use_steady_clock
from component_http.contract.address import Address, NotAnAddress
from component_http.contract.reply import Response
from component_http.contract.request import request_properties
from component_http.contract.stanza import STANZA_KINDS, Stanza
from component_http.contract.xml import NS_COMPONENT, Limits, parse_stanzas, serialize
from component_http.errors import (
    CertificateInvalid,
    ConnectionCut,
    ConnectionFailed,
    MalformedStanza,
    SettingsError,
    TimedOut,
    WebhookError,
    XmlRefused,
)
from component_http.gateway import Gateway
from component_http.interfaces import Webhook
from component_http.operations.terminal import printable
from component_http.settings import SECRET_VARIABLE, DeliverySettings, Settings, SpoolSettings
from component_http.settings.values import displayed_url
from component_http.testing import ComponentServer
from component_http.webhook.client import WebhookClient

__all__ = ["Lines", "NarratedWebhook", "Playground", "Screen", "in_words", "main", "play", "printable"]

INTERRUPTED = 130
"""Exit status: Ctrl-C while there were lines left to send (128 and the number of SIGINT)."""

MAX_LINE_BYTES = 100_000
"""A longer line of input counts as several; it leaves room for escaping within the largest stanza."""

MAX_SHOWN = 8_000
"""Characters that are shown of one request, response or reply: some screens full."""

MAX_INDENTED = 100_000
"""Characters of JSON over several lines; what would be more, such as a list in thousands of lists, stays as it came."""

FAILURES = (
    "body_ignored",
    "bounced",
    "foreign",
    "malformed",
    "not_forwarded",
    "outgoing_full",
    "oversized",
    "refused_full",
    "refused_reply",
    "refused_stopping",
    "reply_lost",
    "unanswered",
    "unsendable",
)
"""What the gateway counts when a stanza did not reach the bot, or the bot's reply not the user."""

UNREMARKABLE = ("webhook-timestamp", "webhook-attempt")
"""Headers of a POST that are not shown: they are there for signatures and retries."""

HELP = """\
  hello            send the line as a message (//hello sends /hello)
  /to ADDRESS      talk to another address of your bot: /to weather
  /subscribe       add the bot to your contacts
  /ping            ping the bot; the gateway answers that itself
  /iq XML          ask the bot: send XML in an iq of type get
  /raw XML         send a stanza as it is; to, from and id are filled in
  /xml             show the XML of every stanza, or stop showing it
  /quit            leave (so does Ctrl-D)"""

PROMPT = "you> "

USER = Address("you", "localhost", "playground")
"""Whoever sits at the terminal."""


# What is shown, and how.


def _pretty(body: bytes) -> str:
    """A body for reading: JSON over several lines, anything else as it is."""
    text = body.decode("utf-8-sig", "replace")
    indented = StringIO()
    with suppress(ValueError, RecursionError):
        for part in json.JSONEncoder(indent=2, ensure_ascii=False).iterencode(json.loads(text)):
            if indented.tell() + len(part) > MAX_INDENTED:
                return text
            indented.write(part)
        return indented.getvalue()
    return text


class Screen:
    """
    The terminal, or the file or pipe in its place.

    Args:
        out: Where to; that nobody reads it any more is no error.
        colour: Whether it understands colours.
    """

    STYLES: Mapping[str, str] = {"plain": "", "bot": "1;32", "quiet": "2", "bad": "31", "warning": "33", "bold": "1"}

    def __init__(self, out: TextIO, *, colour: bool = False) -> None:
        self._out = out
        self._colour = colour

    def show(self, text: str = "", style: str = "plain", *, first: str = "") -> None:
        """
        Show some text, which may be anything.

        Args:
            text: One or several lines; what is too long is cut.
            style: One of `STYLES`.
            first: Stands before the first line, and may be anything too; the others are indented as far.
        """
        first = printable(first)
        if len(text) > MAX_SHOWN:
            text = f"{text[:MAX_SHOWN]}\n... and {len(text) - MAX_SHOWN} more characters"
        lines = printable(text).rstrip("\n").split("\n")
        for number, line in enumerate(lines):
            whole = ((first if number == 0 else " " * len(first)) + line).rstrip()
            self._write(self._styled(whole, style) + "\n")

    def prompt(self) -> None:
        """Ask for the next line."""
        self._write(self._styled(PROMPT, "bold"))

    def _styled(self, text: str, style: str) -> str:
        code = self.STYLES[style]
        return f"\x1b[{code}m{text}\x1b[0m" if self._colour and code and text else text

    def _write(self, text: str) -> None:
        try:
            self._out.write(text)
            self._out.flush()
        except OSError:
            # Python would complain again when it flushes at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._out.fileno())


def in_words(stanza: Stanza, user: Address = USER) -> tuple[str, str, str]:
    """
    What a person sees of a stanza in a chat client.

    Args:
        stanza: As it arrived.
        user: Who looks.

    Returns:
        What to show, for `Screen.show`: text, style, first.
    """
    facts = request_properties(stanza)
    sender = str(stanza.sender.bare)
    to = "" if stanza.recipient.bare == user.bare else f" (to {stanza.recipient})"
    if stanza.type == "error":
        whose = "You would see an error" if not to else f"{stanza.recipient} would get an error"
        return f"{whose}: {_error_in_words(facts)}", "bad", ""
    if stanza.kind == "message":
        return _message_in_words(facts), "bot", f"{sender}{to}> "
    if stanza.kind == "presence":
        return f"{sender}{to} {_presence_in_words(stanza, facts)}", "bot", ""
    content = "\n".join(serialize(child) for child in stanza.element.elements())
    if stanza.type == "result":
        return content or "(an empty result)", "bot", f"{sender}{to} answers: "
    return content, "bot", f"{sender}{to} asks you: "


def _error_in_words(facts: Mapping[str, object]) -> str:
    error = facts.get("error")
    if not isinstance(error, dict):
        return "of no known kind"
    return " - ".join(error[name] for name in ("condition", "text") if error.get(name))


def _message_in_words(facts: Mapping[str, object]) -> str:
    parts = []
    if facts.get("type") not in ("chat", "normal", None):
        parts.append(f"({facts['type']})")
    if "replace" in facts:
        parts.append("(instead of an earlier message)")
    if "subject" in facts:
        parts.append(f"[{facts['subject']}]")
    if "body" in facts:
        parts.append(str(facts["body"]))
    elif "state" in facts:
        parts.append(f"({facts['state']})")
    if "oob_url" in facts and facts["oob_url"] != facts.get("body"):
        parts.append(f"(attached: {facts['oob_url']})")
    return " ".join(parts) or "(a message without a text; /xml shows it)"


def _presence_in_words(stanza: Stanza, facts: Mapping[str, object]) -> str:
    words = {
        "": "is online",
        "unavailable": "is offline",
        "subscribed": "is in your contacts now",
        "unsubscribed": "has left your contacts",
        "subscribe": "wants to see when you are online",
        "unsubscribe": "does not want to see any more when you are online",
        "probe": "asks whether you are online",
    }
    more = ", ".join(str(facts[name]) for name in ("show", "status") if facts.get(name))
    return words.get(stanza.type, f"({stanza.type})") + (f": {more}" if more else "")


def _advice(last: Response | WebhookError | None, url: str) -> str | None:
    """What to look at after a POST that failed."""
    match last:
        case ConnectionFailed():
            return f"Is your bot running at {url}?"
        case CertificateInvalid():
            return f"The certificate at {url} has to be mended, or made known to this machine."
        case TimedOut():
            return "Your bot has to answer sooner."
        case ConnectionCut():
            return "Your bot closed the connection before its answer was complete, or does not speak HTTP."
        case Response(status=401 | 403 | 407):
            return "Your bot wants to be shown who asks."
        case Response(status=404):
            return f"Your bot is there, but has nothing at {url}"
        case Response(status=405 | 501):
            return f"Your bot has to take a POST at {url}"
        case Response(status=status) if 300 <= status < 400:
            return "The gateway follows no redirect: give the URL that your bot redirects to."
        case Response(status=status) if status >= 500:
            return "Something went wrong inside your bot; its own output should say what."
    return None


class NarratedWebhook:
    """
    A `Webhook` that shows each POST, and what came back.

    Args:
        webhook: Makes the POSTs.
        url: How it is called, without credentials.
        screen: Where to.
        clock: The reactor; it tells how long an answer took.

    Attributes:
        under_way: POSTs without an answer yet.
        last: How the latest POST ended; None before the first.
    """

    def __init__(self, webhook: Webhook, url: str, screen: Screen, clock: Any) -> None:
        self._webhook = webhook
        self._url = url
        self._screen = screen
        self._clock = clock
        self._waiting: list[Deferred[None]] = []
        self.under_way = 0
        self.last: Response | WebhookError | None = None

    async def one_ended(self) -> None:
        """Wait until one of those under way has ended."""
        ended: Deferred[None] = Deferred()
        self._waiting.append(ended)
        await ended

    async def post(self, body: bytes, headers: Mapping[str, str], *, fresh: bool = False) -> Response:
        """See `component_http.interfaces.Webhook.post`."""
        lines = [f"POST {self._url}", "Content-Type: application/json"]
        lines += [f"{name}: {value}" for name, value in headers.items() if name not in UNREMARKABLE]
        self._screen.show("\n".join([*lines, _pretty(body)]), "quiet", first="  --> ")
        self.under_way += 1
        started = self._clock.seconds()
        try:
            response = await self._webhook.post(body, headers, fresh=fresh)
        except WebhookError as error:
            self._ended(error, started, f"no answer: {error}")
            raise
        except CancelledError:
            self.under_way -= 1
            raise
        self._ended(response, started, _status_line(response))
        return response

    def _ended(self, how: Response | WebhookError, started: float, words: str) -> None:
        milliseconds = (self._clock.seconds() - started) * 1000
        lines = [f"{words} (after {milliseconds:.0f} ms)"]
        if isinstance(how, Response):
            lines += [
                f"{name.title()}: {how.headers[name]}" for name in ("location", "content-type") if name in how.headers
            ]
            lines.append("(the body is larger than the gateway reads)" if how.body is None else _pretty(how.body))
        self._screen.show("\n".join(lines), "quiet", first="  <-- ")
        self.last = how
        self.under_way -= 1
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            deferred.callback(None)


def _status_line(response: Response) -> str:
    try:
        return f"{response.status} {HTTPStatus(response.status).phrase}"
    except ValueError:
        return str(response.status)


# What the user types.


class Lines:
    """
    Lines of input, one at a time: from a terminal, a pipe, a file or nothing.

    A thread reads, and only when a line is asked for: Twisted's own `StandardIO` cannot watch a regular file.

    Args:
        descriptor: The file descriptor to read from.
        reactor: Whose thread gets the lines.
    """

    def __init__(self, descriptor: int, reactor: Any) -> None:
        self._descriptor = descriptor
        self._reactor = reactor
        self._buffer = bytearray()
        self._ended = False

    async def next(self) -> str | None:
        """The next line, without its end; None when there is no more."""
        while not self._ended and b"\n" not in self._buffer and len(self._buffer) < MAX_LINE_BYTES:
            data = await self._read()
            self._buffer += data
            self._ended = not data
        if not self._buffer:
            return None
        end = self._buffer.find(b"\n", 0, MAX_LINE_BYTES)
        size = end + 1 if end >= 0 else min(len(self._buffer), MAX_LINE_BYTES)
        line = self._buffer[:size].decode("utf-8", "replace")
        del self._buffer[:size]
        return line.removesuffix("\n").removesuffix("\r")

    def _read(self) -> Deferred[bytes]:
        arrived: Deferred[bytes] = Deferred()

        def read() -> None:
            data = _read_some(self._descriptor)
            self._reactor.callFromThread(arrived.callback, data)

        # A daemon, for it may wait for the user when everybody else has left.
        Thread(target=read, daemon=True).start()
        return arrived


def _read_some(descriptor: int) -> bytes:
    try:
        try:
            return os.read(descriptor, 65536)
        except BlockingIOError:
            # Another program that has the same terminal has made it so.
            select.select([descriptor], [], [])
            return os.read(descriptor, 65536)
    except OSError:
        return b""


class Playground:
    """
    A user, a server, a gateway and the way to the bot.

    Args:
        reactor: Runs it all.
        screen: Shows what happens.
        post_url: The bot's URL.
        domain: The component's domain; the bot is `bot@` it.
        stanzas: The kinds of stanza that are POSTed; None for the gateway's default.
        webhook: Takes the POSTs instead of `post_url`.

    Attributes:
        recipient: Whom the user writes to.
        url: The bot's URL as it may be shown.
    """

    def __init__(
        self,
        reactor: Any,
        screen: Screen,
        post_url: str,
        *,
        domain: str = "bot.localhost",
        stanzas: Iterable[str] | None = None,
        webhook: Webhook | None = None,
    ) -> None:
        """
        Open nothing yet.

        Raises:
            SettingsError: With these arguments there can be no gateway.
        """
        self._reactor = reactor
        self._screen = screen
        flags = {"post-url": post_url, "domain": domain}
        if stanzas is not None:
            flags["stanzas"] = ",".join(stanzas)
        # The server's address and secret are not known before it listens; these only pass the check of the rest.
        self._settings = Settings.from_flags(flags, env={SECRET_VARIABLE: "unused"})
        self._domain = self._settings.component.domain
        self.url = displayed_url(post_url)
        self._client = None if webhook is not None else _client(post_url, reactor)
        self._webhook = NarratedWebhook(webhook or self._client, self.url, screen, reactor)  # type: ignore[arg-type]
        self._server = ComponentServer(self._domain, reactor, self._arrived)
        self._gateway: Gateway | None = None
        self._leaving = False
        self._log_observer: Any = self._logged
        self._show_xml = False
        self._sent = 0
        self._arrivals = 0
        self._note: str | None = None
        self.recipient = Address("bot", self._domain, None)
        self._commands: Mapping[str, Callable[[str], Awaitable[bool]]] = {
            "help": self._help,
            "iq": self._iq,
            "ping": self._ping,
            "raw": self._raw,
            "subscribe": self._subscribe,
            "to": self._to,
            "xml": self._xml,
        }

    async def start(self) -> None:
        """Start the server, connect the gateway to it, and show what it logs from `warn` on."""
        globalLogPublisher.addObserver(self._log_observer)
        port = self._server.listen()
        component = evolve(self._settings.component, server=f"tcp:127.0.0.1:{port}", secret=self._server.secret)
        # Who leaves does not want to wait for a slow bot.
        delivery = DeliverySettings(max_attempts=1, drain_timeout=0)
        settings = evolve(self._settings, component=component, delivery=delivery, spool=SpoolSettings(kind="memory"))
        self._gateway = Gateway(settings, self._reactor, webhook=self._webhook)
        self._gateway.startService()
        await self._server.connected()

    async def stop(self) -> None:
        """Close everything; POSTs under way are given up."""
        self._leaving = True
        globalLogPublisher.removeObserver(self._log_observer)
        if self._gateway is not None:
            await self._gateway.stopService()
        if self._client is not None:
            await self._client.close()
        await self._server.close()

    async def take(self, line: str) -> bool:
        """
        Do what the user typed, and wait until all that follows from it is over and shown.

        Returns:
            Whether it went well: what was sent has reached the bot and what it answered could be used.
        """
        if line.startswith("//"):
            line = line[1:]
        elif line.startswith("/"):
            name, _, rest = line[1:].partition(" ")
            if name not in self._commands:
                return self._complain(f"There is no /{name}. See /help, or type //{name} to send it as a message.")
            return await self._commands[name](rest.strip())
        message = self._stanza("message", type="chat")
        message.addElement((NS_COMPONENT, "body"), content=line)
        return await self._send([message])

    # -- commands: each says whether it went well --

    async def _help(self, rest: str) -> bool:
        self._screen.show(HELP)
        return True

    async def _to(self, rest: str) -> bool:
        for text in (rest, f"{rest}@{self._domain}"):
            try:
                address = Address.parse(text)
            except NotAnAddress:
                continue
            if address.domain == self._domain:
                self.recipient = address
                self._screen.show(f"You write to {self.recipient} now.")
                return True
        if not rest:
            self._screen.show(f"You write to {self.recipient}.")
            return True
        return self._complain(f"That is no address in {self._domain}, and others do not reach your bot.")

    async def _xml(self, rest: str) -> bool:
        self._show_xml = not self._show_xml
        self._screen.show(f"XML is {'shown' if self._show_xml else 'not shown'} from now on.")
        return True

    async def _subscribe(self, rest: str) -> bool:
        presence = self._stanza("presence", type="subscribe")
        # A subscription is between bare addresses (RFC 6121 section 3.1.1).
        presence["from"] = str(USER.bare)
        presence["to"] = str(self.recipient.bare)
        return await self._send([presence])

    async def _ping(self, rest: str) -> bool:
        return await self._iq("<ping xmlns='urn:xmpp:ping'/>")

    async def _iq(self, rest: str) -> bool:
        if not rest:
            return self._complain("Say what to ask: /iq <query xmlns='jabber:iq:version'/>")
        return await self._raw(f"<iq type='get'>{rest}</iq>")

    async def _raw(self, rest: str) -> bool:
        if not rest:
            return self._complain("Say what to send: /raw <message><body>hello</body></message>")
        try:
            elements = parse_stanzas(rest, Limits())
        except XmlRefused as error:
            return self._complain(f"That XML cannot be sent: {error}")
        for element in elements:
            if element.name not in STANZA_KINDS:
                return self._complain(f"<{element.name}/> is no stanza: those are {', '.join(STANZA_KINDS)}.")
            for name, value in self._stanza(element.name).attributes.items():
                if not element.hasAttribute(name):
                    element[name] = value
        return await self._send(elements)

    # -- the rest --

    def _complain(self, sentence: str) -> bool:
        self._screen.show(sentence, "bad")
        return False

    def _stanza(self, kind: str, **attributes: str) -> Element:
        self._sent += 1
        stanza = Element((NS_COMPONENT, kind))
        stanza.attributes.update(attributes, to=str(self.recipient), id=f"playground-{self._sent}")
        stanza["from"] = str(USER)
        return stanza

    async def _send(self, elements: list[Element]) -> bool:
        assert self._gateway is not None
        before, arrivals, self._note = self._gateway.counters.copy(), self._arrivals, None
        try:
            for element in elements:
                self._show_raw(element)
                self._server.send(element)
            await self._server.round_trip()
            while self._webhook.under_way:
                await self._webhook.one_ended()
            # A POST may have ended during the first round trip: its reply is in for certain after another.
            await self._server.round_trip()
        except ConnectionLost:
            self._screen.show("The gateway lost its stream to the playground; it connects again.", "bad")
            await self._server.connected()
            return False
        new = self._gateway.counters - before
        self._conclude(new, self._arrivals > arrivals, {element.name for element in elements})
        return not any(new[event] for event in FAILURES)

    def _conclude(self, new: Mapping[str, int], answered: bool, kinds: set[str]) -> None:
        """
        Say what the stanzas that came back do not say.

        Args:
            new: What the gateway counted since the user's line.
            answered: Some stanza came back.
            kinds: Of the stanzas sent.
        """
        if new.get("refused_reply"):
            self._screen.show(f"Your bot's answer was refused, nothing of it is sent: {self._note}", "bad")
        elif new.get("bounced"):
            if not answered:
                self._screen.show("Nobody is told, for such a stanza is never answered with an error.", "bad")
            advice = _advice(self._webhook.last, self.url)
            if advice:
                self._screen.show(advice, "bad")
        elif new.get("not_forwarded"):
            wanted = ",".join(kind for kind in STANZA_KINDS if kind in {"message", *kinds})
            self._screen.show(f"Your bot was not asked: for that, start the playground with --stanzas {wanted}", "bad")
        elif new.get("body_ignored"):
            self._screen.show("No reply, for only a body of Content-Type application/json is read as one.", "warning")
        elif new.get("silent"):
            self._screen.show(f"({self.recipient} has nothing to say)")
        elif not answered:
            self._screen.show("(nothing comes back, and your bot was not asked)")

    def _arrived(self, element: Element) -> None:
        if self._leaving:
            return
        self._arrivals += 1
        try:
            text, style, first = in_words(Stanza.from_element(element))
        except MalformedStanza as error:
            text, style, first = f"Something arrived that no client can use: {error}", "bad", ""
        self._screen.show(text, style, first=first)
        self._show_raw(element)

    def _logged(self, event: LogEvent) -> None:
        """Show a log event, if it is one for the user."""
        level = event.get("log_level", LogLevel.info)
        if level < LogLevel.warn:
            return
        if "note" in event:
            # How a delivery ended; that is told where the user sees what came of it.
            self._note = event["note"]
            return
        text = formatEvent(event).removeprefix(f"{event.get('id')}: ")
        if "log_failure" in event:
            text += f" ({event['log_failure'].getErrorMessage()})"
        self._screen.show(text.replace("\n", " "), "warning", first=f"{level.name}: ")

    def _show_raw(self, element: Element) -> None:
        if self._show_xml:
            self._screen.show(serialize(element), "quiet", first="  xml ")


def _client(post_url: str, reactor: Any) -> WebhookClient:
    try:
        return WebhookClient(post_url, reactor=reactor)
    except ValueError as error:
        raise SettingsError(f"--post-url cannot be used: {error}") from error


# From the command line to the end.


async def _converse(playground: Playground, screen: Screen, lines: Lines, canned: Iterable[str], typed: bool) -> bool:
    """
    Take lines until there are no more.

    Args:
        playground: Started and stopped here.
        screen: Where to prompt.
        lines: The user's.
        canned: Taken before those of the user.
        typed: The user sits at a terminal, which shows what is typed.

    Returns:
        Whether all of them went well.
    """
    well = True
    try:
        await playground.start()
        for line in canned:
            screen.show(f"{PROMPT}{line}", "bold")
            well &= await playground.take(line)
            screen.show()
        while True:
            if typed:
                screen.prompt()
            line_or_none = await lines.next()
            if line_or_none is None:
                if typed:
                    screen.show()
                break
            line = line_or_none.strip()
            if not line:
                continue
            if not typed:
                screen.show(f"{PROMPT}{line}", "bold")
            if line == "/quit":
                break
            well &= await playground.take(line)
            screen.show()
    finally:
        await playground.stop()
    return well


def _run(session: Coroutine[Any, Any, bool], reactor: Any) -> bool | Failure:
    """
    Run the reactor until a coroutine has ended; SIGINT and SIGTERM cancel it and wait for its end.

    Returns:
        Its result, or a failure with `CancelledError` in it or whatever it raised.
    """
    results: list[bool | Failure] = []
    ended: Deferred[None] = Deferred()
    running: Deferred[bool]

    def over(result: bool | Failure) -> None:
        results.append(result)
        ended.callback(None)
        if not stopping:
            reactor.stop()

    stopping = False

    def interrupted() -> Deferred[None]:
        nonlocal stopping
        stopping = True
        if not results:
            running.cancel()
        return ended

    def start() -> None:
        nonlocal running
        reactor.addSystemEventTrigger("before", "shutdown", interrupted)
        running = Deferred.fromCoroutine(session)
        running.addBoth(over)

    reactor.callWhenRunning(start)
    reactor.run()
    return results[0]


def play(
    post_url: str,
    *,
    domain: str = "bot.localhost",
    stanzas: Iterable[str] | None = None,
    canned: Iterable[str] = (),
    about: str = "",
) -> int:
    """
    Let the user of this terminal talk to a bot; it installs and runs the reactor.

    Args:
        post_url: The bot's URL.
        domain: The component's domain.
        stanzas: The kinds of stanza that are POSTed; None for the gateway's default.
        canned: What the user says before typing anything.
        about: What to say about the bot before anything else.

    Returns:
        The exit status: 0 when every line went well or the user typed them, 1 if one did not, 78 if the arguments
        cannot be used, 130 if the lines were not the user's typing and were interrupted.
    """
    from twisted.internet import reactor

    use_steady_clock(reactor)
    out = sys.stdout or open(os.devnull, "w")  # noqa: SIM115  (a terminal that was closed)
    typed = sys.stdin is not None and sys.stdin.isatty()
    descriptor = sys.stdin.fileno() if sys.stdin is not None else os.open(os.devnull, os.O_RDONLY)
    if hasattr(out, "reconfigure"):
        out.reconfigure(errors="backslashreplace")
    colour = out.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    screen = Screen(out, colour=colour)
    try:
        playground = Playground(reactor, screen, post_url, domain=domain, stanzas=stanzas)
    except SettingsError as error:
        print(f"component-http: {error}", file=sys.stderr)
        return os.EX_CONFIG
    # Otherwise Twisted writes what is critical to standard error, in its own words.
    globalLogBeginner.beginLoggingTo([], redirectStandardIO=False, discardBuffer=True)
    if about:
        screen.show(about)
    screen.show(f"You are {USER.bare}, your bot is {playground.recipient}, its webhook is {playground.url}")
    if typed:
        screen.show("Type a message and press Return. /help shows what else there is, Ctrl-D leaves.")
    screen.show()
    result = _run(_converse(playground, screen, Lines(descriptor, reactor), canned, typed), reactor)
    if isinstance(result, Failure):
        if not result.check(CancelledError):
            result.printTraceback(sys.stderr)
            return 1
        screen.show()
        return 0 if typed else INTERRUPTED
    return 0 if typed or result else 1


def main(args: Namespace) -> int:
    """
    The command `component-http playground`.

    Args:
        args: `post_url`, `domain`, and `stanzas`: several, or a text with commas, or None for the gateway's default.

    Returns:
        The exit status, see `play`.
    """
    stanzas = args.stanzas.split(",") if isinstance(args.stanzas, str) else args.stanzas
    return play(args.post_url, domain=args.domain, stanzas=stanzas)
