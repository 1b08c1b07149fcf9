"""Those who watch conversations: each is told the steps of the life of what matches, a line of JSON each."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from attrs import define, frozen
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall

from component_http.contract.address import Address
from component_http.contract.delivery import Delivery
from component_http.contract.explanation import Explanation
from component_http.contract.outbound import OutboundStanza
from component_http.contract.reply import Response
from component_http.interfaces.tracer import AttemptReport, Headers, Settlement, Tracers
from component_http.shares import Latest

MOST_FOLLOWED = 10_000
"""Deliveries and pushed stanzas whose ends are awaited; of those before it is not told any more how they end."""

MOST_CHARACTERS = 65_536
"""Characters of a stanza, of a request's body and of a response's; the rest is left out."""

LOOK_EVERY = 1.0
"""Seconds between two looks why deliveries wait: who waits for less does not notice."""

MOST_EXPLAINED = 100
"""Deliveries that are looked at; those that wait longest."""

Show = Callable[[str], str]

Facts = Mapping[str, object]


@frozen
class Which:
    """
    The conversations that somebody watches.

    Attributes:
        sender: Of the stanzas that come in: a bare address with all its resources or occupants, a full one, or a domain
            with all its addresses; None for anybody. `recipient` likewise.
    """

    sender: Address | None = None
    recipient: Address | None = None

    def fits(self, sender: str, recipient: str) -> bool:
        return _is_one(sender, self.sender) and _is_one(recipient, self.recipient)


def _is_one(address: str, of: Address | None) -> bool:
    if of is None:
        return True
    wanted, bare = of.text, address.partition("/")[0]
    if "/" in wanted:
        return address == wanted
    return bare == wanted or ("@" not in wanted and bare.endswith(f"@{wanted}"))


@frozen
class Pair:
    """The sender and the recipient of what came in, or who would have them if the user had begun."""

    sender: str
    recipient: str


@define(eq=False)
class _Followed:
    """
    A delivery, or a stanza that was pushed.

    Attributes:
        waits: It waits for a POST.
        why: The reason for that which was told last.
        unsettled: Outbound stanzas whose ends are not known.
    """

    pair: Pair
    waits: bool = False
    why: tuple[str, str | None] | None = None
    unsettled: int = 0


@define(eq=False)
class Watcher:
    """
    One client that watches; a `Feed`. While it does not read, steps are counted for it, and not kept.

    Args:
        which: The conversations that it wants to see.
        raw: It wants stanzas, headers and bodies, too.
        show: Writes texts in which addresses may be; `None` shows them as they are.
    """

    which: Which
    raw: bool
    _show: Show | None
    _wall: Callable[[], float]
    _left: Callable[[Watcher], object]
    _write: Callable[[bytes], object] | None = None
    _reads: bool = True
    _missed: int = 0

    def begin(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        sender, recipient = self.which.sender, self.which.recipient
        self.tell("watching", {"from": sender and sender.text, "to": recipient and recipient.text, "raw": self.raw})

    def pause(self) -> None:
        self._reads = False

    def resume(self) -> None:
        self._reads = True
        if self._missed:
            missed, self._missed = self._missed, 0
            self.tell("missed", {"steps": missed})

    def stop(self) -> None:
        self._write = None
        self._left(self)

    def tell(self, step: str, facts: Facts, raw: Callable[[], Facts] | None = None) -> None:
        if self._write is None:
            return
        if not self._reads:
            self._missed += 1
            return
        self._write(self._line(step, {**facts, **raw()} if self.raw and raw is not None else facts))

    def _line(self, step: str, facts: Facts) -> bytes:
        time = datetime.fromtimestamp(self._wall(), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        shown = facts if self._show is None else _shown(facts, self._show)
        return json.dumps({"time": time, "step": step, **shown}).encode("ascii") + b"\n"


def _shown(value: Any, show: Show) -> Any:
    if isinstance(value, str):
        return show(value)
    if isinstance(value, Mapping):
        return {name: _shown(each, show) for name, each in value.items()}
    return [_shown(each, show) for each in value] if isinstance(value, list) else value


class Watch:
    """
    A `Tracer` that tells all watchers; while there is none, nobody tells it anything.

    Args:
        tracers: Tell it.
        explain: Says why a delivery waits; None where it does not.
        most: Watchers at once.
    """

    def __init__(
        self,
        tracers: Tracers,
        explain: Callable[[str], Explanation | None],
        clock: IReactorTime,
        wall: Callable[[], float],
        most: int,
    ) -> None:
        self._tracers = tracers
        self._explain = explain
        self._wall = wall
        self._most = most
        self._watchers: dict[Watcher, None] = {}
        self._followed: Latest[str | int, _Followed] = Latest(MOST_FOLLOWED)
        self._looking = LoopingCall(self._look)
        self._looking.clock = clock

    def enter(self, which: Which, *, raw: bool, show: Show | None) -> Watcher | None:
        """Let somebody watch; None if there are as many as may be."""
        if len(self._watchers) >= self._most:
            return None
        watcher = Watcher(which, raw, show, self._wall, self._leave)
        if not self._watchers:
            self._tracers.add(self)
            self._looking.start(LOOK_EVERY, now=False)
        self._watchers[watcher] = None
        return watcher

    def _leave(self, watcher: Watcher) -> None:
        if self._watchers.pop(watcher, self) is None and not self._watchers:
            self._tracers.remove(self)
            self._looking.stop()
            self._followed.clear()

    def _tell(
        self,
        pair: Pair,
        step: str,
        facts: Facts,
        raw: Callable[[], Facts] | None = None,
    ) -> bool:
        """Tell all whom it concerns; returns whether there is any."""
        # One that does not read may be gone when it was told.
        concerned = [each for each in self._watchers if each.which.fits(pair.sender, pair.recipient)]
        for watcher in concerned:
            watcher.tell(step, facts, raw)
        return bool(concerned)

    def _told(
        self,
        delivery: Delivery,
        step: str,
        facts: Facts,
        raw: Callable[[], Facts] | None = None,
    ) -> _Followed | None:
        """Tell a step of a delivery; returns what is known of it, or None if it concerns nobody."""
        pair = Pair(delivery.stanza.sender.text, delivery.stanza.recipient.text)
        head = {"delivery": delivery.id, "from": pair.sender, "to": pair.recipient}
        if not self._tell(pair, step, {**head, **facts}, raw):
            return None
        followed = self._followed.get(delivery.id)
        if followed is None:
            followed = self._followed[delivery.id] = _Followed(pair)
        return followed

    def accepted(self, delivery: Delivery, *, restored: bool) -> None:
        stanza = delivery.stanza
        facts = {**_kind(stanza.kind, stanza.type, stanza.id, delivery.size), "route": delivery.route}
        followed = self._told(delivery, "restored" if restored else "arrived", facts)
        if followed is not None:
            followed.waits = True

    def posted(self, delivery: Delivery, body: bytes, headers: Headers) -> None:
        followed = self._told(
            delivery,
            "posted",
            {"attempt": delivery.tries + delivery.unreached},
            lambda: {"headers": [list(each) for each in headers], "body": _text(body)},
        )
        if followed is not None:
            followed.waits, followed.why = False, None

    def attempted(self, delivery: Delivery, report: AttemptReport, response: Response | None) -> None:
        facts = {
            "attempt": report.number,
            "milliseconds": _milliseconds(report.seconds),
            "connecting_milliseconds": _milliseconds(report.connecting),
            "first_byte_milliseconds": _milliseconds(report.first_byte),
            "status": report.status,
            "failure": report.failure,
            "follows": report.follows,
            "again_seconds": report.again,
        }
        followed = self._told(delivery, "attempted", facts, lambda: _response(response))
        if followed is not None:
            followed.waits = report.follows in ("retry", "left_open")
            # The step says so itself.
            followed.why = ("open_iq" if report.follows == "left_open" else "backing_off", None)

    def ended(self, delivery: Delivery, outcome: str, note: str | None, stanzas: Sequence[OutboundStanza]) -> None:
        followed = self._told(
            delivery,
            "ended",
            {"outcome": outcome, "note": note, "replies": [_outbound(each) for each in stanzas]},
            lambda: {"replies": [{**_outbound(each), "xml": _text(each.xml)} for each in stanzas]},
        )
        if followed is not None:
            followed.waits, followed.unsettled = False, len(stanzas)
            if not stanzas:
                del self._followed[delivery.id]

    def pushed(self, number: int, outbound: OutboundStanza) -> None:
        head = outbound.head
        pair = Pair(head.recipient, head.sender)
        facts = {"number": number, "from": head.sender, **_outbound(outbound)}
        if self._tell(pair, "pushed", facts, lambda: {"xml": _text(outbound.xml)}):
            self._followed[number] = _Followed(pair, unsettled=1)

    def settled(self, number: int, delivery_id: str | None, settlement: Settlement, why: str | None = None) -> None:
        key = number if delivery_id is None else delivery_id
        followed = self._followed.get(key)
        if followed is None:
            return
        facts = {"delivery": delivery_id, "number": number, "settlement": settlement, "why": why}
        self._tell(followed.pair, "settled", facts)
        if settlement != "lost":
            followed.unsettled -= 1
            if followed.unsettled <= 0:
                self._followed.pop(key, None)

    def _look(self) -> None:
        """Tell why deliveries wait that have waited for a moment, each reason once."""
        waiting = ((key, each) for key, each in self._followed.items() if each.waits and isinstance(key, str))
        for key, followed in list(islice(waiting, MOST_EXPLAINED)):
            found = self._explain(key)
            if found is None or found.held_by in ("running", "ending") or followed.why == (found.held_by, found.behind):
                continue
            followed.why = found.held_by, found.behind
            facts = {
                "delivery": key,
                "held_by": found.held_by,
                "behind": found.behind,
                "next_try_seconds": None if found.next_attempt is None else round(found.next_attempt, 3),
                "last_failure": found.last_failure,
            }
            self._tell(followed.pair, "waits", facts)


def _kind(kind: str, type_: str | None, id_: str | None, size: int) -> dict[str, object]:
    return {"kind": kind, "type": type_ or None, "id": id_, "bytes": size}


def _outbound(outbound: OutboundStanza) -> dict[str, object]:
    head = outbound.head
    return {"to": head.recipient, **_kind(outbound.kind, head.type, head.id, len(outbound.xml))}


def _response(response: Response | None) -> dict[str, object]:
    if response is None:
        return {}
    headers = [[name, "(hidden)" if name == "set-cookie" else value] for name, value in response.headers.items()]
    return {"headers": headers, "body": None if response.body is None else _text(response.body)}


def _text(content: bytes) -> str:
    """Write content as text; a character may take four bytes."""
    text = content[: 4 * MOST_CHARACTERS].decode("utf-8", "replace")
    return text if len(content) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]}… ({len(content)} bytes)"


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)
