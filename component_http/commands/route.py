"""The command `component-http route`: say which route takes a stanza, and why."""

from __future__ import annotations

import argparse
from typing import Any

from twisted.words.xish.domish import Element

from component_http.contract.address import Address, NotAnAddress
from component_http.contract.stanza import TYPES, Stanza
from component_http.contract.xml import NS_COMPONENT
from component_http.errors import SettingsError
from component_http.settings import Settings
from component_http.settings.values.value_type import shown
from component_http.tap import exit_on_settings_error


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "route",
        help="say which route of a component takes a stanza, and why",
        description="Say which [[component.route]] of a settings file takes a stanza, and which condition keeps the"
        " routes before it from taking it.",
    )
    parser.add_argument("config", metavar="FILE", help="the settings file")
    parser.add_argument("--to", metavar="ADDRESS", required=True, help="the address that the stanza was sent to")
    parser.add_argument(
        "--from", metavar="ADDRESS", required=True, dest="sender", help="the address that it comes from"
    )
    parser.add_argument("--body", metavar="TEXT", help="the body of the message")
    parser.add_argument("--kind", choices=tuple(TYPES), default="message", help="default: message")
    parser.add_argument("--type", default=None, help="default: chat for a message, get for an iq")
    parser.add_argument("--room", action="store_true", help="it comes from somebody in a chat room")
    parser.set_defaults(main=main)


def main(chosen: argparse.Namespace) -> int:
    """Tell the routes up to the one that takes the stanza; ends with status 78 for settings that cannot be used."""
    with exit_on_settings_error():
        settings = Settings.from_toml(chosen.config)
        stanza = _stanza(chosen)
        domain = stanza.recipient.domain
        found = settings.of(domain)
        if found is None:
            served = ", ".join(each.component.domain for each in settings.each)
            raise SettingsError(f"--to {shown(chosen.to)} is no address of a component: there is {served}")
    component = found.component
    if stanza.kind not in component.component_post_stanzas:
        print(f"it is not POSTed: component_post_stanzas is {', '.join(component.component_post_stanzas)}")
        return 0
    by_name = {route.name: route for route in component.route}
    for name, unmet in component.routes.explain(stanza, chosen.body):
        if unmet is not None:
            print(f"{name}: no, for its {unmet}")
            continue
        route = by_name[name]
        where = found.of_routes[name].component.post_origin or ("it is dropped" if route.drop else "a fixed reply")
        print(f"{name}: yes, {where}")
        return 0
    print(f"no route takes it: {component.post_origin or 'it is answered with an error, for there is no webhook'}")
    return 0


def _stanza(chosen: argparse.Namespace) -> Stanza:
    kind = chosen.kind
    addresses = {}
    for flag, text in (("--from", chosen.sender), ("--to", chosen.to)):
        try:
            addresses[flag] = Address.parse(text)
        except NotAnAddress as error:
            raise SettingsError(f"{flag} is {shown(text)}, but must be an address: {error}") from None
    usual = {"message": "groupchat" if chosen.room else "chat", "iq": "get"}.get(kind, "")
    given = usual if chosen.type is None else chosen.type
    element = Element((NS_COMPONENT, kind))
    return Stanza(kind, given, "1", addresses["--from"], addresses["--to"], chosen.room, element)
