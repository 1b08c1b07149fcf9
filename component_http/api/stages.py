"""The stages of a connection to the API."""

from __future__ import annotations

from enum import Enum, auto

from attrs import define, frozen

from component_http.api.exchange import Admitted, Feed
from component_http.api.http1 import Head


@define
class Receiving:
    """The connection waits for a request, or for the rest of one."""

    begun: bool = False
    """The first byte of the request is in."""

    request: tuple[Head, Admitted] | None = None
    """The head of the request, and its admission by a secret of ours."""


@frozen
class Answering:
    """A request is in, and its answer is being made."""

    known: bool
    """The request came with a secret of ours."""

    may_probe: bool
    """Interim answers may be sent."""


@frozen
class Feeding:
    """The response goes on; what the client sends is thrown away."""

    feed: Feed


class Leaving(Enum):
    """The connection takes no more requests."""

    TURNED_AWAY = auto()
    """The connection has no place, and gets 503 as soon as it sends something."""

    CLOSING = auto()
    """The last answer is written; what still comes is thrown away until the client closes or the time limit ends."""

    CLOSED = auto()
