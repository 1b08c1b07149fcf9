"""The gateway inside a Twisted application that has a life of its own."""

from __future__ import annotations

import json
from typing import Any

from attrs import evolve
from twisted.application.service import MultiService
from twisted.internet import endpoints
from twisted.internet.defer import Deferred, DeferredQueue, gatherResults, succeed
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase
from twisted.web.resource import Resource
from twisted.web.server import Site
from twisted.words.protocols.jabber.component import ConnectComponentAuthenticator
from twisted.words.protocols.jabber.xmlstream import XmlStreamFactory
from twisted.words.xish.domish import Element
from wokkel.pubsub import NS_PUBSUB, PubSubResource, PubSubService
from wokkel.subprotocols import StreamManager

from component_http import Gateway
from component_http.contract.xml import NS_COMPONENT
from component_http.errors import NotSent, SettingsError
from component_http.settings import ComponentSettings, Settings, SpoolSettings
from component_http.testing import ComponentServer
from tests.integration.waiting import PATIENCE
from tests.unit.test_docs import DOCS, blocks

[_EXAMPLE] = [block for block in blocks("python", DOCS / "embedding.md") if "ComponentServer(" in block.text]
_EXAMPLES: dict[str, Any] = {"__name__": __name__}
exec(_EXAMPLE.text, _EXAMPLES)

BotTests = _EXAMPLES["BotTests"]
"""The page's own example of a test on a real connection."""

DOMAIN = "bot.localhost"
USER = "alice@localhost/phone"


class Echo(Resource):
    """A bot that lives in the same process."""

    isLeaf = True

    def render_POST(self, request):
        asked = json.loads(request.content.read())
        request.setHeader(b"content-type", b"application/json")
        return json.dumps({"body": f"echo {asked.get('body')}"}).encode()


class Shelf(PubSubResource):
    """A publish-subscribe node that remembers what was put on it (XEP-0060)."""

    def __init__(self):
        super().__init__()
        self.published = []

    def publish(self, request):
        self.published.append(request.nodeIdentifier)
        return succeed(None)


def stanza(kind, **attributes):
    element = Element((NS_COMPONENT, kind))
    element["from"] = USER
    element["to"] = f"bot@{DOMAIN}"
    element.attributes.update(attributes)
    return element


def publish():
    iq = stanza("iq", type="set", id="p1")
    node = iq.addElement((NS_PUBSUB, "pubsub")).addElement("publish")
    node["node"] = "news"
    node.addElement("item")
    return iq


