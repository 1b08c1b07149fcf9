"""A webhook that gives scripted answers."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping

from attrs import evolve

from component_http.contract.reply import Response
from component_http.waiters import Waiters


def json_response(body: str, status: int = 200) -> Response:
    """Make a response of a well-behaved webhook."""
    return Response(status, {"content-type": "application/json"}, body.encode())


Answer = Response | Exception | Awaitable[Response | Exception]
"""One answer of a `ScriptedWebhook`."""


class ScriptedWebhook:
    """
    A `Webhook` that gives scripted answers, and counts.

    The script has one answer for each POST, in the order in which they are answered. After that a function is asked
    or, if there is none, every POST is answered 204. An answer is a response, an error to raise (a `WebhookError` of
    `component_http.errors`, as any webhook's), or either of them later: a `Deferred` or coroutine for each POST.

    Cancelling a POST cancels the `Deferred` or coroutine that it waits for. A POST that is cancelled while the webhook
    is paused takes no answer from the script.

    Attributes:
        posts: Body and headers of each POST so far.
        fresh: For each POST, whether it asked for a connection that carried no request before.
        under_way: The number of POSTs that have begun and not ended.
        most_under_way: The largest number of POSTs that were under way at once.
        paused: Whether POSTs are held back now.
    """

    def __init__(
        self, script: Iterable[Answer] = (), *, answer: Callable[[bytes, Mapping[str, str]], Answer] | None = None
    ) -> None:
        """
        Args:
            script: Answers, each given once.
            answer: Called with body and headers for an answer when the script is used up.
        """
        self.posts: list[tuple[bytes, dict[str, str]]] = []
        self.fresh: list[bool] = []
        self.under_way = 0
        self.most_under_way = 0
        self.paused = False
        self._script = deque(script)
        self._answer = answer
        self._held = Waiters()

    async def post(self, body: bytes, headers: Mapping[str, str], *, fresh: bool = False) -> Response:
        self.posts.append((body, dict(headers)))
        self.fresh.append(fresh)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            if self.paused or self._held:
                await self._held.one_more()
            answer = self._next_answer(body, headers)
            if isinstance(answer, Awaitable):
                answer = await answer
        finally:
            self.under_way -= 1
        if isinstance(answer, Exception):
            raise answer
        return evolve(answer, headers={name.lower(): value for name, value in answer.headers.items()})

    def pause(self) -> None:
        """Hold back every POST that comes from now on; the POSTs under way are answered as usual."""
        self.paused = True

    def resume(self) -> None:
        """Answer the POSTs that were held back, in the order they came, and later ones at once."""
        self.paused = False
        while self._held and not self.paused:
            self._held.tell(lambda: not self.paused)

    def _next_answer(self, body: bytes, headers: Mapping[str, str]) -> Answer:
        if self._script:
            return self._script.popleft()
        return Response(204) if self._answer is None else self._answer(body, headers)
