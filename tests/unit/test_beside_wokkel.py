"""The gateway beside wokkel's handlers, which change the elements that they look at."""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import wokkel
from twisted.internet import reactor as _reactor
from twisted.trial.unittest import TestCase
from twisted.words.protocols.jabber import xmlstream
from twisted.words.protocols.jabber.jid import JID
from twisted.words.xish.utility import EventDispatcher
from twisted.words.xish.xmlstream import STREAM_CONNECTED_EVENT, BootstrapMixin
from wokkel.generic import Stanza as WokkelStanza
from wokkel.subprotocols import StreamManager, XMPPHandler

from component_http.contract.conditions import NS_STANZAS
from component_http.contract.request import request_properties
from component_http.contract.stanza import Stanza
from component_http.contract.xml import Limits, parse_stanzas
from component_http.gateway import Gateway
from component_http.settings import ComponentSettings, Settings, SpoolSettings
from component_http.testing import ScriptedWebhook

reactor: Any = _reactor

ADDRESSES = "from='room@rooms.example.org/Alice' to='bot@bot.example.org/x'"
BODY = "<body>hello &amp; more</body><x xmlns='urn:example'><y/></x>"
DELAY = "<delay xmlns='urn:xmpp:delay' stamp='2024-05-01T12:00:00Z'/>"
IN_ROOM = "<x xmlns='http://jabber.org/protocol/muc#user'><item role='participant' affiliation='none'/></x>"

STANZAS = (
    *(f"<message {ADDRESSES} type='{type_}'>{BODY}</message>" for type_ in ("chat", "groupchat", "headline", "error")),
    f"<message {ADDRESSES}>{BODY}</message>",
    f"<message {ADDRESSES} type='groupchat'><subject>Tea</subject></message>",
    f"<message {ADDRESSES} type='groupchat'>{BODY}{DELAY}</message>",
    f"<message {ADDRESSES} type='groupchat'>{BODY}<delay xmlns='urn:xmpp:delay' stamp='not a time'/></message>",
    f"<message {ADDRESSES} type='chat'>{BODY}{IN_ROOM}</message>",
    f"<message {ADDRESSES}><event xmlns='http://jabber.org/protocol/pubsub#event'><other/></event></message>",
    f"<presence {ADDRESSES}><show>away</show><status>at tea</status><priority>5</priority>{IN_ROOM}</presence>",
    f"<presence {ADDRESSES}><show>?</show><priority>high</priority></presence>",
    *(
        f"<presence {ADDRESSES} type='{type_}'><status>so</status></presence>"
        for type_ in ("unavailable", "subscribe", "subscribed", "unsubscribe", "unsubscribed", "probe", "unheard-of")
    ),
    f"<presence {ADDRESSES} type='error'><error type='wait'><conflict xmlns='{NS_STANZAS}'/></error></presence>",
    f"<iq {ADDRESSES} type='set'><other xmlns='urn:example'/></iq>",
    f"<iq {ADDRESSES} type='result'><query xmlns='jabber:iq:version'/></iq>",
    f"<iq {ADDRESSES} type='error'><error type='cancel'/></iq>",
)
"""Each kind and type, and what is in them that one of wokkel's handlers reads."""


def wokkels_handlers() -> dict[str, Callable[[], XMPPHandler]]:
    """All handlers of wokkel that can stand on a stream; they come from two base classes."""
    found: dict[str, Callable[[], XMPPHandler]] = {}
    bases = (XMPPHandler, xmlstream.XMPPHandler)
    for module in pkgutil.iter_modules(wokkel.__path__):
        if module.name == "test":
            continue
        for name, value in vars(importlib.import_module(f"wokkel.{module.name}")).items():
            if isinstance(value, type) and issubclass(value, bases) and value.__module__.startswith("wokkel."):
                found[name] = value
    del found["XMPPHandler"]
    found["VersionHandler"] = lambda: importlib.import_module("wokkel.generic").VersionHandler("app", "1")
    return found


class Stripping(XMPPHandler):
    """Reads each stanza with the class that the others are made of."""

    def connectionInitialized(self) -> None:
        for kind in ("message", "presence", "iq"):
            self.xmlstream.addObserver(f"/{kind}", self.look)

    def look(self, element: Any) -> None:
        WokkelStanza.fromElement(element)


class Appending(Stripping):
    """Takes the namespace off, and then adds something, with a namespace and without."""

    def look(self, element: Any) -> None:
        element.children = [child for child in element.children if child.name != "body"]
        WokkelStanza.fromElement(element)
        element.addElement("body", content="changed")


class Readdressing(Stripping):
    """Writes addresses as objects of Twisted's."""

    def look(self, element: Any) -> None:
        element["from"], element["to"] = JID(element["from"]), JID(element["to"])


