"""Deliveries of one component on their ways to several webhooks."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from math import inf
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from component_http.contract.conditions import StanzaError
from component_http.contract.delivery import Delivery
from component_http.contract.reply import Response
from component_http.contract.routes import Conditions, Route, Routes
from component_http.errors import ConnectionFailed
from component_http.testing import KeepingSpool, ScriptedWebhook, json_response
from tests.relay_world import relay_world
from tests.unit.test_delivery import DeliveryTestCase, a_stanza

ROUTES = Routes([Route("iqs", Conditions(kinds=["iq"])), Route("weather", Conditions(body="/weather"))])


class RoutesTests(DeliveryTestCase):
    """A relay with a webhook of its own, and one for each of two routes."""

    def setUp(self) -> None:
        super().setUp()
        self.own, self.iqs, self.weather = ScriptedWebhook(), ScriptedWebhook(), ScriptedWebhook()

    def a_world(self, routes: Routes = ROUTES, **options: Any) -> Any:
        self.world = relay_world(
            self.own,
            self.clock,
            counters=self.counters,
            outlet=self.outlet,
            valve=self.valve,
            new_id=lambda: f"d{next(self.numbers)}",
            routes=routes,
            webhooks={"iqs": self.iqs, "weather": self.weather},
            **options,
        )
        self.relay = self.world.relay
        return self.relay

    def bodies(self, webhook: ScriptedWebhook) -> list[str]:
        return [json.loads(body).get("body") for body, _ in webhook.posts]

    def say(self, *bodies: str, sender: str = "alice@example.org/x") -> None:
        for body in bodies:
            self.relay.accept(a_stanza(body=body, sender=sender))

    def test_each_goes_its_way(self) -> None:
        """
        What a route takes goes to its webhook, and all else to the component's own.
        """
        self.a_world()
        self.say("hello", "/weather in Paris")
        self.relay.accept(a_stanza("iq", "get"))
        self.assertEqual((["hello"], ["/weather in Paris"]), (self.bodies(self.own), self.bodies(self.weather)))
        self.assertEqual(1, len(self.iqs.posts))
        self.assert_accounts(self.relay)

    def test_order_across_routes(self) -> None:
        """
        In one conversation nothing is POSTed before what came earlier has ended, whatever webhook that is for.
        """
        first: Deferred[Response] = Deferred()
        self.weather = ScriptedWebhook([first])
        self.a_world()
        self.say("/weather", "hello")
        self.say("me too", sender="bob@example.org/x")
        self.assertEqual((["/weather"], ["me too"]), (self.bodies(self.weather), self.bodies(self.own)))
        first.callback(Response(204))
        self.assertEqual(["me too", "hello"], self.bodies(self.own))

    def test_one_is_away(self) -> None:
        """
        While one webhook is away the others are asked as ever; when it is back, what waited for it is delivered.
        """
        self.weather = ScriptedWebhook(answer=lambda *_: ConnectionFailed("refused"))
        self.a_world()
        for number in range(20):
            self.say("/weather", sender=f"user{number}@example.org/x")
        self.assertEqual("open", self.relay.status().webhook)
        self.say(*map(str, range(10)), sender="bob@example.org/x")
        self.assertEqual(10, len(self.own.posts))
        asked = len(self.weather.posts)
        self.weather._answer = None
        self.clock.pump([1.0] * 70)
        self.assertEqual((0, 20), (self.relay.pending, self.counters["silent"] - 10))
        self.assertLess(asked, 20)
        self.assert_accounts(self.relay)

    def test_so_many_at_once_for_each(self) -> None:
        """
        One that hangs has as many requests under way as it may have, and takes no place from another.
        """
        self.weather = ScriptedWebhook(answer=lambda *_: Deferred())
        self.a_world(max_running=4)
        for number in range(30):
            self.say("/weather", sender=f"user{number}@example.org/x")
        self.assertEqual(4, self.weather.under_way)
        for number in range(30):
            self.say("hello", sender=f"other{number}@example.org/x")
        self.assertEqual(30, len(self.own.posts))

    def test_one_is_gone(self) -> None:
        """
        A webhook that is gone ends what is for it with its error, and nothing else.
        """
        self.weather = ScriptedWebhook([Response(410)])
        self.a_world(on_gone=StanzaError("cancel", "gone"))
        self.say("/weather", "/weather again")
        self.say("hello", sender="bob@example.org/x")
        self.assertEqual((1, 1), (len(self.weather.posts), len(self.own.posts)))
        self.assertEqual([("message", "error", "gone")] * 2, self.sent())
        self.assert_accounts(self.relay)

    def test_other_routes(self) -> None:
        """
        After a change of the routes what waits for one that is gone is routed anew, what is under way ends where it
        began, and a route that is new takes what comes.
        """
        under_way: Deferred[Response] = Deferred()
        self.weather = ScriptedWebhook([under_way])
        self.a_world(max_running=1)
        self.say("/weather one", "/weather two")
        self.say("/weather three", sender="bob@example.org/x")
        other = ScriptedWebhook(answer=lambda *_: json_response('{"body": "new"}'))
        routes = Routes([Route("new", Conditions(body="/weather t"))])
        self.relay.use_routes(routes, {"new": self.world.forwarder(other)})
        self.assertEqual(["/weather three"], self.bodies(other))
        under_way.callback(json_response('{"body": "old"}'))
        self.assertEqual(["/weather three", "/weather two"], self.bodies(other))
        self.relay.use_routes(Routes(), {})
        self.say("/weather tomorrow")
        self.assertEqual(["/weather tomorrow"], self.bodies(self.own))
        self.assertEqual(0, self.relay.pending)
        self.assert_accounts(self.relay)

    def test_paused(self) -> None:
        """
        While an operator has paused the webhooks nothing is POSTed to any, nor to that of a new route, until they wake.
        """
        self.a_world()
        self.relay.hold(inf)
        other = ScriptedWebhook(answer=lambda *_: json_response("{}"))
        routes = Routes([Route("new", Conditions(body="/new"))])
        self.relay.use_routes(routes, {"new": self.world.forwarder(other)})
        self.say("/new", "hello", sender="bob@example.org/x")
        self.clock.pump([1] * 100)
        self.assertEqual((0, 0), (len(other.posts), len(self.own.posts)))
        self.relay.wake()
        self.clock.pump([1] * 5)
        self.assertEqual((1, 1), (len(other.posts), len(self.own.posts)))
        self.assert_accounts(self.relay)

    def test_restored(self) -> None:
        """
        What a spool has kept goes on by its route; where that is gone, it is routed anew by its request body.
        """
        spool = KeepingSpool()
        self.a_world(spool=spool)
        for delivery_id, route in (("old1", "iqs"), ("old2", "gone")):
            delivery = Delivery(delivery_id, a_stanza().facts(), 2, self.clock.seconds() + 60, route=route)
            spool.store(delivery, b'{"id": "m1", "body": "/weather"}')
            if self.relay.routing.lacks(delivery):
                self.relay.routing.find_again(delivery, b'{"id": "m1", "body": "/weather"}')
            self.relay.restore([delivery])
        self.assertEqual((1, 1, 0), (len(self.iqs.posts), len(self.weather.posts), len(self.own.posts)))

    def test_stop(self) -> None:
        """
        A stop gives up what waits for any of them.
        """
        self.weather = ScriptedWebhook(answer=lambda *_: ConnectionFailed("refused"))
        self.a_world()
        for number in range(20):
            self.say("/weather", "hello", sender=f"user{number}@example.org/x")
        self.stop(self.relay)
        self.assertEqual(0, self.relay.pending)
        self.assert_accounts(self.relay)


MOODS = ("well", "away", "hangs", "fails", "busy", "pauses")

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("say"), st.sampled_from(["a", "b", "c", "d"]), st.sampled_from(["/weather", "/news", "hi"])),
        st.tuples(st.just("ask"), st.sampled_from(["a", "b", "c"]), st.just("")),
        st.tuples(st.just("mood"), st.sampled_from(["own", "weather", "news"]), st.sampled_from(MOODS)),
        st.tuples(st.just("wait"), st.sampled_from(["0.01", "1", "5", "30"]), st.just("")),
        st.tuples(st.just("answer"), st.sampled_from(["own", "weather", "news"]), st.just("")),
        st.tuples(st.just("routes"), st.sampled_from(["both", "news", "none", "swapped"]), st.just("")),
    ),
    min_size=5,
    max_size=60,
)


class MoodyWebhook:
    """
    A webhook that answers by its mood.

    Attributes:
        held: The requests that it has not answered.
    """

    def __init__(self, posted: list[tuple[str, str]]) -> None:
        self.mood = "well"
        self.held: list[Deferred[Response]] = []
        self.most = 0
        self._posted = posted

    async def post(self, body: bytes, headers: Mapping[str, str], *, fresh: bool = False) -> Response:
        asked = json.loads(body)
        self._posted.append((f"{asked['from']} {asked['kind']}", headers["webhook-id"]))
        if self.mood == "away":
            raise ConnectionFailed("refused")
        if self.mood == "hangs":
            held: Deferred[Response] = Deferred()
            self.held.append(held)
            self.most = max(self.most, len(self.held))
            try:
                return await held
            finally:
                self.held.remove(held)
        return {
            "well": Response(204),
            "fails": Response(500),
            "busy": Response(429, {"retry-after": "2"}),
            "pauses": Response(503, {"retry-after": "3"}),
        }[self.mood]


class AnythingTests(DeliveryTestCase):
    """Webhooks of any mood, and routes that change meanwhile."""

    @given(STEPS)
    def test_nothing_stays_behind(self, steps: list[tuple[str, str, str]]) -> None:
        """
        Whatever happens, the stanzas of a conversation are POSTed in order, no webhook has more requests than it may,
        and when all webhooks are well again everything ends soon.
        """
        self.setUp()
        posted: list[tuple[str, str]] = []
        webhooks = {name: MoodyWebhook(posted) for name in ("own", "weather", "news")}
        weather, news = (Route(name, Conditions(body=f"/{name}")) for name in ("weather", "news"))
        choices = {
            "both": Routes([weather, news]),
            "news": Routes([news]),
            "none": Routes(),
            "swapped": Routes([Route("news", Conditions(body="/weather")), Route("weather", Conditions(kinds=["iq"]))]),
        }
        numbers = itertools.count(1)
        world = relay_world(
            webhooks["own"],
            self.clock,
            counters=self.counters,
            outlet=self.outlet,
            valve=self.valve,
            max_running=2,
            new_id=lambda: f"{next(numbers):04}",
            routes=choices["both"],
            webhooks={name: webhooks[name] for name in ("weather", "news")},
        )
        relay = world.relay
        for step, first, second in steps:
            if step == "say":
                relay.accept(a_stanza(body=second, sender=f"{first}@example.org/x"))
            elif step == "ask":
                relay.accept(a_stanza("iq", "get", sender=f"{first}@example.org/x"))
            elif step == "mood":
                webhooks[first].mood = second
            elif step == "wait":
                self.clock.pump([float(first) / 10] * 10)
            elif step == "answer":
                for held in webhooks[first].held[:1]:
                    held.callback(Response(204))
            else:
                routes = choices[first]
                missing = [route.name for route in routes.routes if route.name not in relay.lanes]
                relay.use_routes(routes, {name: world.forwarder(webhooks[name]) for name in missing})
            self.assertLessEqual(max(webhook.most for webhook in webhooks.values()), 4)
        for webhook in webhooks.values():
            webhook.mood = "well"
            for held in list(webhook.held):
                held.callback(Response(204))
        self.clock.pump([0.5] * 260)
        self.assertEqual(0, relay.pending, posted)
        self.assert_accounts(relay)
        of_each: dict[str, dict[str, None]] = {}
        for conversation, delivery_id in posted:
            of_each.setdefault(conversation, {})[delivery_id] = None
        for conversation, deliveries in of_each.items():
            self.assertEqual(sorted(deliveries), [*deliveries], conversation)
