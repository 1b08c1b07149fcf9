"""Stand-ins for the seams of `component_http.interfaces`, for tests of this package and of those who embed it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping

from twisted.internet.defer import Deferred
from twisted.words.xish.domish import Element

from component_http.contract.reply import Response

__all__ = ["RecordingOutlet", "RecordingValve", "ScriptedWebhook", "json_response"]


def json_response(body: str, status: int = 200) -> Response:
    """A response as a well-behaved webhook gives it."""
    return Response(status, {"content-type": "application/json"}, body.encode())


class ScriptedWebhook:
    """
    A `Webhook` that gives the answers it was told to give, one for each POST.

    An answer is a `Response`, an exception to raise, or a `Deferred` of one of them for an answer that comes later.
    When the script is used up, every POST is answered 204.

    Attributes:
        posts: Body and headers of each POST so far.
    """

    def __init__(self, script: Iterable[Response | Exception | Deferred[Response]] = ()) -> None:
        self._script = deque(script)
        self.posts: list[tuple[bytes, dict[str, str]]] = []

    async def post(self, body: bytes, headers: Mapping[str, str]) -> Response:
        """See `component_http.interfaces.Webhook.post`."""
        self.posts.append((body, dict(headers)))
        answer = self._script.popleft() if self._script else Response(204)
        if isinstance(answer, Deferred):
            answer = await answer
        if isinstance(answer, Exception):
            raise answer
        return answer


class RecordingOutlet:
    """
    An `Outlet` that keeps what is sent.

    Attributes:
        sent: The stanzas, in order.
        full: Set it to True and nothing more is taken.
    """

    def __init__(self) -> None:
        self.sent: list[Element] = []
        self.full = False

    def send(self, element: Element) -> bool:
        """See `component_http.interfaces.Outlet.send`."""
        if not self.full:
            self.sent.append(element)
        return not self.full


class RecordingValve:
    """
    A `Valve` that knows whether it is closed.

    Attributes:
        paused: Reading is held back now.
    """

    def __init__(self) -> None:
        self.paused = False

    def pause(self) -> None:
        """See `component_http.interfaces.Valve.pause`."""
        self.paused = True

    def resume(self) -> None:
        """See `component_http.interfaces.Valve.resume`."""
        self.paused = False
