"""A user who talks to a bot: the commands, and the sentences about what follows."""

from __future__ import annotations

import json
import shlex
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from twisted.internet.error import ConnectionLost
from twisted.words.xish.domish import Element

from component_http.contract.address import Address, NotAnAddress
from component_http.contract.reply import Response
from component_http.contract.stanza import STANZA_KINDS, Stanza
from component_http.contract.xml import NS_COMPONENT, Limits, parse_stanzas, serialize
from component_http.errors import MalformedStanza, XmlRefused
from component_http.interfaces import Webhook
from component_http.playground.box import Box, Outcome
from component_http.playground.screen import Screen
from component_http.playground.words import USER, advice, in_words
from component_http.settings import Settings

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
"""The events that mean that a stanza did not reach the bot, or the bot's reply did not reach the user."""

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


class Playground:
    """
    A user at a terminal, who talks to a bot through a gateway.

    Args:
        settings: The settings that `playground_settings` made; the bot is `bot@` the component's domain.
        webhook: Takes the POSTs instead of the bot's URL.

    Attributes:
        user: The address that the user writes from.
        recipient: The address that the user writes to.

    Raises:
        SettingsError: No client can be made for the bot's URL.
    """

    def __init__(self, reactor: Any, screen: Screen, settings: Settings, *, webhook: Webhook | None = None) -> None:
        self._screen = screen
        self._api = settings.api
        self._domain = settings.component.domain
        self._box = Box(settings, reactor, screen, self._arrived, webhook)
        self._show_xml = False
        self._sent = 0
        self._last_text: str | None = None
        self.user = USER
        self.recipient = Address.parse(f"bot@{self._domain}")
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
        """Connect the gateway."""
        await self._box.start()

    async def stop(self) -> None:
        """Close everything; POSTs under way are given up."""
        await self._box.stop()

    async def take(self, line: str) -> bool:
        """Carry out a line of the user until everything that follows is over; return whether all of it went well."""
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
        """Return the text before the line that the user types."""
        return f"{self.user.local or self.user.domain}> "

    def introduce(self) -> None:
        """Tell the addresses, the bot's URL, and how to use the API."""
        self._screen.show(
            f"You are {self.user.bare}, your bot is {self.recipient}, its webhook is {self._box.url}\n"
            f"The API is at {self._api.base_url}, the token for it is {self._api.token[0].token}; to"
            " send as the bot:"
        )
        self._screen.show(self._curl_to_push(), first="  ", whole=True)

    def _curl_to_push(self) -> str:
        message = {"to": str(self.user.bare), "from": str(self.recipient), "body": "hello"}
        token = self._api.token[0]
        return _curl_line(f"{self._api.base_url}/v1/messages", message, "-u", f"{token.name}:{token.token}")

    # -- the commands: each returns whether it went well --

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
            self.user = address if address.resource else Address.parse(f"{address}/{USER.resource}")
        self._screen.show(f"You are {self.user} now." if rest else f"You are {self.user}.")
        return True

    async def _curl(self, rest: str) -> bool:
        self._screen.show("To send as the bot:")
        self._screen.show(self._curl_to_push(), first="  ", whole=True)
        if self._box.webhook.reply_url is None:
            self._screen.show("Send your bot a message, and /curl shows how it can reply later.")
        else:
            self._show_late_reply("To reply later to the latest POST:", self._box.webhook.reply_url)
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
        for element in elements:
            self._show_raw(element)
        try:
            outcome = await self._box.send(elements)
        except ConnectionLost:
            self._screen.show("The gateway lost its stream to the playground; it connects again.", "bad")
            await self._box.connected()
            return False
        self._conclude(outcome, {element.name for element in elements})
        return not any(outcome.counts[event] for event in FAILURES)

    def _conclude(self, outcome: Outcome, kinds: set[str]) -> None:
        """Tell the user what the stanzas that arrived do not tell, after stanzas of some kinds were sent."""
        counts = outcome.counts
        if counts["refused_reply"]:
            self._screen.show(f"Your bot's answer was refused, nothing of it is sent: {outcome.note}", "bad")
        elif counts["body_ignored"]:
            self._screen.show(f"Your bot's answer is not sent, or not all of it: {outcome.note}", "warning")
        elif counts["bounced"]:
            if not outcome.errors:
                self._screen.show("Nobody is told, for such a stanza is never answered with an error.", "bad")
            sentence = advice(self._box.webhook.last, self._box.url)
            if sentence:
                self._screen.show(sentence, "bad")
        elif counts["not_forwarded"]:
            wanted = ",".join(kind for kind in STANZA_KINDS if kind in {"message", *kinds})
            self._screen.show(f"Your bot was not asked: for that, start the playground with --stanzas {wanted}", "bad")
        elif (counts["silent"] or counts["left_open"]) and self._is_postponed():
            assert self._box.webhook.reply_url is not None
            self._show_late_reply("(no reply yet) To reply later:", self._box.webhook.reply_url)
        elif counts["silent"]:
            self._screen.show(f"({self.recipient} has nothing to say)")
        elif not outcome.arrived:
            self._screen.show("(nothing comes back, and your bot was not asked)")

    def _is_postponed(self) -> bool:
        """Say whether the bot has answered that it will reply later."""
        last = self._box.webhook.last
        return isinstance(last, Response) and last.status == 202 and self._box.webhook.reply_url is not None

    def _arrived(self, element: Element) -> None:
        try:
            text, style, first = in_words(Stanza.from_element(element), self.user)
        except MalformedStanza as error:
            text, style, first = f"Something arrived that no client can use: {error}", "bad", ""
        self._screen.show(text, style, first=first)
        self._show_raw(element)

    def _show_raw(self, element: Element) -> None:
        if self._show_xml:
            self._screen.show(serialize(element), "quiet", first="  xml ")


def _curl_line(url: str, body: Mapping[str, object], *options: str) -> str:
    """Write a command for a shell."""
    data = json.dumps(body, ensure_ascii=False)
    return shlex.join(["curl", url, *options, "-H", "Content-Type: application/json", "-d", data])
