"""The stanzas that the application itself sends, without the API."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence

from twisted.internet.defer import CancelledError, Deferred

from component_http.contract.composing import Composed
from component_http.contract.objects import read_json, reply_objects
from component_http.errors import NotSent, ReplyRefused, SpoolError
from component_http.interfaces import ReplyObjects, Sender
from component_http.waiters import Waiters


class Pushes:
    """
    Takes what the application sends between the gateway's start and its stop.

    Until the spool has been read a push waits: what the spool has from before is sent first.

    Args:
        compose: Makes stanzas of reply objects, which are of the kind that it is given unless they name another.
    """

    def __init__(self, compose: Callable[[Sequence[Mapping[str, object]], str], Composed]) -> None:
        self._compose = compose
        self._sender: Sender | None = None
        self._is_started = False
        self._until_open = Waiters()
        self._waiting: set[Deferred[None]] = set()

    def start(self) -> None:
        """Let pushes wait for `open`; before this they fail."""
        self._is_started = True

    def open(self, sender: Sender) -> None:
        """Keep and send what is pushed."""
        self._sender = sender
        self._until_open.tell()

    def close(self) -> None:
        """Refuse pushes from now on, and end every wait with `NotSent`."""
        self._sender, self._is_started = None, False
        self._until_open.tell()
        for waiting in list(self._waiting):
            waiting.cancel()

    async def push(self, objects: ReplyObjects, kind: str, *, until_sent: bool) -> list[str]:
        """See `component_http.gateway.Gateway.push`."""
        # By way of JSON the objects pass all the checks of a request to the API.
        composed = self._compose(reply_objects(read_json(json.dumps(objects).encode("utf-8"))), kind)
        if not composed.stanzas:
            raise ReplyRefused("there is nothing to send")
        if self._is_started and self._sender is None:
            await self._until_open.one_more()
        sender = self._sender
        if sender is None:
            raise SpoolError("the gateway is not running")
        numbers = await sender.push(composed)
        if until_sent:
            await self._sent(sender, numbers)
        return [stanza["id"] for stanza in composed.stanzas]

    async def _sent(self, sender: Sender, numbers: Sequence[int]) -> None:
        waiting = Deferred.fromCoroutine(sender.sent(numbers))
        self._waiting.add(waiting)
        try:
            await waiting
        except CancelledError:
            if self._sender is sender:
                raise
            raise NotSent("the gateway was stopped before the server was known to have it") from None
        except NotSent as error:
            raise NotSent(f"it was kept, but {error}") from None
        finally:
            self._waiting.discard(waiting)
