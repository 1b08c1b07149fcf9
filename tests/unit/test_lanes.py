"""Deliveries of one component on their ways to several webhooks."""

from __future__ import annotations

import json
from typing import Any

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
