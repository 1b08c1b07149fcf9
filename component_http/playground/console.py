"""
Talk to a bot from the terminal, and see what goes back and forth: a real gateway between a server in a box and the bot.

`component-http playground` ends here. Nothing of it runs in production.
"""

from __future__ import annotations

import json
import os
import shlex
import socket
import sys
from argparse import Namespace
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import nullcontext
from secrets import token_hex
from typing import Any

from attrs import evolve
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionLost
from twisted.logger import LogEvent, LogLevel, formatEvent, globalLogBeginner, globalLogPublisher
from twisted.python.failure import Failure
from twisted.words.xish.domish import Element

from component_http.contract.address import Address, NotAnAddress
from component_http.contract.reply import Response
from component_http.contract.stanza import STANZA_KINDS, Stanza
from component_http.contract.url import without_secrets
from component_http.contract.xml import NS_COMPONENT, Limits, parse_stanzas, serialize
from component_http.errors import MalformedStanza, SettingsError, XmlRefused
from component_http.gateway import Gateway
from component_http.interfaces import Webhook
from component_http.playground.lines import EditedLines, Lines, PromptedLines, Source, TypedLines
from component_http.playground.narrated import NarratedWebhook
from component_http.playground.screen import Screen
from component_http.playground.words import USER, advice, in_words
from component_http.settings import SECRET_VARIABLE, DeliverySettings, Settings, SpoolSettings, TokenSettings
from component_http.testing import ComponentServer
from component_http.wiring import webhook_client

__all__ = ["Playground", "main", "play", "playground_settings"]

INTERRUPTED = 130
"""Exit status: Ctrl-C while there were lines left to send (128 and the number of SIGINT)."""

DOMAIN = "bot.localhost"
"""The component's domain, unless a flag or a settings file names one."""

TOKEN = "playground"
"""What the playground's own token for the API is called."""

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

HELP = """\
  hello            send the line as a message (//hello sends /hello)
  /again           send the last message again, with a new id
  /to ADDRESS      talk to another address of your bot: /to weather
  /from NAME       talk as somebody else: /from alice
  /subscribe       add the bot to your contacts
  /ping            ping the bot; the gateway answers that itself
  /iq XML          ask the bot: send XML in an iq of type get
  /raw XML         send a stanza as it is; to, from and id are filled in
  /xml             show the XML of every stanza, or stop showing it
  /curl            show how your bot can send by the API, with curl
  /help            show this
  /quit            leave (so does Ctrl-D)"""


def playground_settings(
    post_url: str | None = None,
    *,
    config: str | None = None,
    domain: str | None = None,
    stanzas: Iterable[str] | None = None,
) -> Settings:
    """
    Make the settings of a gateway in the playground.

    Args:
        post_url: The bot's URL; None for that of the settings file.
        config: A settings file. Its server, its secret, its spool and its retries are not used.
        domain: The component's domain; None for that of the settings file, or `DOMAIN`.
        stanzas: The kinds of stanza that are POSTed; None for those of the settings file, or the gateway's default.

    Raises:
        SettingsError: With these arguments there can be no gateway.
    """
    given = {"post-url": post_url, "domain": domain, "stanzas": None if stanzas is None else ",".join(stanzas)}
    if config is None and domain is None:
        given["domain"] = DOMAIN
    settings = Settings.from_flags(
        {name: value for name, value in given.items() if value is not None},
        config,
        # The server's address and secret are not known before it listens; this only passes the check.
        env={SECRET_VARIABLE: "unused"},
        leave_out=("component.server", "component.secret_file"),
        needs_webhook=True,
    )
    token = TokenSettings(name=TOKEN, token=token_hex(16))
    others = tuple(other for other in settings.api.token if other.name != TOKEN)
    listen = f"tcp:{_free_port()}:interface=127.0.0.1"
    return evolve(
        settings,
        api=evolve(settings.api, listen=listen, url=None, token=(token, *others)),
        # Who leaves does not want to wait for a slow bot.
        delivery=DeliverySettings(max_attempts=1, drain_timeout=0),
        spool=SpoolSettings(kind="memory"),
    )


