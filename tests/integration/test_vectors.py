"""
What Prosody's mod_component_http did, recorded case by case, against `twistd component-http` on real servers.

Source: `tests/vectors/mod_component_http.json`; CONTRACT section 6 says how they are compared.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, tostring

import pytest

from tests.integration.exchange import Exchange, domain_of
from tests.integration.probe import COMPONENT, canonical, parse
from tests.integration.processes import NO_REPLY, Answer, GatewayProcess, ScriptedWebhook
from tests.integration.servers import SERVERS

VECTORS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "vectors" / "mod_component_http.json").read_text("utf-8")
)


class Stage:
    """
    One server with a gateway for bot.localhost as the module has it by default, one for all.localhost that forwards
    everything, both at one webhook, and the probe that plays the users.
    """

    def __init__(self, server: str, stack: ExitStack) -> None:
        self.server = stack.enter_context(SERVERS[server]())
        self.webhook = stack.enter_context(ScriptedWebhook())
        self.exchange = Exchange(stack.enter_context(self.server.probe()), self.webhook, "fence@probe.localhost/x")
        self.gateways = {
            domain: stack.enter_context(
                GatewayProcess(
                    domain=domain,
                    server=self.server.endpoint,
                    secret=self.server.domains[domain],
                    post_url=self.webhook.url,
                    sections=sections,
                )
            )
            for domain, sections in {
                "bot.localhost": {},
                "all.localhost": {"component": {"component_post_stanzas": ["message", "presence", "iq"]}},
            }.items()
        }
        for gateway in self.gateways.values():
            gateway.wait_until_authenticated()


def scripted(response: dict[str, Any] | None) -> Answer:
    """What the recorded webhook said."""
    if response is None:
        return NO_REPLY
    if response.get("drop"):
        return Answer(drop=True)
    return Answer(response["status"], response.get("content_type"), response.get("body", ""))


@pytest.fixture(scope="module", params=sorted(SERVERS, reverse=True))
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    with ExitStack() as stack:
        built = Stage(request.param, stack)
        yield built
        for gateway in built.gateways.values():
            gateway.stop()


def is_disco_info(replies: list[Element]) -> None:
    """`disco#info result with an identity and the supported features`"""
    (answer,) = replies
    assert (answer.get("type"), answer.get("id"), answer.get("to")) == ("result", "i1", "alice@probe.localhost/phone")
    query = answer.find("{http://jabber.org/protocol/disco#info}query")
    assert query is not None, tostring(answer)
    identities = query.findall("{http://jabber.org/protocol/disco#info}identity")
    assert identities and all(one.get("category") and one.get("type") for one in identities), tostring(answer)
    features = {one.get("var") for one in query.findall("{http://jabber.org/protocol/disco#info}feature")}
    promised = {"urn:xmpp:ping", "jabber:iq:version", "jabber:iq:last", "urn:xmpp:time"}
    assert features >= promised | {"http://jabber.org/protocol/disco#info"}, features


def is_iq_set_without_body(replies: list[Element]) -> None:
    """`one iq of type set to alice@probe.localhost/phone from bot@bot.localhost with a generated id and no body`"""
    (iq,) = replies
    assert canonical(iq, ignore=frozenset({"id"})) == canonical(
        parse("<iq type='set' to='alice@probe.localhost/phone' from='bot@bot.localhost'/>")
    )
    assert iq.get("id")


IN_WORDS: dict[str, Callable[[list[Element]], None]] = {
    str(check.__doc__).strip("`"): check for check in (is_disco_info, is_iq_set_without_body)
}


def rewritten(element: Element, server: str) -> Element:
    """
    A stanza as the server passes it on.

    ejabberd leaves out the type that a message has anyway and puts the children it knows behind those it does not.
    """
    if server == "ejabberd":
        if element.get("type") == "normal":
            del element.attrib["type"]
        element[:] = sorted(element, key=lambda one: one.tag.removeprefix(f"{{{COMPONENT}}}"))
    return element


def same_stanza(wanted: str, came: Element, server: str) -> bool:
    """They mean the same; an id that was not asked for is a generated one."""
    expected = rewritten(parse(wanted), server)
    generated = frozenset() if "id" in expected.attrib else frozenset({"id"})
    return canonical(expected) == canonical(rewritten(came, server), ignore=generated)


def same_request(wanted: dict[str, Any], came: dict[str, Any], server: str) -> bool:
    """These properties with these values; more are fine, but a body that was not there is not invented."""
    for name, value in wanted.items():
        if name == "stanza":
            if canonical(rewritten(parse(value), server)) != canonical(rewritten(parse(came[name]), server)):
                return False
        elif came.get(name) != value:
            return False
    return ("body" in wanted) == ("body" in came)


def test_the_recording_is_whole() -> None:
    """
    All 119 recorded cases are here, each with its own name.
    """
    assert len(VECTORS) == 119
    assert len({vector["name"] for vector in VECTORS}) == 119


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["name"] for vector in VECTORS])
def test_vector(vector: dict[str, Any], stage: Stage, record_property: Callable[[str, object], None]) -> None:
    """
    A bot written for mod_component_http is asked and understood as before, or better where the vector says why.
    """
    server = stage.server.name
    record_property("vector_on", server)
    expected_request = vector.get("gateway_request", vector["module_request"])
    wanted = vector["gateway_replies"]
    if wanted == "same":
        wanted = vector["module_replies"]

    requests, replies = stage.exchange.play(
        vector["stanza"],
        scripted(vector.get("response")),
        to=domain_of(vector["stanza"]),
        requests=0 if expected_request is None else 1,
    )

    asked = [one.json for one in requests]
    if expected_request is None:
        assert asked == []
    else:
        assert len(asked) == 1 and same_request(expected_request, asked[0], server), f"{expected_request}\n{asked}"
    came = [tostring(one, "unicode") for one in replies]
    if isinstance(wanted, str):
        IN_WORDS[wanted](replies)
    else:
        assert len(wanted) == len(replies), f"{wanted}\n{came}"
        for expected, stanza in zip(wanted, replies, strict=True):
            assert same_stanza(expected, stanza, server), f"{expected}\n{came}"
