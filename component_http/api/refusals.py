"""Problems for a client that pushed: a room that does not let us in, and a stanza that came back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from component_http.api.exchange import Problem
from component_http.errors import Bounced, ErrorArrived, RoomRefused

_ROOMS: Mapping[str, tuple[int, str]] = {
    "conflict": (
        409,
        "in the room {room} somebody else has each nick that was tried: set component.nick to another one",
    ),
    "forbidden": (403, "the room {room} has banned {ours}: its owner can lift the ban"),
    "item-not-found": (
        404,
        "there is no room {room}: make it, correct the address, or let the gateway make it by component.create_rooms",
    ),
    "jid-malformed": (422, "the room {room} does not take the nick: set component.nick to another one"),
    "not-acceptable": (
        409,
        "the room {room} only lets {ours} in with the nick that is registered for it: set component.nick to that one",
    ),
    "not-allowed": (404, "there is no room {room}, and {ours} may not make it: make it, or correct the address"),
    "not-authorized": (
        403,
        "the room {room} has a password: take it off, or enter with it by a presence as XML to POST /v1/stanzas",
    ),
    "registration-required": (403, "the room {room} is for members only: its owner can make {ours} a member"),
    "remote-server-not-found": (404, "there is no server for the room {room}: correct the address"),
    "service-unavailable": (404, "there is no chat room service for {room}: correct the address"),
}
"""The status and the sentence for each refusal of a room. Source: XEP-0045 section 7.2."""

RETRY_AFTER = "30"
"""Seconds after which a room that has no room for us now may be tried again."""


def room_problem(refused: RoomRefused) -> Problem:
    """Tell that a room does not let us in, so nothing was sent."""
    headers = {}
    if refused.error_type == "wait" or refused.condition in ("remote-server-timeout", "resource-constraint"):
        status, sentence = 503, "the room {room} is full, or cannot be reached now: try again later"
        headers["Retry-After"] = RETRY_AFTER
    else:
        status, sentence = _ROOMS.get(refused.condition, (502, "the room {room} does not let {ours} in"))
    detail = sentence.format(room=refused.room, ours=refused.ours)
    return Problem(
        status,
        f"{detail} (it says {refused})",
        condition=refused.condition,
        headers=headers,
        members={"room": refused.room, **_members(refused)},
    )


def bounce_problem(bounced: Bounced, ids: Sequence[str]) -> Problem:
    """Tell that a stanza was sent and came back."""
    return Problem(
        502,
        f"it was sent, and came back as an error: {bounced}",
        condition=bounced.condition,
        members={"ids": list(ids), **_members(bounced)},
    )


def _members(error: ErrorArrived) -> dict[str, object]:
    """Make the members of a problem that tell the error to machines, as `POST /v1/iq` does."""
    told = {"type": error.error_type, "condition": error.condition, "text": error.text}
    return {"condition": error.condition, "error": {name: value for name, value in told.items() if value}}
