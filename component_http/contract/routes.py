"""
The routes of a component: which webhook a stanza goes to.

Matching takes a time that grows with the text, whatever a stranger writes and whatever the pattern is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from attrs import field, frozen

from component_http.contract.address import Address
from component_http.contract.stanza import Stanza


@frozen
class Glob:
    """A pattern in which a * stands for any characters, also for none."""

    text: str
    _parts: tuple[str, ...] = field(init=False, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "_parts", tuple(self.text.split("*")))

    def matches(self, text: str) -> bool:
        first, *others = self._parts
        if not others:
            return text == first
        *inner, last = others
        if len(text) < len(first) + len(last) or not text.startswith(first) or not text.endswith(last):
            return False
        # The leftmost place of each part leaves most to those behind it, so nothing has to be tried twice.
        place, end = len(first), len(text) - len(last)
        for part in inner:
            place = text.find(part, place, end)
            if place < 0:
                return False
            place += len(part)
        return True

    def covers(self, other: Glob) -> bool:
        """Tell whether it matches all that another pattern does; False where that is not plain to see."""
        takes_all = set(self.text) == {"*"}
        return takes_all or self == other or ("*" not in other.text and self.matches(other.text))


@frozen
class AddressPattern:
    """
    A pattern for the bare address of somebody: an address, a domain for all addresses in it, or either with *.

    Args:
        text: Normalised, but for the *.
    """

    text: str
    _glob: Glob = field(init=False, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "_glob", Glob(self.text))

    def matches(self, address: Address) -> bool:
        return self._glob.matches(str(address.bare) if "@" in self.text else address.domain)

    def may_match_domain(self, domain: str) -> bool:
        """Tell whether some address of a domain can match."""
        return Glob(self.text.rpartition("@")[2]).matches(domain)

    def covers(self, other: AddressPattern) -> bool:
        """Tell whether it matches all that another pattern does; False where that is not plain to see."""
        if ("@" in self.text) == ("@" in other.text):
            return self._glob.covers(other._glob)
        return "@" in other.text and self._glob.covers(Glob(other.text.rpartition("@")[2]))


@frozen
class Conditions:
    """
    The conditions of a route; each that is given has to be met.

    Attributes:
        recipient: Patterns of the address that the stanza was sent to (`to`).
        sender: Patterns of the address that it comes from (`from`); in a room that is the room's.
        kinds: Kinds of stanza.
        types: Its `type`; "normal" is that of a message without one, "available" that of a presence.
        body: The beginning of its body; or, with a * in it, a pattern for all of the body.
        room: True: it was said in a room, or comes from one of its occupants. False: it was not.
    """

    recipient: Sequence[AddressPattern] = ()
    sender: Sequence[AddressPattern] = ()
    kinds: Sequence[str] = ()
    types: Sequence[str] = ()
    body: str | None = None
    room: bool | None = None
    _body: Glob | None = field(init=False, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        pattern = None if self.body is None else Glob(self.body if "*" in self.body else f"{self.body}*")
        object.__setattr__(self, "_body", pattern)

    def unmet(self, stanza: Stanza, body: str | None) -> str | None:
        """
        Find the first condition that a stanza does not meet.

        Args:
            body: Its body; None if it has none.

        Returns:
            The name of the condition in the settings; None if all are met.
        """
        if self.kinds and stanza.kind not in self.kinds:
            return "kind"
        if self.types and type_of(stanza) not in self.types:
            return "type"
        if self.room is not None and self.room != (stanza.type == "groupchat" or stanza.through_room):
            return "room"
        if self.recipient and not any(pattern.matches(stanza.recipient) for pattern in self.recipient):
            return "to"
        if self.sender and not any(pattern.matches(stanza.sender) for pattern in self.sender):
            return "from"
        if self._body is not None and (body is None or not self._body.matches(body)):
            return "body"
        return None

    def covers(self, other: Conditions) -> bool:
        """Tell whether they are met wherever others are; False where that is not plain to see."""
        return (
            (not self.kinds or (bool(other.kinds) and set(other.kinds) <= set(self.kinds)))
            and (not self.types or (bool(other.types) and set(other.types) <= set(self.types)))
            and self.room in (None, other.room)
            and _all_covered(self.recipient, other.recipient)
            and _all_covered(self.sender, other.sender)
            and (self._body is None or (other._body is not None and self._covers_body(other)))
        )

    def _covers_body(self, other: Conditions) -> bool:
        assert self.body is not None and other.body is not None and self._body is not None and other._body is not None
        if "*" not in self.body:
            return other.body.partition("*")[0].startswith(self.body)
        return self._body.covers(other._body)


def _all_covered(ours: Sequence[AddressPattern], others: Sequence[AddressPattern]) -> bool:
    return not ours or (bool(others) and all(any(our.covers(other) for our in ours) for other in others))


def type_of(stanza: Stanza) -> str:
    """The type of a stanza, with a name also where its `type` is left out (RFC 6121 sections 4.7.1 and 5.2.2)."""
    return stanza.type or {"message": "normal", "presence": "available"}.get(stanza.kind, "")


@frozen
class Route:
    """A route: its name, and its conditions."""

    name: str
    conditions: Conditions


@frozen
class Routes:
    """
    The routes of a component, in order: the first whose conditions are met takes a stanza.

    Attributes:
        needs_body: Some of them look at the body.
    """

    routes: Sequence[Route] = ()
    needs_body: bool = field(init=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "needs_body", any(route.conditions.body is not None for route in self.routes))

    def __bool__(self) -> bool:
        return bool(self.routes)

    def __contains__(self, name: object) -> bool:
        return any(route.name == name for route in self.routes)

    def of(self, stanza: Stanza, body: str | None) -> str | None:
        """Find the name of the route that takes a stanza with this body; None for the component's own webhook."""
        for route in self.routes:
            if route.conditions.unmet(stanza, body) is None:
                return route.name
        return None

    def explain(self, stanza: Stanza, body: str | None) -> Iterator[tuple[str, str | None]]:
        """Give each route up to the one that takes a stanza, with the condition that is not met; None for that one."""
        for route in self.routes:
            unmet = route.conditions.unmet(stanza, body)
            yield route.name, unmet
            if unmet is None:
                return

    def idle(self) -> Iterator[tuple[str, str]]:
        """Find routes that can never take anything, each with the earlier one that takes it all."""
        for number, route in enumerate(self.routes):
            for earlier in self.routes[:number]:
                if earlier.conditions.covers(route.conditions):
                    yield route.name, earlier.name
                    break
