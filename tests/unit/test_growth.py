"""What is made of a stranger's stanza is at most four times as long, so that few bytes never become many."""

from __future__ import annotations

from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from component_http.api.exchange import json_answer
from component_http.api.iq_requests import answer_properties
from component_http.contract.request import request_body
from component_http.contract.stanza import Stanza
from component_http.contract.xml import serialize
from tests.examples import examples
from tests.unit.xml_strategies import Reading, written_stanzas

FACTOR = 4

ENVELOPE = "<message from='a@b' to='c@bot.localhost'>{}</message>"
LONG = "u" * 500


def read(xml: str) -> Any:
    reading = Reading()
    reading.parser.parse(xml.encode())
    [element] = reading.stanzas
    return element


def message(*children: str) -> str:
    return ENVELOPE.format("".join(children))


class GrowthTests(SynchronousTestCase):
    """From one stanza to what others get of it."""

    def assert_short(self, result: bytes | str, xml: str) -> None:
        size = len(result.encode() if isinstance(result, str) else result)
        self.assertLessEqual(size, FACTOR * len(xml.encode()))

    @examples(200)
    @given(written_stanzas())
    @example(message("<body>", '"' * 5000, "</body>"))
    @example(message("<body>", "\n" * 5000, "</body>"))
    @example(message("<body>", ">" * 5000, "</body>"))
    @example(message("<body>", "]>" * 5000, "</body>"))
    @example(message("<body>", "<![CDATA[", "&" * 5000, "]]></body>"))
    @example(message("<body>", "<![CDATA[", "<&" * 5000, "]]></body>"))
    @example(message("<body>", "<![CDATA[", "&" * 1700, "]]>", "&#13;" * 400, "</body>"))
    @example(message("<a><![CDATA[&&&&&&&&&&&&&&&]]></a>" * 1000))
    @example(message("<s:stanza-id xmlns:s='urn:xmpp:sid:0' id='' by=''/>" * 1000))
    @example(message("<r xmlns:s='urn:xmpp:sid:0'>", "<s:stanza-id id='' by=''/>" * 1000, "</r>"))
    @example(message(f"<r xmlns:p='{LONG}'>", "<p:a/>" * 30, "</r>"))
    @example(message(f"<r xmlns:p='{LONG}' xmlns:q='u'>", "<p:a/><q:a/>" * 1000, "</r>"))
    @example(message(f"<r xmlns:p='{LONG}'>", "<a p:b=''/>" * 1000, "</r>"))
    @example(message("<body>", '"' * 5000, f"</body><r xmlns:p='{LONG}'>", "<p:a/>" * 30, "</r>"))
    @example(message("".join(f"<p:a xmlns:p='{number}'/><a/>" for number in range(2000))))
    def test_request(self, xml: str) -> None:
        """
        The JSON that a webhook gets, and the stanza as it is written for a server.
        """
        element = read(xml)
        self.assert_short(serialize(element), xml)
        self.assert_short(request_body(Stanza.from_element(element)), xml)

    @examples(200)
    @given(
        st.lists(st.sampled_from(["FORM_TYPE", "a", "b"]), max_size=4),
        st.lists(st.sampled_from(["", "x", '"' * 50, "z" * 200]), max_size=3),
        st.integers(1, 300),
        st.integers(0, 300),
    )
    @example(["FORM_TYPE", "a"], ["x"], 4000, 0)
    def test_answer_to_a_question(self, names: list[str], values: list[str], times: int, others: int) -> None:
        """
        What a client of the API gets of an entity's answer, however many names its form has.
        """
        value = "".join(f"<value>{text}</value>" for text in values) * (times // max(1, len(names)))
        fields = "".join(f"<field var='{name}'>{value}</field>" for name in names)
        others_xml = "<identity/><feature var=''/>" * others
        form = f"<x xmlns='jabber:x:data'>{fields}</x>"
        query = f"<query xmlns='http://jabber.org/protocol/disco#info'>{others_xml}{form}</query>"
        items = f"<query xmlns='http://jabber.org/protocol/disco#items'>{'<item/>' * others}</query>"
        xml = f"<iq type='result' id='1' from='a@b' to='bot.localhost'>{query}{items}</iq>"
        properties = answer_properties(Stanza.from_element(read(xml)))
        self.assert_short(json_answer(200, properties).body, xml)

    def test_first_name_of_a_form(self) -> None:
        """
        The first value of FORM_TYPE names the form; others are no names.
        """
        form = "<field var='FORM_TYPE'><value>urn:one</value><value>urn:two</value></field><field var='a'/>"
        query = f"<query xmlns='http://jabber.org/protocol/disco#info'><x xmlns='jabber:x:data'>{form}</x></query>"
        iq = read(f"<iq type='result' id='1' from='a@b' to='bot.localhost'>{query}</iq>")
        found: Any = answer_properties(Stanza.from_element(iq))
        self.assertEqual({"urn:one": {"a": []}}, found["disco"]["extensions"])
