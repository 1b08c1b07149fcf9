"""The same with slixmpp and aiohttp."""

from __future__ import annotations

import asyncio
import sys

import aiohttp
from slixmpp.componentxmpp import ComponentXMPP

PORT, URL = int(sys.argv[1]), sys.argv[2]


class Bot(ComponentXMPP):
    def __init__(self):
        super().__init__("bot.localhost", "secret", "127.0.0.1", PORT)
        self.add_event_handler("message", self.on_message)
        self.http = None

    async def on_message(self, message):
        if self.http is None:
            self.http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=100))
        question = {
            "to": str(message["to"]),
            "from": str(message["from"]),
            "kind": "message",
            "type": message["type"],
            "id": message["id"],
            "body": message["body"],
            "stanza": str(message),
        }
        async with self.http.post(URL, json=question) as response:
            answer = await response.json()
        self.send_message(mto=message["from"], mfrom=message["to"], mbody=answer["body"], mtype="chat")


async def main() -> None:
    bot = Bot()
    bot.connect()
    await asyncio.Event().wait()


asyncio.run(main())
