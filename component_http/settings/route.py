"""The tables [[component.route]]."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from attrs import field, frozen

from component_http.contract.objects import read_json, reply_objects
from component_http.contract.routes import AddressPattern, Conditions, Route
from component_http.contract.stanza import TYPES
from component_http.contract.url import WebhookUrl
from component_http.errors import ReplyRefused, SettingsError
from component_http.settings.declaration import Table, setting
from component_http.settings.values.addresses import ADDRESSES
from component_http.settings.values.http import URL
from component_http.settings.values.plain import NAME, STANZAS, SWITCH, TEXT, words
from component_http.settings.values.value_type import Unfit, ValueType

_TYPES = sorted({"available", *(each for types in TYPES.values() for each in types)})


def _accept_reply(value: Any) -> Any:
    if not isinstance(value, (Mapping, list, tuple)) or not value:
        raise Unfit
    try:
        reply_objects(read_json(json.dumps(value).encode("utf-8")))
    except (TypeError, ValueError, ReplyRefused) as error:
        raise Unfit(remedy=str(error)) from None
    return value


REPLY = ValueType('a reply object such as { body = "..." }, or a list of them', _accept_reply, None)


@frozen
class RouteSettings(Table):
    """
    A route, which takes some of a component's stanzas: each [[component.route]] is one.

    The first route whose conditions are all met takes a stanza; what none takes goes to the component's own webhook. A
    route has one of `url`, `drop` and `reply`.

    Attributes:
        webhook: The settings of its webhook that differ from those of the component, by key.
    """

    TABLE: ClassVar[str] = "component.route"

    name: str = setting(NAME, "its name in the log and in the spool", example='"weather"')
    to: tuple[str, ...] | None = setting(
        ADDRESSES,
        "the addresses that the stanza was sent to, one of these: an address without a resource, a domain, or either"
        " with * for any characters",
        default=None,
        why="one component can be many bots",
        example='["weather@bot.example.org"]',
    )
    from_: tuple[str, ...] | None = setting(
        ADDRESSES,
        "the addresses that it comes from, in the same way; for what is said in a room that is the room's",
        default=None,
        example='["*@example.org", "example.net"]',
    )
    kind: tuple[str, ...] | None = setting(
        STANZAS, "the kinds of stanza", default=None, why="without it the route takes all kinds", example='["message"]'
    )
    type: tuple[str, ...] | None = setting(
        words(_TYPES),
        "the types of stanza; a message without one is normal, a presence without one is available",
        default=None,
        example='["chat"]',
    )
    body: str | None = setting(
        TEXT,
        "the beginning of the body; with a * in it, a pattern for all of it, in which * stands for any characters",
        default=None,
        why="a bot with commands can have a program for each",
        example='"/weather"',
    )
    room: bool | None = setting(
        SWITCH,
        "whether it was said in a chat room, or comes from somebody in one",
        default=None,
        example="true",
    )
    url: str | None = setting(
        URL,
        "the webhook to which the stanzas of this route are POSTed",
        default=None,
        why="as component_post_url; the settings of [webhook] are for it too, but for those that"
        " [component.route.webhook] has",
        example='"http://127.0.0.1:8081/"',
        show=lambda url: repr(url and WebhookUrl.parse(url).origin),
    )
    drop: bool = setting(
        SWITCH,
        "POST the stanzas nowhere: they end as if the webhook had answered nothing",
        default=False,
        why="a bot need not be asked about what it never answers",
    )
    reply: object = setting(
        REPLY,
        "POST the stanzas nowhere, and answer with this: a reply object, or several",
        default=None,
        why="a fixed answer needs no program",
        example='{ body = "The bot moved to new@bot.example.org." }',
    )
    webhook: Mapping[str, Any] = field(kw_only=True, factory=dict, repr=False)

    def __attrs_post_init__(self) -> None:
        ends = [name for name in ("url", "drop", "reply") if getattr(self, name)]
        if len(ends) != 1:
            found = "none of them" if not ends else " and ".join(ends)
            raise SettingsError(f"component.route {self.name} has {found}, but must have one of url, drop and reply")

    @property
    def route(self) -> Route:
        """Its name, and its conditions."""
        return Route(
            self.name,
            Conditions(
                _patterns(self.to), _patterns(self.from_), self.kind or (), self.type or (), self.body, self.room
            ),
        )


def _patterns(texts: Sequence[str] | None) -> tuple[AddressPattern, ...]:
    return tuple(map(AddressPattern, texts or ()))
