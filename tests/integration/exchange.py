"""
One stanza to the gateway, and everything that becomes of it: what its webhook was asked, what came back.
"""

from __future__ import annotations

import itertools
from xml.etree.ElementTree import Element

from tests.integration.probe import Peer, child, parse
from tests.integration.processes import NO_REPLY, Answer, Request, ScriptedWebhook, reply

__all__ = ["Exchange", "domain_of", "says"]

FENCE = "fence"
"""Local part of the bot that is asked after each stanza, to know that nothing more will come of it."""


def says(element: Element, words: str) -> bool:
    """It is a message with these words as its body."""
    body = child(element, "body")
    return body is not None and body.text == words


class Exchange:
    """
    Plays stanzas one after the other, without a guess at how long to wait.

    After each stanza another message is sent, to a bot of its own. The webhook's answer to the first is on its way to
    the gateway by then, so whatever the gateway makes of it comes before the reply to the second.

    Args:
        peer: Where stanzas go to the gateway, directly or through a server, and replies come back.
        webhook: The gateway's webhook; its answers are given by this class from now on.
        sender: An address whose replies come back to `peer`.
    """

    def __init__(self, peer: Peer, webhook: ScriptedWebhook, sender: str) -> None:
        self.peer = peer
        self.webhook = webhook
        self._sender = sender
        self._answer = NO_REPLY
        self._numbers = itertools.count(1)
        webhook.answer = self._answer_to

    def _answer_to(self, request: Request) -> Answer:
        asked = request.json
        return reply(body=asked["body"]) if asked["to"].startswith(f"{FENCE}@") else self._answer

    def play(
        self, stanza: str | bytes, answer: Answer = NO_REPLY, *, to: str, requests: int = 1, replies: int = 0
    ) -> tuple[list[Request], list[Element]]:
        """
        Send a stanza and wait for its end.

        Args:
            stanza: Raw XML.
            answer: What the webhook says to it.
            to: The gateway's domain.
            requests: How many requests are waited for before the end is looked for.
            replies: How many stanzas are waited for before that, where the gateway does not decide at once.

        Returns:
            All requests it made, and all stanzas that came back.
        """
        self.webhook.take()
        self.peer.take()
        self._answer = answer
        self.peer.send(stanza)
        self.webhook.wait_for(requests, settled=not replies)
        self.peer.wait(lambda: len(self.peer.elements) >= replies or self.peer.gone, f"{replies} replies")
        words = self.fence(to)
        made = [one for one in self.webhook.take() if not one.json["to"].startswith(f"{FENCE}@")]
        return made, [element for element in self.peer.take() if not says(element, words)]

    def fence(self, domain: str) -> str:
        """
        Have a message answered, to know that what came before it is done.

        Returns:
            The words of the reply.
        """
        words = f"fence {next(self._numbers)}"
        self.peer.send(
            f"<message from='{self._sender}' to='{FENCE}@{domain}' type='chat' id='f'><body>{words}</body></message>"
        )
        self.peer.wait_for(lambda element: says(element, words), "the reply to the fence")
        return words


def domain_of(stanza: str) -> str:
    """The domain that a stanza is addressed to."""
    return parse(stanza).attrib["to"].partition("/")[0].rpartition("@")[2]
