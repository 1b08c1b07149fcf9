"""An API with a stand-in for who sends, without a socket."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping
from itertools import count
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from component_http.api.deliveries import NO_LOG
from component_http.api.desk import Desk
from component_http.api.exchange import Answer, Call
from component_http.api.hooks import Hook
from component_http.api.links import ReplyLinks
from component_http.api.rate import Rate
from component_http.api.routes import Api
from component_http.api.secrets import BySecret
from component_http.api.template import Template, shipped
from component_http.api.tokens import Token, Tokens
from component_http.contract.address import Address
from component_http.contract.link import KEY_BYTES
from component_http.contract.xml import Limits, serialize
from component_http.interfaces import Origin
from component_http.operations.metrics import Counters
from component_http.testing import RecordingSender

DOMAIN = "bot.example.org"
TOKEN = "0123456789abcdef"
NARROW = "fedcba9876543210"
SLACK = "slack-0123456789"
ALERTS = "alerts-0123456789"
GENERIC = "generic-0123456789"
LINK_KEY = bytes(range(KEY_BYTES))
MAX_BODY_BYTES = 1_000_000
EPOCH = 1_700_000_000.0

BEARER = {"authorization": f"Bearer {TOKEN}"}
JSON = {"content-type": "application/json"}


class ApiTestCase(SynchronousTestCase):
    """
    A test that asks the API.

    Attributes:
        api: It, with a token that may do all, one that may do little, and three hooks.
        sender: What it hands stanzas to.
        counters: What it counted.
        clock: Its time.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.counters = Counters()
        self.answer: Any = None
        self.sender = RecordingSender(
            answer=lambda iq: self.answer(iq) if self.answer is not None else None, now=self.clock.seconds
        )
        self.api = self.an_api()

    def an_api(self, **changes: Any) -> Api:
        ids = count(1)
        origin = Origin(self.sender, changes.get("default_sender", Address.parse(DOMAIN)), Limits())
        desk = Desk(
            changes.get("origins", {DOMAIN: origin}),
            self.counters,
            new_id=lambda: f"fresh{next(ids)}",
            clock=self.clock,
            max_timeout=60.0,
        )
        tokens = [
            Token("all", TOKEN, rate=changes.get("rate", Rate(1000, 1.0)), admin=True),
            Token(
                "narrow",
                NARROW,
                may_send_as=["alerts@bot.example.org", "news-*@bot.example.org"],
                may_send_to=["*@example.org"],
                kinds=["message"],
            ),
        ]
        sender = Address.parse("alerts@bot.example.org")
        hooks = [
            Hook("slack", SLACK, ["team@example.org", "boss@example.org"], sender),
            Hook(
                "alerts",
                ALERTS,
                ["room@rooms.example.org"],
                sender,
                "groupchat",
                Template(shipped("alertmanager"), "a"),
            ),
            Hook(
                "generic", GENERIC, ["team@example.org"], sender, "chat", Template(shipped("generic"), "g"), Rate(3, 3)
            ),
        ]
        return Api(
            desk,
            Tokens(tokens, desk.origins),
            BySecret(hooks),
            self.counters,
            links=ReplyLinks(
                LINK_KEY,
                wide=changes.get("wide", False),
                seconds=self.clock.seconds,
                now=lambda: EPOCH + self.clock.seconds(),
            ),
            wake=self.wake,
            deliveries=changes.get("deliveries", NO_LOG),
            version="1.2.3",
            max_body_bytes=MAX_BODY_BYTES,
            seconds=self.clock.seconds,
        )

    woken = 0

    def wake(self) -> dict[str, str]:
        self.woken += 1
        return {"webhook": "half_open"}

    def ask(
        self,
        method: str,
        target: str,
        body: object = b"",
        headers: Mapping[str, str] | None = None,
        *,
        token: str | None = TOKEN,
    ) -> Deferred[Answer]:
        """Hand a request to the API; a body that is no bytes and no text goes as JSON."""
        path, _, query = target.partition("?")
        given = dict(headers or {})
        if token is not None:
            given.setdefault("authorization", f"Bearer {token}")
        if not isinstance(body, bytes | str | None):
            body = json.dumps(body)
            given.setdefault("content-type", "application/json")
        if isinstance(body, str):
            body = body.encode("utf-8", "surrogatepass")
        call = Call(method, path, query, given, body)

        async def handle() -> Answer:
            admitted = self.api.admit(call)
            return admitted if isinstance(admitted, Answer) else await admitted.carry_out(call.body)

        return Deferred.fromCoroutine(handle())

    def answer_to(self, *arguments: Any, **options: Any) -> Answer:
        """The answer that comes at once."""
        return self.successResultOf(self.ask(*arguments, **options))

    def post(self, target: str, body: object, headers: Mapping[str, str] | None = None, **options: Any) -> Answer:
        return self.answer_to("POST", target, body, headers, **options)

    def refused(self, status: int, answer: Answer) -> str:
        """The sentence of a problem; nothing was sent for it."""
        self.assertEqual(status, answer.status, answer.body)
        if answer.media_type != "application/problem+json":
            return answer.body.decode()
        problem = json.loads(answer.body)
        self.assertEqual(status, problem["status"])
        return str(problem["detail"])

    def sent(self) -> list[str]:
        """All that was handed over to be sent, as XML."""
        return [serialize(element) for element in self.sender.pushed]

    def bodies(self) -> list[str]:
        return [str(element.body) for element in self.sender.pushed]


def basic(user: str, password: str) -> dict[str, str]:
    return {"authorization": f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}"}