class Spoiling(Stripping):
    """Puts something in that is not XML."""

    def look(self, element: Any) -> None:
        element.children.append(7)


class BesideSuite:
    """What holds with each spool."""

    spool: ClassVar[SpoolSettings]

    async def posted(self: Any, *handlers: XMPPHandler, stanzas: tuple[str, ...] = STANZAS) -> list[dict[str, Any]]:
        """What the webhook gets of stanzas that these handlers see first, in the order of the stanzas."""
        bootstraps, stream = BootstrapMixin(), EventDispatcher()
        self.sent: list[Any] = []
        stream.send = self.sent.append
        manager = StreamManager(bootstraps, reactor)
        bootstraps.installBootstraps(stream)
        for handler in handlers:
            handler.setHandlerParent(manager)
        webhook = ScriptedWebhook()
        settings = Settings(
            component=ComponentSettings(
                domain="bot.example.org",
                secret="not used",
                component_post_url="http://127.0.0.1:8080/",
                component_post_stanzas=("message", "presence", "iq"),
                forward_history=True,
            ),
            spool=self.spool,
        )
        self.gateway = Gateway(settings, reactor, manager=manager, webhook=webhook)
        self.gateway.startService()
        stream.dispatch(stream, STREAM_CONNECTED_EVENT)
        stream.dispatch(stream, xmlstream.STREAM_AUTHD_EVENT)
        for number, xml in enumerate(stanzas):
            [element] = parse_stanzas(xml.replace(" ", f" id='{number}' ", 1), Limits())
            element.handled = False
            stream.dispatch(element)
        await self.gateway.drain(5)
        await self.gateway.stopService()
        posts = [json.loads(body) for body, _ in webhook.posts]
        return sorted(posts, key=lambda post: int(post["id"]))

    def expected(self) -> list[dict[str, Any]]:
        """What the webhook is to get."""
        found = []
        for number, xml in enumerate(STANZAS):
            [element] = parse_stanzas(xml.replace(" ", f" id='{number}' ", 1), Limits())
            found.append(request_properties(Stanza.from_element(element)))
        return found

    def see_whose_errors(self: Any) -> None:
        """wokkel reads a time that is none, and fails; nothing of ours does."""
        for failure in self.flushLoggedErrors():
            self.assertNotIn("component_http", failure.getTraceback())

    async def test_each_handler_of_wokkel(self: Any) -> None:
        """
        Beside each handler that wokkel has, every stanza that it leaves alone is POSTed as if it were not there.
        """
        for name, handler in {**wokkels_handlers(), "Stripping": Stripping}.items():
            posted = await self.posted(handler())
            for wanted, got in zip(self.expected(), posted, strict=True):
                self.assertEqual(wanted, got, name)
            self.see_whose_errors()

    async def test_all_handlers_of_wokkel_together(self: Any) -> None:
        """
        All of them at once lose nothing either.
        """
        posted = await self.posted(*(handler() for handler in wokkels_handlers().values()))
        self.assertEqual(self.expected(), posted)
        self.see_whose_errors()

    async def test_what_a_handler_changes_is_posted(self: Any) -> None:
        """
        A body that another handler has put in the place of the first is the one that the webhook gets.
        """
        [posted] = await self.posted(Appending(), stanzas=STANZAS[:1])
        self.assertEqual("changed", posted["body"])
        [written] = parse_stanzas(posted["stanza"], Limits())
        self.assertEqual("changed", str(written.body))

    async def test_addresses_as_objects(self: Any) -> None:
        """
        A handler may leave Twisted's JID where an address was.
        """
        self.assertEqual(self.expected(), await self.posted(Readdressing()))

    async def test_what_a_handler_has_spoiled(self: Any) -> None:
        """
        A stanza that cannot be written any more is logged and counted, and an iq is answered all the same.
        """
        iq = f"<iq {ADDRESSES} type='get'><other xmlns='urn:example'/></iq>"
        self.assertEqual([], await self.posted(Spoiling(), stanzas=(STANZAS[0], iq)))
        self.assertEqual(2, self.gateway.counters["malformed"])
        [answer] = self.sent
        self.assertEqual(("iq", "error", "1"), (answer.name, answer["type"], answer["id"]))


class InMemoryTests(BesideSuite, TestCase):
    """With the spool in memory."""

    spool = SpoolSettings(kind="memory")


class OnDiskTests(BesideSuite, TestCase):
    """With the spool on disk."""

    timeout = 60

    @property
    def spool(self) -> SpoolSettings:  # type: ignore[override]
        folder = Path(self.mktemp()).absolute()
        folder.mkdir(parents=True)
        return SpoolSettings(kind="sqlite", path=str(folder / "spool.sqlite3"))
