"""
What every `Webhook` promises: one suite for the fake and for the real client with a real server.

Behind both is a `ScriptedWebhook` that says what is answered. The fake is that one itself; the real client reaches it
over HTTP.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred, gatherResults, succeed
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from component_http.contract.reply import Response
from component_http.errors import ConnectionCut, ConnectionFailed, TimedOut, WebhookError
from component_http.interfaces import Webhook
from component_http.testing import Answer, ScriptedWebhook, json_response
from component_http.webhook.client import WebhookClient
from tests.integration.servers import free_port

reactor: Any = _reactor

STRIKES = 0.3
"""Seconds after which a time limit strikes where a test is about it."""

EVERY_BYTE = bytes(range(256))


def echo(body: bytes, _headers: Mapping[str, str]) -> Response:
    """Answer with what was asked."""
    return Response(200, {}, body)


class WebhookPromises:
    """
    The suite. Whoever runs it says how a webhook comes to its bot, and when what was sent to the bot has arrived.
    """

    timeout = 120

    def setUp(self) -> None:
        self.running: list[Deferred[Response]] = []

    def webhook(self, bot: ScriptedWebhook, **settings: Any) -> Webhook:
        """The webhook with this bot behind it, one in each test; `settings` are for the client where there is one."""
        raise NotImplementedError

    def unreachable(self) -> Webhook:
        """A webhook that nobody is behind."""
        raise NotImplementedError

    def until(self, condition: Callable[[], object]) -> Deferred[None]:
        """Fire when what has happened at the bot makes the condition true."""
        raise NotImplementedError

    def post(
        self, webhook: Webhook, body: bytes = b"{}", headers: Mapping[str, str] | None = None, *, fresh: bool = False
    ) -> Deferred[Response]:
        """A POST on its way."""
        answered = ensureDeferred(webhook.post(body, headers or {}, fresh=fresh))
        self.running.append(answered)
        return answered

    async def test_response_arrives(self) -> None:
        """
        Status and body arrive as the bot gave them, headers under their lower-case names.
        """
        bot = ScriptedWebhook([Response(503, {"Retry-After": "7", "x-a": "b, c"}, EVERY_BYTE)])
        response = await self.post(self.webhook(bot))
        self.assertEqual((503, EVERY_BYTE), (response.status, response.body))
        self.assertEqual(("7", "b, c"), (response.headers["retry-after"], response.headers["x-a"]))
        self.assertEqual([], [name for name in response.headers if name != name.lower()])

    async def test_response_without_a_body(self) -> None:
        """
        A response without a body has an empty one.
        """
        response = await self.post(self.webhook(ScriptedWebhook()))
        self.assertEqual((204, b""), (response.status, response.body))

    async def test_request_arrives(self) -> None:
        """
        The bot gets body and headers as they were given.
        """
        bot = ScriptedWebhook()
        headers = {"webhook-id": "m1", "webhook-attempt": "2"}
        await self.post(self.webhook(bot), EVERY_BYTE, headers)
        [(body, arrived)] = bot.posts
        self.assertEqual(EVERY_BYTE, body)
        self.assertEqual(headers, {name: arrived[name] for name in headers})

    async def test_large_body(self) -> None:
        """
        A body of several megabytes arrives whole, and so does one in the answer.
        """
        body = b"x" * 3_000_000
        webhook = self.webhook(ScriptedWebhook(answer=echo), max_body_bytes=len(body))
        self.assertEqual(body, (await self.post(webhook, body)).body)

    async def test_one_after_the_other(self) -> None:
        """
        Each POST gets the answer that is next.
        """
        webhook = self.webhook(ScriptedWebhook([json_response(f"[{number}]") for number in range(3)]))
        self.assertEqual([b"[0]", b"[1]", b"[2]"], [(await self.post(webhook)).body for _ in range(3)])

    async def test_several_at_once(self) -> None:
        """
        Of several POSTs at once each gets its own answer, in whatever order they are answered.
        """
        later: dict[bytes, Deferred[Response]] = {body: Deferred() for body in (b"1", b"2", b"3")}
        bot = ScriptedWebhook(answer=lambda body, _: later[body])
        webhook = self.webhook(bot)
        answers = [self.post(webhook, body) for body in later]
        await self.until(lambda: bot.under_way == 3)
        for body, answer in reversed(later.items()):
            answer.callback(Response(200, {}, body))
        self.assertEqual([*later], [response.body for response in await gatherResults(answers)])

    async def test_paused(self) -> None:
        """
        A paused webhook answers nobody, and everybody once it is resumed.
        """
        bot = ScriptedWebhook(answer=echo)
        webhook = self.webhook(bot)
        bot.pause()
        answers = [self.post(webhook, body) for body in (b"1", b"2")]
        await self.until(lambda: bot.under_way == 2)
        for answer in answers:
            self.assertNoResult(answer)
        bot.resume()
        self.assertEqual([b"1", b"2"], [response.body for response in await gatherResults(answers)])
        self.assertEqual(b"3", (await self.post(webhook, b"3")).body)

    async def test_counted(self) -> None:
        """
        The bot knows how many POSTs are under way, and how many were at most.
        """
        bot = ScriptedWebhook()
        webhook = self.webhook(bot)
        bot.pause()
        answers = [self.post(webhook) for _ in range(3)]
        await self.until(lambda: bot.under_way == 3)
        bot.resume()
        await gatherResults(answers)
        await self.post(webhook)
        self.assertEqual((0, 3, 4), (bot.under_way, bot.most_under_way, len(bot.posts)))

    async def test_cancelled_while_paused(self) -> None:
        """
        A cancelled POST ends on both sides though the webhook is paused, and the next one is answered.
        """
        bot = ScriptedWebhook(answer=echo)
        webhook = self.webhook(bot, max_connections=1)
        bot.pause()
        await self.cancelled(self.post(webhook), bot)
        bot.resume()
        self.assertEqual(b"next", (await self.post(webhook, b"next")).body)

    async def test_cancelled_before_the_answer(self) -> None:
        """
        A cancelled POST ends what the bot does for it, and the next one is answered.
        """
        ended: list[object] = []
        work: Deferred[Response] = Deferred(ended.append)
        bot = ScriptedWebhook([work], answer=echo)
        webhook = self.webhook(bot, max_connections=1)
        await self.cancelled(self.post(webhook), bot)
        self.assertEqual([work], ended)
        self.assertEqual(b"next", (await self.post(webhook, b"next")).body)

    async def test_cancelled_at_once(self) -> None:
        """
        A POST that is cancelled before anything could happen ends, and the next one is answered.
        """
        bot = ScriptedWebhook(answer=echo)
        webhook = self.webhook(bot, max_connections=1)
        bot.pause()
        answered = self.post(webhook)
        answered.cancel()
        await self.assertFailure(answered, CancelledError)
        bot.resume()
        self.assertEqual(b"next", (await self.post(webhook, b"next")).body)

    async def test_unreachable(self) -> None:
        """
        Where nobody listens, a POST fails with `ConnectionFailed`.
        """
        error = await self.assertFailure(self.post(self.unreachable()), ConnectionFailed)
        self.assertIsInstance(error, WebhookError)

    async def test_cut(self) -> None:
        """
        A POST whose connection is cut fails with `ConnectionCut`, and the next one is answered.
        """
        webhook = self.webhook(ScriptedWebhook([ConnectionCut("closed")], answer=echo), max_connections=1)
        error = await self.assertFailure(self.post(webhook), ConnectionCut)
        self.assertIsInstance(error, WebhookError)
        self.assertEqual(b"next", (await self.post(webhook, b"next")).body)

    async def test_timed_out(self) -> None:
        """
        A POST that is not answered in time fails with `TimedOut`.
        """
        webhook = self.webhook(ScriptedWebhook([TimedOut("no answer")]), timeout=STRIKES)
        error = await self.assertFailure(self.post(webhook), TimedOut)
        self.assertIsInstance(error, WebhookError)

    async def test_fresh(self) -> None:
        """
        A POST over a fresh connection is answered like any other, also where there is room for one only.
        """
        webhook = self.webhook(ScriptedWebhook(answer=echo), max_connections=1)
        for fresh in (False, True, True, False):
            self.assertEqual(b"a", (await self.post(webhook, b"a", fresh=fresh)).body)

    async def cancelled(self, answered: Deferred[Response], bot: ScriptedWebhook) -> None:
        """Cancel a POST when it is under way, and see it end on both sides."""
        await self.until(lambda: bot.under_way == 1)
        answered.cancel()
        await self.assertFailure(answered, CancelledError)
        await self.until(lambda: bot.under_way == 0)


class FakeWebhookTests(WebhookPromises, TestCase):
    """The promises, kept by `ScriptedWebhook`."""

    def webhook(self, bot: ScriptedWebhook, **settings: Any) -> Webhook:
        return bot

    def unreachable(self) -> Webhook:
        return ScriptedWebhook([ConnectionFailed("refused")])

    def until(self, condition: Callable[[], object]) -> Deferred[None]:
        # In memory everything has happened by the time a test can ask.
        self.assertTrue(condition())
        return succeed(None)


class HttpBot(Resource):
    """
    Passes POSTs on to a `ScriptedWebhook`: HTTP around it.

    Its errors become what a client would make them of: a cut connection, or no answer at all.
    """

    isLeaf = True

    def __init__(self, bot: ScriptedWebhook) -> None:
        super().__init__()
        self._bot = bot
        self._watches: list[tuple[Callable[[], object], Deferred[None]]] = []

    def when(self, condition: Callable[[], object]) -> Deferred[None]:
        """Fire as soon as something has happened that makes the condition true."""
        watch: Deferred[None] = Deferred()
        self._watches.append((condition, watch))
        self._happened()
        return watch

    def render_POST(self, request: Any) -> int:
        headers = {
            name.decode("ascii").lower(): values[0].decode("ascii")
            for name, values in request.requestHeaders.getAllRawHeaders()
        }
        answered = ensureDeferred(self._bot.post(request.content.read(), headers))
        request.notifyFinish().addErrback(lambda _: answered.cancel())
        answered.addCallbacks(self._say, self._fail, callbackArgs=(request,), errbackArgs=(request,))
        answered.addBoth(lambda _: self._happened())
        self._happened()
        return NOT_DONE_YET

    def _say(self, response: Response, request: Any) -> None:
        request.setResponseCode(response.status)
        for name, value in response.headers.items():
            request.setHeader(name, value)
        request.write(response.body)
        request.finish()

    def _fail(self, reason: Failure, request: Any) -> None:
        if reason.trap(CancelledError, ConnectionCut, TimedOut) is ConnectionCut:
            request.transport.abortConnection()

    def _happened(self) -> None:
        fulfilled = [watch for condition, watch in self._watches if condition()]
        self._watches = [(condition, watch) for condition, watch in self._watches if watch not in fulfilled]
        for watch in fulfilled:
            watch.callback(None)


class RealWebhookTests(WebhookPromises, TestCase):
    """The promises, kept by `WebhookClient` with a server of twisted.web."""

    def setUp(self) -> None:
        super().setUp()
        self.clients: list[WebhookClient] = []

    def tearDown(self) -> Any:
        return Deferred.fromCoroutine(self.stop())

    async def stop(self) -> None:
        for answered in self.running:
            answered.addErrback(lambda _: None)
            answered.cancel()
        for client in self.clients:
            await client.close()

    def client(self, port: int, **settings: Any) -> WebhookClient:
        client = WebhookClient(f"http://127.0.0.1:{port}/", reactor=reactor, **settings)
        self.clients.append(client)
        return client

    def webhook(self, bot: ScriptedWebhook, **settings: Any) -> Webhook:
        self.http_bot = HttpBot(bot)
        port = reactor.listenTCP(0, Site(self.http_bot), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        return self.client(port.getHost().port, **settings)

    def unreachable(self) -> Webhook:
        return self.client(free_port())

    def until(self, condition: Callable[[], object]) -> Deferred[None]:
        return self.http_bot.when(condition)


class ScriptTests(SynchronousTestCase):
    """What only the fake can do."""

    def post(self, webhook: Webhook, body: bytes = b"{}", *, fresh: bool = False) -> Deferred[Response]:
        return ensureDeferred(webhook.post(body, {}, fresh=fresh))

    def status_of(self, answered: Deferred[Response]) -> int:
        """The status of an answer that is there."""
        return self.successResultOf(answered).status

    def test_script_then_function(self) -> None:
        """
        The script goes first, then the function is asked.
        """
        webhook = ScriptedWebhook([Response(503)], answer=echo)
        self.assertEqual([503, 200, 200], [self.status_of(self.post(webhook)) for _ in range(3)])

    def test_script_then_nothing(self) -> None:
        """
        Without a function a script that is used up goes on with 204.
        """
        webhook = ScriptedWebhook([Response(503)])
        self.assertEqual([503, 204, 204], [self.status_of(self.post(webhook)) for _ in range(3)])

    def test_errors(self) -> None:
        """
        Script and function may give an error, at once or later, and the function may raise it.
        """

        async def later() -> Answer:
            return TimedOut("later")

        def fail(_body: bytes, _headers: Mapping[str, str]) -> Response:
            raise TimedOut("raised")

        for webhook in (
            ScriptedWebhook([TimedOut("at once")]),
            ScriptedWebhook(answer=lambda *_: TimedOut("at once")),
            ScriptedWebhook(answer=lambda *_: later()),
            ScriptedWebhook(answer=fail),
        ):
            self.failureResultOf(self.post(webhook), TimedOut)
            self.assertEqual(0, webhook.under_way)

    def test_fresh_is_noted(self) -> None:
        """
        The fake knows which POSTs asked for a fresh connection.
        """
        webhook = ScriptedWebhook()
        for fresh in (False, True):
            self.post(webhook, fresh=fresh)
        self.assertEqual([False, True], webhook.fresh)

    def test_answer_function_sees_the_request(self) -> None:
        """
        The function gets body and headers of the POST.
        """
        webhook = ScriptedWebhook(answer=lambda body, headers: Response(200, {}, body + headers["webhook-id"].encode()))
        answered = ensureDeferred(webhook.post(b"body of ", {"webhook-id": "m1"}))
        self.assertEqual(b"body of m1", self.successResultOf(answered).body)

    def test_under_way_when_paused(self) -> None:
        """
        A POST that was under way before the pause is answered in it.
        """
        later: Deferred[Response] = Deferred()
        webhook = ScriptedWebhook([later])
        answered = self.post(webhook)
        webhook.pause()
        later.callback(Response(200))
        self.assertEqual(200, self.status_of(answered))

    def test_resumed_in_order(self) -> None:
        """
        What was held back is answered in the order it came, also before what is POSTed while that happens.
        """
        webhook = ScriptedWebhook(answer=echo)
        order: list[bytes | None] = []

        def note(response: Response) -> None:
            order.append(response.body)
            if response.body == b"1":
                self.post(webhook, b"3").addCallback(note)

        webhook.pause()
        for body in (b"1", b"2"):
            self.post(webhook, body).addCallback(note)
        webhook.resume()
        self.assertEqual([b"1", b"2", b"3"], order)

    def test_paused_again(self) -> None:
        """
        If an answer leads to another pause, what is still held back stays so.
        """
        webhook = ScriptedWebhook()
        webhook.pause()
        first, second = self.post(webhook), self.post(webhook)
        first.addCallback(lambda _: webhook.pause())
        webhook.resume()
        self.successResultOf(first)
        self.assertNoResult(second)

    def test_cancelled_while_paused(self) -> None:
        """
        A POST that is cancelled while the webhook is paused takes no answer from the script.
        """
        webhook = ScriptedWebhook([Response(201)])
        webhook.pause()
        cancelled, next_one = self.post(webhook), self.post(webhook)
        cancelled.cancel()
        self.failureResultOf(cancelled, CancelledError)
        webhook.resume()
        self.assertEqual(201, self.status_of(next_one))
