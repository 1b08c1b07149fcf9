"""
The part that all shapes of the API share: compose stanzas, check that they may be sent, send them, and wait.

A shape (`v1`, `post_msg`, `rest`, `hooks`) reads a request, and tells the outcome in its own way.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Coroutine, Iterable, Mapping, MutableMapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from attrs import evolve, frozen
from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure
from twisted.words.xish.domish import Element

from component_http.api.exchange import Call, Problem
from component_http.api.reading import read_seconds
from component_http.api.refusals import bounce_problem, room_problem
from component_http.api.tokens import Token
from component_http.contract import composing
from component_http.contract.address import Address, NotAnAddress
from component_http.contract.composing import Composed
from component_http.contract.idempotency import IdempotencyRecord
from component_http.contract.objects import first_sender
from component_http.contract.stanza import Stanza
from component_http.contract.xml import Limits
from component_http.errors import (
    Bounced,
    DeliveryEnded,
    ForeignSender,
    NotSent,
    Offline,
    ReplyRefused,
    RoomRefused,
    SpoolError,
    Unanswered,
)
from component_http.interfaces import Observer, Origin, Sender
from component_http.log import Logger
from component_http.waiters import Ongoing

DEFAULT_TIMEOUT = 30.0
"""Seconds to wait for the answer to an iq, or until a stanza is sent, unless the request says otherwise."""

RETRY_AFTER = "5"
"""Seconds after which a client may try again if there is no room now, because a full spool takes time to empty."""

_KEY = re.compile(r'"([!-~ ]{1,255})"|([!#-~]{1,255})')

_Result = TypeVar("_Result")


@frozen
class Pushed:
    """The ids of stanzas that are kept until the server has them, and their numbers for `sent` of their sender."""

    ids: Sequence[str]
    numbers: Sequence[int]
    sender: Sender


def fingerprint(call: Call, composed: Composed) -> str:
    """
    Make a text that differs between two different requests with the same idempotency key.

    The time that a request wants to wait makes no difference. The senders do, for the user of Basic auth may set them.
    """
    digest = hashlib.sha256()
    for part in (call.method, call.path, call.media_type, *(stanza["from"] for stanza in composed.stanzas)):
        digest.update(f"{part}\n".encode("utf-8", "replace"))
    digest.update(call.body or b"")
    return digest.hexdigest()


class Desk:
    """
    Composes, sends and waits for the shapes.

    Args:
        origins: Each component that stanzas may come from, by its domain; it may change.
        observer: Told `api_pushed`, `api_asked`, `api_unanswered` and `api_full`.
        max_timeout: The longest wait that a request may ask for, in seconds.
    """

    _log = Logger()

    def __init__(
        self,
        origins: MutableMapping[str, Origin],
        observer: Observer,
        *,
        new_id: Callable[[], str],
        clock: IReactorTime,
        max_timeout: float,
    ) -> None:
        self.origins = origins
        self.max_timeout = max_timeout
        self._observer = observer
        self._new_id = new_id
        self._clock = clock
        self._keys: set[tuple[str, str]] = set()
        self._keeping = Ongoing()

    def seconds(self) -> float:
        """Return the time of the clock that runs the waits."""
        return self._clock.seconds()

    @property
    def limits(self) -> Limits:
        """The limits of a stanza before its sender is known."""
        return Limits(max_bytes=max([origin.limits.max_bytes for origin in self.origins.values()], default=0))

    # -- composing --

    def _domain(self, objects: Sequence[Mapping[str, object]], caller: Token | None, sender: Address | None) -> str:
        """Find the component that stanzas come from. Raises `Problem` if it is not clear, or is not served."""
        named = first_sender(objects)
        if named is not None:
            with suppress(NotAnAddress):
                sender = Address.parse(named)
        elif sender is None and caller is not None:
            sender = caller.own_sender
        if sender is not None and sender.domain in self.origins:
            return sender.domain
        allowed = [
            each for each in self.origins if caller is None or not caller.components or each in caller.components
        ]
        if len(allowed) == 1 or (sender is not None and allowed):
            return allowed[0]
        if not allowed:
            raise Problem(
                503, "no component that this token is for is served now", headers={"Retry-After": RETRY_AFTER}
            )
        raise Problem(422, f"from: name the sender, because there are several components: {', '.join(allowed)}")

    def _sender_of(self, composed: Composed) -> Sender:
        """Find who sends some stanzas, which are of one component."""
        domain = Address.parse(composed.stanzas[0]["from"]).domain
        return self.origins[domain].sender

    def compose(
        self,
        objects: Iterable[Mapping[str, object]],
        *,
        caller: Token | None = None,
        sender: Address | None = None,
        kind: str = "message",
        children: Sequence[Element] = (),
        foreign_sender: Problem | None = None,
    ) -> Composed:
        """
        Make stanzas of reply objects that answer nothing.

        Args:
            caller: The client, which must be allowed to send them; None for a hook.
            sender: The sender of objects that name none; None for the caller's default.
            kind: The kind of objects that name none.
            children: Elements that no property expresses, to add to the stanza. Give one object with them.
            foreign_sender: The problem to raise for a sender outside the component's domain; None for the usual 422.

        Raises:
            Problem: The stanzas cannot be made, or may not be sent.
        """
        objects = list(objects)
        domain = self._domain(objects, caller, sender)
        origin = self.origins[domain]
        if sender is None and caller is not None:
            sender = caller.default_sender(origin.address)
        try:
            composed = composing.push(
                objects,
                domain=domain,
                limits=origin.limits,
                new_id=self._new_id,
                sender=sender,
                kind=kind,
                children=children,
            )
        except ReplyRefused as refused:
            if foreign_sender is not None and isinstance(refused, ForeignSender):
                raise foreign_sender from None
            raise Problem(422, str(refused)) from None
        if not composed.stanzas:
            raise Problem(422, "there is nothing to send")
        if caller is not None:
            caller.check_allowed(composed.stanzas)
            caller.rate.charge(len(composed.stanzas) - 1)
        return composed

    def answer(self, stanza: Stanza, objects: Iterable[Mapping[str, object]]) -> Composed:
        """Make stanzas that answer a delivery late; no objects at all make the empty result of an iq."""
        domain = stanza.recipient.domain
        if domain not in self.origins:
            raise Problem(410, f"{domain} is not served any more")
        limits = self.origins[domain].limits
        try:
            composed = composing.answer(stanza, objects, domain=domain, limits=limits, new_id=self._new_id)
        except ReplyRefused as refused:
            raise Problem(422, str(refused)) from None
        if composed.stanzas:
            return composed
        if stanza.is_request and composed.note is None:
            return Composed((stanza.response("result"),), answers=True)
        raise Problem(422, composed.note or "there is nothing to send")

    # -- sending --

    async def push(self, owner: str, call: Call, composed: Composed, *, delivery_id: str | None = None) -> Pushed:
        """
        Keep stanzas until the server has them.

        Args:
            owner: The owner of the idempotency key.
            delivery_id: The delivery that they answer late, or None.

        Raises:
            Problem: They are not kept, a room does not let their sender in, or the idempotency key was used for another
                request.
        """
        record = None
        if "idempotency-key" in call.headers:
            record = IdempotencyRecord(
                owner, _key(call.headers["idempotency-key"]), fingerprint(call, composed), _ids(composed)
            )
        return await self._kept(self._push(composed, delivery_id, record))

    async def _push(self, composed: Composed, delivery_id: str | None, record: IdempotencyRecord | None) -> Pushed:
        if record is None:
            return await self._store(composed, delivery_id, None)
        key = record.owner, record.key
        if key in self._keys:
            raise Problem(
                409, "a request with this Idempotency-Key is under way: try again", headers={"Retry-After": "1"}
            )
        self._keys.add(key)
        try:
            earlier = await self._sender_of(composed).recall(*key)
            if earlier is None:
                return await self._store(composed, delivery_id, record)
        except SpoolError:
            raise self._full() from None
        finally:
            self._keys.discard(key)
        if earlier.fingerprint != record.fingerprint:
            raise Problem(422, "this Idempotency-Key was used with another request: make a new one")
        return Pushed(json.loads(earlier.body), earlier.numbers, self._sender_of(composed))

    async def _store(self, composed: Composed, delivery_id: str | None, record: IdempotencyRecord | None) -> Pushed:
        try:
            sender = self._sender_of(composed)
            numbers = await sender.push(composed, delivery_id=delivery_id, record=record)
        except SpoolError:
            raise self._full() from None
        except DeliveryEnded:
            raise Problem(410, "the iq was answered already") from None
        except RoomRefused as refused:
            raise room_problem(refused) from None
        self._observer.count("api_pushed")
        return Pushed([stanza["id"] for stanza in composed.stanzas], numbers, sender)

    def _full(self) -> Problem:
        self._observer.count("api_full")
        return Problem(503, "there is no room for it now: try again later", headers={"Retry-After": RETRY_AFTER})

    async def sent(self, pushed: Pushed, timeout: float) -> bool:
        """
        Wait until the server has stanzas.

        Returns:
            False if the time was over before; the server may still get them.

        Raises:
            Problem: The server will never have one of them, or one came back.
        """
        waiting = Deferred.fromCoroutine(pushed.sender.sent(pushed.numbers))
        try:
            await waiting.addTimeout(timeout, self._clock)
        except (TimeoutError, SpoolError):
            return False
        except Bounced as bounced:
            raise bounce_problem(bounced, pushed.ids) from None
        except NotSent as error:
            raise Problem(502, f"it was kept, but {error}", members={"ids": list(pushed.ids)}) from None
        return True

    async def ask(self, composed: Composed, timeout: float) -> Stanza:
        """
        Send an iq and wait for its answer.

        Args:
            composed: The iq, and nothing else.

        Returns:
            The result or the error, with the id that the iq had at first.

        Raises:
            Problem: The stanza does not ask, or there is no answer.
        """
        iq = composed.stanzas[0]
        if len(composed.stanzas) != 1 or iq.name != "iq":
            raise Problem(422, "one iq can be asked at a time, and nothing else")
        if iq["type"] not in ("get", "set"):
            raise Problem(422, "type: an iq that asks is of type get or set", condition="invalid-xml")
        if len(list(iq.elements())) != 1:
            raise Problem(422, "stanza: an iq that asks has one element in it, the question", condition="bad-format")
        asked_id = iq["id"]
        self._observer.count("api_asked")
        try:
            answer = await self._sender_of(composed).ask(iq, timeout)
        except Unanswered:
            self._observer.count("api_unanswered")
            raise Problem(504, f"no answer came within {timeout:g} s") from None
        except Offline:
            self._observer.count("api_unanswered")
            raise Problem(
                503,
                "the XMPP server is away, or too many questions wait for their answers: try again later",
                headers={"Retry-After": RETRY_AFTER},
            ) from None
        answer["id"] = asked_id
        return evolve(Stanza.from_element(answer), id=asked_id)

    def timeout(self, call: Call) -> float:
        """Read the seconds to wait from `timeout` in the query. Raises `Problem` if it is no number in the range."""
        text = call.argument("timeout")
        if text is None:
            return min(DEFAULT_TIMEOUT, self.max_timeout)
        seconds = read_seconds(text)
        if not seconds or seconds > self.max_timeout:
            raise Problem(400, f"timeout: it is a number of seconds up to {self.max_timeout:g}")
        return seconds

    # -- keeping, which goes on even if the client has gone --

    async def finish(self) -> None:
        """Wait until everything is kept that is being kept."""
        await self._keeping.ended()

    async def _kept(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Run a coroutine to its end; cancelling only ends the wait for it."""
        waiting: Deferred[_Result] = Deferred()

        def over(result: _Result | Failure) -> None:
            if not waiting.called:
                waiting.callback(result)
            elif isinstance(result, Failure) and not result.check(Problem, CancelledError):
                self._log.failure("a request that nobody waits for any more failed", failure=result)

        self._keeping.own(Deferred.fromCoroutine(work).addBoth(over))
        return await waiting


def _key(text: str) -> str:
    match = _KEY.fullmatch(text.strip())
    if match is None:
        raise Problem(400, "the Idempotency-Key is not 1 to 255 visible characters of ASCII")
    return match[1] or match[2]


def _ids(composed: Composed) -> bytes:
    return json.dumps([stanza["id"] for stanza in composed.stanzas]).encode("ascii")
