"""The script that a user of Twisted would write in an afternoon: wokkel, treq, and no thought of what can go wrong."""

from __future__ import annotations

import json
import sys

import treq
from twisted.application.service import Application
from twisted.internet import reactor
from twisted.internet.defer import inlineCallbacks
from twisted.web.client import Agent, HTTPConnectionPool
from twisted.words.protocols.jabber.jid import internJID
from twisted.words.xish.domish import Element
from wokkel.component import Component
from wokkel.xmppim import MessageProtocol

import component_http.compat  # noqa: F401  (without it wokkel 18.0.0 does not run on current Twisted)

PORT, URL = int(sys.argv[1]), sys.argv[2]


class Bot(MessageProtocol):
    def __init__(self):
        super().__init__()
        pool = HTTPConnectionPool(reactor)
        pool.maxPersistentPerHost = 100
        self.http = treq.client.HTTPClient(Agent(reactor, pool))

    @inlineCallbacks
    def onMessage(self, message):
        if message.body is None:
            return
        question = {
            "to": message["to"],
            "from": message["from"],
            "kind": "message",
            "type": message.getAttribute("type"),
            "id": message.getAttribute("id"),
            "body": str(message.body),
            "stanza": message.toXml(),
        }
        response = yield self.http.post(
            URL, json.dumps(question).encode(), headers={"Content-Type": ["application/json"]}
        )
        answer = yield treq.json_content(response)
        reply = Element((None, "message"))
        reply["to"], reply["from"], reply["type"] = message["from"], message["to"], "chat"
        reply.addElement("body", content=answer["body"])
        self.send(reply)


application = Application("obvious")
component = Component("127.0.0.1", PORT, "bot.localhost", "secret")
Bot().setHandlerParent(component)
component.startService()
internJID("bot.localhost")
reactor.run()
