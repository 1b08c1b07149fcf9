"""A function of the application in the place of the webhook."""

from __future__ import annotations

import gc
import json
from collections.abc import Awaitable, Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from component_http.contract.reply import Response
from component_http.errors import ConnectionFailed, TimedOut
from component_http.webhook.function import FunctionWebhook

REQUEST = {"to": "bot@bot.example.org", "from": "alice@example.org/x", "kind": "message", "body": "hello"}


class FunctionWebhookTests(SynchronousTestCase):
    """What a function returns, raises or does not do, as the gateway sees it."""

    def setUp(self) -> None:
        self.clock = Clock()

    def post(self, answer: Callable[[dict[str, Any]], Awaitable[Any]]) -> Deferred[Response]:
        webhook = FunctionWebhook(answer, timeout=30, clock=self.clock)
        return Deferred.fromCoroutine(webhook.post(json.dumps(REQUEST).encode(), {"webhook-id": "d1"}))

    def answered(self, value: Any) -> Response:
        """The response where the function returns that."""

        async def answer(request: dict[str, Any]) -> Any:
            return value

        return self.successResultOf(self.post(answer))

    def test_request_and_reply(self) -> None:
        """
        The function gets what a POST would have in its body, and its dict is a reply as JSON.
        """

        async def answer(request: dict[str, Any]) -> dict[str, str]:
            self.assertEqual(REQUEST, request)
            return {"body": f"You said: {request['body']}"}

        response = self.successResultOf(self.post(answer))
        self.assertEqual((200, "application/json"), (response.status, response.headers["content-type"]))
        self.assertEqual({"body": "You said: hello"}, json.loads(response.body or b""))

    def test_other_answers(self) -> None:
        """
        A list is several replies, None is none, and a response says what HTTP can say.
        """
        self.assertEqual([{"body": "a"}, {"body": "b"}], json.loads(self.answered([{"body": "a"}, {"body": "b"}]).body))
        self.assertEqual(204, self.answered(None).status)
        busy = Response(503, {"retry-after": "5"})
        self.assertEqual(busy, self.answered(busy))

    def test_mistakes(self) -> None:
        """
        A function that fails, or returns what cannot be a reply, counts as a webhook that answers 500, and is logged.
        """

        async def broken(request: dict[str, Any]) -> None:
            raise KeyError("oops")

        self.assertEqual(500, self.successResultOf(self.post(broken)).status)
        self.assertEqual(1, len(self.flushLoggedErrors(KeyError)))
        for value in ("hello", 42, {"body": object()}):
            self.assertEqual(500, self.answered(value).status)
            self.assertEqual(1, len(self.flushLoggedErrors(TypeError)))

    def test_failing_on_purpose(self) -> None:
        """
        A WebhookError says how the attempt failed, as where something behind the function is away.
        """

        async def answer(request: dict[str, Any]) -> None:
            raise ConnectionFailed("the database is away")

        self.failureResultOf(self.post(answer), ConnectionFailed)

    def test_too_slow(self) -> None:
        """
        An attempt that takes longer than webhook.timeout is cancelled, and is over even if the function goes on.
        """
        for stubborn in (False, True):
            cancelled: list[bool] = []

            async def answer(
                request: dict[str, Any], stubborn: bool = stubborn, cancelled: list[bool] = cancelled
            ) -> None:
                try:
                    await Deferred()
                except CancelledError:
                    cancelled.append(True)
                    if stubborn:
                        await Deferred()
                    raise

            posted = self.post(answer)
            self.clock.advance(29)
            self.assertNoResult(posted)
            self.clock.advance(1)
            error = self.failureResultOf(posted, TimedOut).value
            self.assertEqual(("no answer within 30 s", [True]), (str(error), cancelled))
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_ending_after_its_time(self) -> None:
        """
        What a function returns or raises after its time is over is for nobody, and no error of the gateway's.
        """
        cleaning: Deferred[None] = Deferred()

        async def answer(request: dict[str, Any]) -> None:
            try:
                await Deferred()
            except CancelledError:
                await cleaning

        posted = self.post(answer)
        self.clock.advance(30)
        self.failureResultOf(posted, TimedOut)
        cleaning.callback(None)
        del posted
        gc.collect()  # an error that nobody handles is logged by then
        self.assertEqual([], self.flushLoggedErrors())

    def test_failing_after_its_time(self) -> None:
        """
        A function whose clean-up fails was too slow all the same.
        """

        async def answer(request: dict[str, Any]) -> None:
            try:
                await Deferred()
            finally:
                raise KeyError("oops")

        posted = self.post(answer)
        self.clock.advance(30)
        self.failureResultOf(posted, TimedOut)

    def test_cancelled(self) -> None:
        """
        Cancelling an attempt cancels the function.
        """
        cancelled: list[bool] = []
        waiting: Deferred[None] = Deferred(lambda _: cancelled.append(True))

        async def answer(request: dict[str, Any]) -> None:
            await waiting

        posted = self.post(answer)
        posted.cancel()
        self.failureResultOf(posted, CancelledError)
        self.assertEqual([True], cancelled)

    def test_cancelled_by_itself(self) -> None:
        """
        A function that cancels something of its own has failed; nobody has cancelled the attempt.
        """
        waiting: Deferred[None] = Deferred()

        async def answer(request: dict[str, Any]) -> None:
            await waiting

        posted = self.post(answer)
        waiting.cancel()
        self.assertEqual(500, self.successResultOf(posted).status)
        self.assertEqual(1, len(self.flushLoggedErrors(CancelledError)))