class EmbeddingTests(TestCase):
    """`Gateway(settings, reactor).setServiceParent(parent)` and what an application does with it."""

    timeout = 2 * PATIENCE

    def setUp(self) -> None:
        from twisted.internet import reactor

        self.reactor = reactor
        self.arrived = DeferredQueue()
        self.server = ComponentServer(DOMAIN, reactor, self.arrived.put)
        self.port = self.server.listen()
        self.addCleanup(lambda: Deferred.fromCoroutine(self.server.close()))
        site = Site(Echo())
        site.noisy = False
        web = reactor.listenTCP(0, site, interface="127.0.0.1")
        self.addCleanup(web.stopListening)
        self.settings = Settings(
            component=ComponentSettings(
                domain=DOMAIN,
                server=f"tcp:127.0.0.1:{self.port}",
                secret=self.server.secret,
                component_post_url=f"http://127.0.0.1:{web.getHost().port}/",
            )
        )
        self.application = MultiService()
        self.addCleanup(self.application.stopService)

    async def next_stanza(self):
        return await self.arrived.get().addTimeout(PATIENCE, self.reactor)

    async def test_a_running_application_starts_and_stops_it(self) -> None:
        """
        Added to an application that runs already, the gateway answers; taken out of it, it is gone.
        """
        self.application.startService()
        gateway = Gateway(self.settings, self.reactor)
        gateway.setServiceParent(self.application)
        await self.server.connected()
        message = stanza("message", type="chat", id="m1")
        message.addElement("body", content="hi")
        self.server.send(message)
        reply = await self.next_stanza()
        self.assertEqual(("echo hi", "chat"), (str(reply.body), reply["type"]))
        await gateway.disownServiceParent()
        self.assertEqual(1, gateway.counters["replied"])

    async def test_another_protocol_on_the_same_stream(self) -> None:
        """
        A real wokkel handler answers its own protocol; the webhook never sees what it handled.
        """
        gateway = Gateway(self.settings, self.reactor)
        shelf = Shelf()
        gateway.addHandler(PubSubService(shelf))
        gateway.setServiceParent(self.application)
        self.application.startService()
        await self.server.connected()
        self.server.send(publish())
        answer = await self.next_stanza()
        self.assertEqual(("result", "p1"), (answer["type"], answer["id"]))
        self.assertEqual(["news"], shelf.published)
        self.assertEqual(0, gateway.counters["accepted"])

    async def test_a_stream_of_ones_own(self) -> None:
        """
        On a StreamManager that the application owns, the gateway keeps the contract and opens no stream itself.
        """
        authenticator = ConnectComponentAuthenticator(DOMAIN, self.server.secret)
        factory = XmlStreamFactory(authenticator)
        manager = StreamManager(factory, self.reactor)
        gateway = Gateway(self.settings, self.reactor, manager=manager)
        gateway.setServiceParent(self.application)
        self.application.startService()
        factory.noisy = False
        factory.stopTrying()
        stream = await endpoints.clientFromString(self.reactor, self.settings.component.server).connect(factory)
        self.addCleanup(stream.transport.loseConnection)
        await self.server.connected()
        message = stanza("message", type="chat", id="m1")
        message.addElement("body", content="hi")
        self.server.send(message)
        self.assertEqual("echo hi", str((await self.next_stanza()).body))
        self.server.send(stanza("presence", type="probe"))
        self.assertEqual(f"bot@{DOMAIN}/default", (await self.next_stanza())["from"])

    async def test_stop_and_start_again(self) -> None:
        """
        A gateway that was stopped, however often it was told to, can be started again and answers as before.
        """
        await self.stop_and_start_again(self.settings)

    async def test_stop_and_start_again_with_a_spool_on_disk(self) -> None:
        """
        So can one with a spool on disk, and nobody else has the file meanwhile.
        """
        settings = self.on_disk()
        gateway = await self.stop_and_start_again(settings)
        self.assertRaises(SettingsError, Gateway(settings, self.reactor).startService)
        await gateway.stopService()
        other = Gateway(settings, self.reactor)
        other.prepare()
        other.prepare()
        self.assertRaises(SettingsError, gateway.startService)
        other.startService()
        await other.stopService()

    async def test_stopped_before_it_has_begun(self) -> None:
        """
        A gateway that is stopped while it reads its spool stops, and can be started again.
        """
        gateway = Gateway(self.on_disk(), self.reactor)
        gateway.startService()
        self.assertEqual(0, gateway.status().pending)
        await gateway.stopService()
        self.assertEqual(0, gateway.counters["connected"])
        gateway.startService()
        await self.server.connected()
        await gateway.stopService()

    async def test_push(self) -> None:
        """
        What the application pushes is kept over a restart, and with until_sent it is with the server.
        """
        settings = self.on_disk()
        domain = settings.component.domain
        unreachable = evolve(
            settings,
            component=evolve(settings.component, server="tcp:127.0.0.1:1"),
            delivery=evolve(settings.delivery, drain_timeout=0.5),
        )
        gateway = Gateway(unreachable, self.reactor)
        gateway.startService()
        ids = await gateway.push([{"to": USER, "body": "one"}, {"to": USER, "body": "two", "id": "second"}])
        waiting = Deferred.fromCoroutine(gateway.push({"to": USER, "body": "three"}, until_sent=True))
        await gateway.push({"to": USER, "body": "four"})
        await gateway.stopService()
        with self.assertRaises(NotSent):
            await waiting
        gateway = Gateway(settings, self.reactor)
        gateway.setServiceParent(self.application)
        self.application.startService()
        await gateway.push({"to": USER, "from": f"news@{domain}", "body": "five"}, until_sent=True)
        arrived = [await self.next_stanza() for _ in range(5)]
        self.assertEqual(["one", "two", "three", "four", "five"], [str(message.body) for message in arrived])
        self.assertEqual(ids, [message["id"] for message in arrived[:2]])
        self.assertEqual([domain] * 4 + [f"news@{domain}"], [message["from"] for message in arrived])

    def on_disk(self) -> Settings:
        return evolve(self.settings, spool=SpoolSettings(kind="sqlite", path="spool.sqlite3"))

    async def stop_and_start_again(self, settings: Settings) -> Gateway:
        gateway = Gateway(settings, self.reactor)
        gateway.setServiceParent(self.application)
        self.application.startService()
        while gateway.counters["connected"] < 1:
            await deferLater(self.reactor, 0.01)
        await gatherResults([gateway.stopService(), gateway.stopService()])
        await gateway.stopService()
        gateway.startService()
        while gateway.counters["connected"] < 2:
            await deferLater(self.reactor, 0.01)
        message = stanza("message", type="chat", id="m1")
        message.addElement("body", content="again")
        self.server.send(message)
        self.assertEqual("echo again", str((await self.next_stanza()).body))
        return gateway

    async def test_a_socket_of_the_file_system(self) -> None:
        """
        `unix:` is a server like any other: it needs no option of TCP.
        """
        path = self.mktemp()
        port = self.reactor.listenUNIX(path, self.server.factory())
        self.addCleanup(port.stopListening)
        settings = evolve(self.settings, component=evolve(self.settings.component, server=f"unix:{path}"))
        Gateway(settings, self.reactor).setServiceParent(self.application)
        self.application.startService()
        await self.server.connected()
        self.server.send(stanza("presence", type="probe"))
        self.assertEqual(f"bot@{DOMAIN}/default", (await self.next_stanza())["from"])

    async def test_many_settings_one_process(self) -> None:
        """
        Two gateways live in one process, each with its own component.
        """
        others = DeferredQueue()
        other = ComponentServer("other.localhost", self.reactor, others.put)
        port = other.listen()
        self.addCleanup(lambda: Deferred.fromCoroutine(other.close()))
        second = Settings(
            component=ComponentSettings(
                domain="other.localhost",
                server=f"tcp:127.0.0.1:{port}",
                secret=other.secret,
                component_post_url=self.settings.component.component_post_url,
            ),
            spool=SpoolSettings(path="other.sqlite3"),
        )
        for settings in (self.settings, second):
            Gateway(settings, self.reactor).setServiceParent(self.application)
        self.application.startService()
        await self.server.connected()
        await other.connected()
        for server, queue, domain in ((self.server, self.arrived, DOMAIN), (other, others, "other.localhost")):
            message = stanza("message", to=f"bot@{domain}", type="chat")
            message.addElement("body", content=domain)
            server.send(message)
            reply = await queue.get().addTimeout(PATIENCE, self.reactor)
            self.assertEqual((f"echo {domain}", f"bot@{domain}"), (str(reply.body), reply["from"]))
        # While both servers are there: what one of them has not confirmed yet would be waited for.
        await self.application.stopService()
