"""What we read and write, held against lxml, which shares no code with our parser."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from lxml import etree
from twisted.trial.unittest import SynchronousTestCase

from component_http.contract.xml import NS_CLIENT, NS_COMPONENT, serialize
from tests.examples import examples
from tests.unit.xml_strategies import HEADER, Reading, written_stanzas


def in_stream(xml: str) -> etree._Element:
    """A stanza, as lxml reads it inside of the stream."""
    [stanza] = etree.fromstring(HEADER + xml.encode() + b"</stream:stream>")
    return stanza


def by_us(xml: str) -> Any:
    """The same stanza, as we read it."""
    reading = Reading()
    reading.parser.parse(xml.encode())
    [stanza] = reading.stanzas
    return stanza


def said(element: etree._Element, own: str, also_own: frozenset[str], shares: bool = True) -> Any:
    """
    What an element says, as nested tuples: namespace, name, attributes, text and children.

    Args:
        element: As lxml read it.
        own: What the stream's namespace is called in the result; "" makes a document of its own.
        also_own: What else means the stream's namespace, down to the first element of another one.
        shares: All around it is of the stream's namespace.
    """
    name = etree.QName(element)
    uri = name.namespace or ""
    is_own = uri == NS_COMPONENT or (shares and uri in also_own)
    attributes: dict[Any, str] = {}
    for key, value in sorted(element.attrib.items()):
        attribute = etree.QName(key)
        if attribute.namespace == NS_COMPONENT and not own:
            attributes.setdefault((None, attribute.localname), value)
        else:
            attributes[attribute.namespace, attribute.localname] = value
    for key, value in element.attrib.items():
        if not key.startswith("{"):
            attributes[None, key] = value
    return (
        own if is_own else uri,
        name.localname,
        attributes,
        element.text or "",
        [(said(child, own, also_own, shares and is_own), child.tail or "") for child in element],
    )


class LxmlTests(SynchronousTestCase):
    """Namespaces, attributes and text come through."""

    @examples(200)
    @given(written_stanzas())
    def test_document_of_its_own(self, xml: str) -> None:
        """
        What a webhook gets says the same as what came, without the stream's namespace and with every other one.
        """
        came = in_stream(xml)
        also_own = frozenset({"", etree.QName(came).namespace})
        text = serialize(by_us(xml), standalone=True)
        self.assertEqual(said(came, "", also_own), said(etree.fromstring(text), "", frozenset()), text)

    @examples(200)
    @given(written_stanzas())
    def test_on_the_stream(self, xml: str) -> None:
        """
        What goes on to a server says the same as what came.
        """
        text = serialize(by_us(xml))
        expected = said(in_stream(xml), NS_COMPONENT, frozenset({"", NS_CLIENT}))
        self.assertEqual(expected, said(in_stream(text), NS_COMPONENT, frozenset()), text)

    def test_client_below_a_foreign_element(self) -> None:
        """
        An element of jabber:client keeps its namespace below a foreign element, whatever is in between.
        """
        for xml, path in (
            ("<message><r:a xmlns:r='u'><b><c xmlns='jabber:client'/></b></r:a></message>", "{u}a/b/{jabber:client}c"),
            ("<message><a xmlns='u'><c xmlns='jabber:client'/></a></message>", "{u}a/{jabber:client}c"),
            (
                "<message><a xmlns='u'><b xmlns=''><c xmlns='jabber:client'/></b></a></message>",
                "{u}a/b/{jabber:client}c",
            ),
            (
                "<message xmlns='jabber:client'><a xmlns='u'><c xmlns='jabber:client'/></a></message>",
                "{u}a/{jabber:client}c",
            ),
            ("<message><c xmlns='jabber:client'/></message>", "{jabber:client}c"),
            ("<message xmlns='jabber:client'><c/></message>", "c"),
        ):
            text = serialize(by_us(xml), standalone=True)
            self.assertIsNotNone(etree.fromstring(text).find(path), text)
        text = serialize(by_us("<message><r:a xmlns:r='u'><b><c xmlns='jabber:client'/></b></r:a></message>"))
        self.assertIsNotNone(in_stream(text).find(f"{{u}}a/{{{NS_COMPONENT}}}b/{{jabber:client}}c"), text)

    def test_stream_namespace_is_never_named(self) -> None:
        """
        Wherever the stream's namespace is, a document of its own does not name it.
        """
        for xml in (
            "<message><a xmlns='u'><b xmlns='jabber:component:accept'/></a></message>",
            "<message><a xmlns='u'><b xmlns=''><c xmlns='jabber:component:accept'/></b></a></message>",
            "<message xmlns:p='jabber:component:accept'><p:a p:b='1'/></message>",
            "<message xmlns:p='jabber:component:accept' b='1' p:b='2'/>",
        ):
            self.assertNotIn(NS_COMPONENT, serialize(by_us(xml), standalone=True))