def _free_port() -> int:
    """A port that nobody listens on, for the API: its URL has to be known before it listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Playground:
    """
    A user, a server, a gateway and the way to the bot.

    Args:
        reactor: Runs it all.
        screen: Shows what happens.
        settings: Those of `playground_settings`; the bot is `bot@` the component's domain.
        webhook: Takes the POSTs instead of the bot's URL.

    Attributes:
        user: Who writes.
        recipient: Whom the user writes to.
        url: The bot's URL as it may be shown.
    """

    def __init__(self, reactor: Any, screen: Screen, settings: Settings, *, webhook: Webhook | None = None) -> None:
        """
        Open nothing yet.

        Raises:
            SettingsError: There can be no client for the bot's URL.
        """
        self._reactor = reactor
        self._screen = screen
        self._settings = settings
        self._domain = settings.component.domain
        self.url = without_secrets(settings.component.component_post_url or "")
        self._client = webhook_client(settings, reactor) if webhook is None else None
        self._webhook = NarratedWebhook(webhook or self._client, self.url, screen, reactor)  # type: ignore[arg-type]
        self._server = ComponentServer(self._domain, reactor, self._arrived)
        self._gateway: Gateway | None = None
        self._leaving = False
        self._log_observer: Any = self._logged
        self._show_xml = False
        self._sent = 0
        self._arrivals = 0
        self._errors = 0
        self._note: str | None = None
        self._last_text: str | None = None
        self.user = USER
        self.recipient = Address("bot", self._domain, None)
        self._commands: Mapping[str, Callable[[str], Awaitable[bool]]] = {
            "again": self._again,
            "curl": self._curl,
            "from": self._from,
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
        settings = evolve(self._settings, component=component)
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
        return await self._say(line)

    async def _say(self, text: str) -> bool:
        self._last_text = text
        message = self._stanza("message", type="chat")
        message.addElement((NS_COMPONENT, "body"), content=text)
        return await self._send([message])

    def prompt(self) -> str:
        """What stands before what the user types."""
        return f"{self.user.local or self.user.domain}> "

    def introduce(self) -> None:
        """Say who is who, and how the API is used."""
        self._screen.show(
            f"You are {self.user.bare}, your bot is {self.recipient}, its webhook is {self.url}\n"
            f"The API is at {self._settings.api.base_url}, the token for it is {self._settings.api.token[0].token}; to"
            " send as the bot:"
        )
        self._screen.show(self._curl_to_push(), first="  ", whole=True)

    def _curl_to_push(self) -> str:
        message = {"to": str(self.user.bare), "from": str(self.recipient), "body": "hello"}
        token = self._settings.api.token[0]
        return _curl_line(f"{self._settings.api.base_url}/v1/messages", message, "-u", f"{token.name}:{token.token}")

    # -- commands: each says whether it went well --

    async def _help(self, rest: str) -> bool:
        self._screen.show(HELP)
        return True

    async def _again(self, rest: str) -> bool:
        if self._last_text is None:
            return self._complain("There is no message to send again yet.")
        return await self._say(self._last_text)

    async def _from(self, rest: str) -> bool:
        if rest:
            try:
                address = Address.parse(rest if "@" in rest else f"{rest}@{USER.domain}")
            except NotAnAddress:
                return self._complain("That is no name and no address: /from alice, or /from alice@example.org/phone")
            if address.domain == self._domain:
                return self._complain(f"Addresses in {self._domain} are your bot's: talk as somebody else.")
            self.user = address if address.resource else evolve(address, resource=USER.resource)
        self._screen.show(f"You are {self.user} now." if rest else f"You are {self.user}.")
        return True

    async def _curl(self, rest: str) -> bool:
        self._screen.show("To send as the bot:")
        self._screen.show(self._curl_to_push(), first="  ", whole=True)
        if self._webhook.reply_url is None:
            self._screen.show("Send your bot a message, and /curl shows how it can reply later.")
        else:
            self._show_late_reply("To reply later to the latest POST:", self._webhook.reply_url)
        return True

    def _show_late_reply(self, sentence: str, url: str) -> None:
        self._screen.show(sentence)
        self._screen.show(_curl_line(url, {"body": "hello again"}), first="  ", whole=True)

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
        presence["from"] = str(self.user.bare)
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
        stanza["from"] = str(self.user)
        return stanza

    async def _send(self, elements: list[Element]) -> bool:
        assert self._gateway is not None
        before, arrivals, errors = self._gateway.counters.copy(), self._arrivals, self._errors
        self._note = None
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
        kinds = {element.name for element in elements}
        self._conclude(new, kinds, answered=self._arrivals > arrivals, refused=self._errors > errors)
        return not any(new[event] for event in FAILURES)

    def _conclude(self, new: Mapping[str, int], kinds: set[str], *, answered: bool, refused: bool) -> None:
        """
        Say what the stanzas that came back do not say.

        Args:
            new: What the gateway counted since the user's line.
            kinds: Of the stanzas sent.
            answered: Some stanza came, though it may be one that was pushed.
            refused: An error came back.
        """
        if new.get("refused_reply"):
            self._screen.show(f"Your bot's answer was refused, nothing of it is sent: {self._note}", "bad")
        elif new.get("body_ignored"):
            self._screen.show(f"Your bot's answer is not sent, or not all of it: {self._note}", "warning")
        elif new.get("bounced"):
            if not refused:
                self._screen.show("Nobody is told, for such a stanza is never answered with an error.", "bad")
            sentence = advice(self._webhook.last, self.url)
            if sentence:
                self._screen.show(sentence, "bad")
        elif new.get("not_forwarded"):
            wanted = ",".join(kind for kind in STANZA_KINDS if kind in {"message", *kinds})
            self._screen.show(f"Your bot was not asked: for that, start the playground with --stanzas {wanted}", "bad")
        elif (new.get("silent") or new.get("left_open")) and self._is_postponed():
            assert self._webhook.reply_url is not None
            self._show_late_reply("(no reply yet) To reply later:", self._webhook.reply_url)
        elif new.get("silent"):
            self._screen.show(f"({self.recipient} has nothing to say)")
        elif not answered:
            self._screen.show("(nothing comes back, and your bot was not asked)")

    def _is_postponed(self) -> bool:
        """The bot has answered that it will reply later."""
        last = self._webhook.last
        return isinstance(last, Response) and last.status == 202 and self._webhook.reply_url is not None

    def _arrived(self, element: Element) -> None:
        if self._leaving:
            return
        self._arrivals += 1
        self._errors += element.getAttribute("type") == "error"
        try:
            text, style, first = in_words(Stanza.from_element(element), self.user)
        except MalformedStanza as error:
            text, style, first = f"Something arrived that no client can use: {error}", "bad", ""
        self._screen.show(text, style, first=first)
        self._show_raw(element)

    def _logged(self, event: LogEvent) -> None:
        """Show a log event, if it is one for the user."""
        if "note" in event:
            # How a delivery ended; that is told where the user sees what came of it.
            self._note = event["note"]
            return
        level = event.get("log_level", LogLevel.info)
        if level < LogLevel.warn:
            return
        text = formatEvent(event).removeprefix(f"{event.get('id')}: ")
        if "log_failure" in event:
            text += f" ({event['log_failure'].getErrorMessage()})"
        self._screen.show(text.replace("\n", " "), "warning", first=f"{level.name}: ")

    def _show_raw(self, element: Element) -> None:
        if self._show_xml:
            self._screen.show(serialize(element), "quiet", first="  xml ")


def _curl_line(url: str, body: Mapping[str, object], *options: str) -> str:
    """A command for a shell."""
    data = json.dumps(body, ensure_ascii=False)
    return shlex.join(["curl", url, *options, "-H", "Content-Type: application/json", "-d", data])


# From the command line to the end.


async def _converse(playground: Playground, screen: Screen, lines: Source, canned: Iterable[str]) -> bool:
    """
    Take lines until there are no more.

    Args:
        playground: Started and stopped here.
        screen: Where the lines of `canned` are shown.
        lines: The user's.
        canned: Taken before those of the user.

    Returns:
        Whether all of them went well.
    """
    well = True
    try:
        await playground.start()
        for line in canned:
            screen.show(f"{playground.prompt()}{line}", "bold")
            well &= await playground.take(line)
            screen.show()
        while (typed := await lines.next()) is not None:
            line = typed.strip()
            if line == "/quit":
                break
            if line:
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


def play(settings: Settings, *, canned: Iterable[str] = (), about: str = "") -> int:
    """
    Let the user of this terminal talk to a bot; it installs and runs the reactor.

    Args:
        settings: Those of `playground_settings`.
        canned: What the user says before typing anything.
        about: What to say about the bot before anything else.

    Returns:
        The exit status: 0 when every line went well or the user typed them, 1 if one did not, 130 if the lines were not
        the user's typing and were interrupted.

    Raises:
        SettingsError: There can be no gateway with them.
    """
    from twisted.internet import reactor

    out = sys.stdout or open(os.devnull, "w")  # noqa: SIM115  (a terminal that was closed)
    is_typed = sys.stdin is not None and sys.stdin.isatty()
    descriptor = sys.stdin.fileno() if sys.stdin is not None else os.open(os.devnull, os.O_RDONLY)
    if hasattr(out, "reconfigure"):
        out.reconfigure(errors="backslashreplace")
    is_able = out.isatty() and os.environ.get("TERM") != "dumb"
    screen = Screen(out, colour=is_able and not os.environ.get("NO_COLOR"))
    playground = Playground(reactor, screen, settings)
    # Otherwise Twisted writes what is critical to standard error, in its own words.
    globalLogBeginner.beginLoggingTo([], redirectStandardIO=False, discardBuffer=True)
    if about:
        screen.show(about)
    playground.introduce()
    if is_typed:
        screen.show("Type a message and press Return. /help shows what else there is, Ctrl-D leaves.")
    screen.show()
    lines: Source
    terminal: Any = nullcontext()
    if is_typed and is_able:
        lines = edited = EditedLines(descriptor, reactor, screen, playground.prompt)
        terminal = edited.in_charge()
    else:
        kind = TypedLines if is_typed else PromptedLines
        lines = kind(Lines(descriptor, reactor), screen, playground.prompt)
    with terminal:
        result = _run(_converse(playground, screen, lines, canned), reactor)
    if isinstance(result, Failure):
        if isinstance(result.value, SettingsError):
            raise result.value
        if not result.check(CancelledError):
            result.printTraceback(sys.stderr)
            return 1
        screen.show()
        return 0 if is_typed else INTERRUPTED
    return 0 if is_typed or result else 1


def main(args: Namespace) -> int:
    """
    The command `component-http playground`.

    Args:
        args: `post_url`, `config`, `domain` and `stanzas`, each None where it was not given.

    Returns:
        The exit status: 78 if the settings cannot be used, and else that of `play`.
    """
    try:
        settings = playground_settings(args.post_url, config=args.config, domain=args.domain, stanzas=args.stanzas)
        return play(settings)
    except SettingsError as error:
        print(f"component-http: {error}", file=sys.stderr)
        return os.EX_CONFIG
