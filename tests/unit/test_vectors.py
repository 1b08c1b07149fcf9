"""
The recorded behaviour of Prosody's mod_component_http, one test for each stanza that reaches the webhook.

`tests/vectors/mod_component_http.json` says of each what was sent, what the webhook answered, what the module did, and
what the gateway does where that is something else.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase
from twisted.words.xish.domish import Element

from component_http.contract.conditions import CONNECTION_FAILURE
from component_http.contract.reply import Response, Verdict, give_up, judge
from component_http.contract.request import XML_LANG, request_body
from component_http.contract.stanza import Stanza
from component_http.contract.xml import Limits, parse_stanzas, serialize

Vector = dict[str, Any]

VECTORS: list[Vector] = json.loads(
    (Path(__file__).parent.parent / "vectors" / "mod_component_http.json").read_text(encoding="utf-8")
)


def request_of(vector: Vector) -> Any:
    """What must be POSTed, or None where nothing is."""
    return vector.get("gateway_request", vector["module_request"])


def why_not_here(vector: Vector) -> str | None:
    """Say why a vector says nothing about the pure functions, or None if it does."""
    if request_of(vector) is None:
        return "answered by the gateway itself, or not forwarded: it never reaches the webhook"
    return None


HERE = [vector for vector in VECTORS if why_not_here(vector) is None]


def seen(element: Element, *, ignore_id: bool = False) -> object:
    """What matters of an element: no order of attributes, no prefixes, not the language a server put in."""
    attributes = dict(element.attributes)
    if attributes.get(XML_LANG) == "en":
        del attributes[XML_LANG]
    if ignore_id:
        attributes.pop("id", None)
    children = [child if isinstance(child, str) else seen(child) for child in element.children]
    return (element.uri, element.name, attributes, children)


def verdict_of(vector: Vector) -> tuple[Stanza, Verdict]:
    """Run one vector."""
    [element] = parse_stanzas(vector["stanza"], Limits())
    stanza = Stanza.from_element(element)
    response = vector["response"]
    if response.get("drop"):
        return stanza, give_up(stanza, CONNECTION_FAILURE, "dropped")
    headers = {"content-type": response["content_type"]} if "content_type" in response else {}
    ids = count()
    return stanza, judge(
        stanza,
        Response(response["status"], headers, response.get("body", "").encode()),
        domain=stanza.recipient.domain,
        limits=Limits(),
        new_id=lambda: f"fresh-{next(ids)}",
    )


class VectorTests(SynchronousTestCase):
    """A bot written for mod_component_http is asked the same and understood the same."""

    maxDiff = None

    def test_all_of_them_run(self) -> None:
        """
        Every recorded stanza that reaches a webhook is tried here, and no other is.
        """
        self.assertEqual((100, 19), (len(HERE), len(VECTORS) - len(HERE)))

    def assert_request(self, vector: Vector, stanza: Stanza) -> None:
        properties = json.loads(request_body(stanza))
        expected = dict(request_of(vector))
        [written] = parse_stanzas(expected.pop("stanza"), Limits())
        [ours] = parse_stanzas(properties["stanza"], Limits())
        self.assertEqual(seen(written), seen(ours))
        self.assertEqual(expected, {name: properties[name] for name in expected})
        self.assertEqual("body" in expected, "body" in properties)

    def assert_replies(self, vector: Vector, verdict: Verdict) -> None:
        expected = vector["gateway_replies"]
        if vector["name"] == "reply/kind-iq":
            self.assertEqual("fresh-0", verdict.stanzas[0]["id"])
            expected = ["<iq type='set' to='alice@probe.localhost/phone' from='bot@bot.localhost'/>"]
        elif expected == "same":
            expected = vector["module_replies"]
        wanted = [parse_stanzas(text, Limits())[0] for text in expected]
        sent = [parse_stanzas(serialize(element), Limits())[0] for element in verdict.stanzas]
        self.assertEqual(
            [seen(element) for element in wanted],
            [
                seen(ours, ignore_id=not theirs.hasAttribute("id"))
                for ours, theirs in zip(sent, [*wanted, *sent[len(wanted) :]], strict=True)
            ],
        )


def _test(vector: Vector) -> Callable[[VectorTests], None]:
    def test(self: VectorTests) -> None:
        stanza, verdict = verdict_of(vector)
        self.assert_request(vector, stanza)
        self.assert_replies(vector, verdict)

    test.__doc__ = f"{vector['name']}: {vector.get('why', 'as the module does it')}."
    return test


for _vector in HERE:
    setattr(VectorTests, f"test_{_vector['name']}", _test(_vector))
