"""What an application sends by `Gateway.push`."""

from __future__ import annotations

from functools import partial
from itertools import count
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from component_http.contract import composing
from component_http.contract.address import Address
from component_http.contract.composing import Composed
from component_http.contract.xml import Limits
from component_http.delivery.pushes import Pushes
from component_http.errors import NotSent, ReplyRefused, SpoolError
from component_http.testing import RecordingSender

DOMAIN = "bot.example.org"
HELLO = {"to": "alice@example.org", "body": "hello"}


class PushesTests(SynchronousTestCase):
    """From the start of a gateway to its stop."""

    def setUp(self) -> None:
        self.sender = RecordingSender()
        self.pushes = Pushes(self.compose)
        ids = count(1)
        self.push_of = partial(
            composing.push,
            domain=DOMAIN,
            limits=Limits(),
            new_id=lambda: f"id{next(ids)}",
            sender=Address.parse(DOMAIN),
        )

    def compose(self, objects: Any, kind: str) -> Composed:
        return self.push_of(objects, kind=kind)

    def push(self, objects: Any = HELLO, kind: str = "message", until_sent: bool = False) -> Deferred[list[str]]:
        return Deferred.fromCoroutine(self.pushes.push(objects, kind, until_sent=until_sent))

    def open(self) -> None:
        self.pushes.start()
        self.pushes.open(self.sender)

    def test_one_and_several(self) -> None:
        """
        An object makes a stanza, and a list several, and their ids are the result.
        """
        self.open()
        self.assertEqual(["id1"], self.successResultOf(self.push()))
        self.assertEqual(["id2", "mine"], self.successResultOf(self.push([HELLO, {**HELLO, "id": "mine"}])))
        self.assertEqual(
            [("message", DOMAIN, "hello")] * 3,
            [(stanza.name, stanza["from"], str(stanza.body)) for stanza in self.sender.pushed],
        )

    def test_kind(self) -> None:
        """
        Any kind of stanza can be pushed, with numbers of Python in it.
        """
        self.open()
        self.successResultOf(self.push({"to": "alice@example.org", "show": "away", "priority": -5}, kind="presence"))
        [presence] = self.sender.pushed
        self.assertEqual(("presence", "-5"), (presence.name, str(presence.priority)))

    def test_checks(self) -> None:
        """
        What the API would refuse is refused, and nothing is sent.
        """
        self.open()
        wrong: list[tuple[Any, str]] = [
            ({"body": "hello"}, "to: "),
            ([HELLO, {**HELLO, "from": "a@elsewhere.example"}], "from: "),
            ("hello", "not an object"),
            ([], "there is nothing to send"),
            ({**HELLO, "priority": float("nan")}, "does not parse"),
        ]
        for objects, sentence in wrong:
            error = self.failureResultOf(self.push(objects), ReplyRefused).value
            self.assertIn(sentence, str(error))
        self.failureResultOf(self.push({**HELLO, "body": object()}), TypeError)
        self.assertEqual([], self.sender.pushed)

    def test_before_the_spool_is_read(self) -> None:
        """
        A push just after the start is kept as soon as the spool has been read, so no order is lost.
        """
        self.pushes.start()
        pushed = self.push()
        self.assertNoResult(pushed)
        self.pushes.open(self.sender)
        self.assertEqual(["id1"], self.successResultOf(pushed))

    def test_not_running(self) -> None:
        """
        Before the start, after the stop, and where the stop came before the spool was read, nothing is kept.
        """
        self.assertIn("not running", str(self.failureResultOf(self.push(), SpoolError).value))
        self.pushes.start()
        waiting = self.push()
        self.pushes.close()
        self.failureResultOf(waiting, SpoolError)
        self.failureResultOf(self.push(), SpoolError)
        self.open()
        self.successResultOf(self.push())

    def test_full(self) -> None:
        """
        What cannot be kept now fails, and another moment may be better.
        """
        self.open()
        self.sender.full = True
        self.failureResultOf(self.push(), SpoolError)

    def test_until_sent(self) -> None:
        """
        With until_sent the result comes when the server has the stanza; or an error, when it never will.
        """
        self.open()
        self.sender.confirming = False
        pushed = self.push(until_sent=True)
        self.assertNoResult(pushed)
        self.sender.confirm()
        self.assertEqual(["id1"], self.successResultOf(pushed))
        lost = self.push(until_sent=True)
        self.sender.confirm(False)
        self.failureResultOf(lost, NotSent)

    def test_stopped_meanwhile(self) -> None:
        """
        Whoever waits for the server is told when the gateway stops, and nobody waits for ever.
        """
        self.open()
        self.sender.confirming = False
        pushed = self.push(until_sent=True)
        self.pushes.close()
        self.assertIn("stopped", str(self.failureResultOf(pushed, NotSent).value))

    def test_waiting_no_longer(self) -> None:
        """
        A cancelled wait ends, and what was pushed is sent all the same.
        """
        self.open()
        self.sender.confirming = False
        pushed = self.push(until_sent=True)
        pushed.cancel()
        self.failureResultOf(pushed, CancelledError)
        self.assertEqual(1, len(self.sender.pushed))
