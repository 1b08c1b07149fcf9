"""Reading and writing XML: what every other part takes for granted."""

from __future__ import annotations

import gc
import random
import tracemalloc
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from twisted.words.protocols.jabber import xmlstream
from twisted.words.xish import domish
from twisted.words.xish.domish import Element, ParserError, SerializedXML

from component_http.contract.xml import NS_CLIENT, NS_COMPONENT, Limits, StreamParser, parse_stanzas, serialize
from component_http.errors import XmlRefused
from tests.examples import examples
from tests.unit.xml_strategies import HEADER, NS_XML, Reading, cuts, hostile_text, meaning, pieces, shape, trees

MEBIBYTE = 1 << 20

TRICKY = [
    b"<message to='b@c' from='a@b/c' id='1' xml:lang='en'><body>Gr\xc3\xbc\xc3\x9fe \xf0\x9f\x98\x80</body></message>",
    b"<iq\n id = \"a>b'c\" type='get' ><query xmlns='urn:q' xmlns:p='urn:p' p:a='1'><p:item/></query ></iq\n>",
    b"<message><body>a &lt; b &amp;&#x1F600; c ]] &gt;\r\nd\re</body><x xmlns=''/></message>",
    b"<message><body><![CDATA[</body>]] ]>&amp;]]>tail<![CDATA[]]></body><!-- > </message> --></message>",
    b"<presence/>",
    b"<presence></presence>",
    b"<p:message xmlns:p='jabber:component:accept'><body xmlns='urn:\xf0\x9f\x98\x80'/><p:body/></p:message>",
    b"<stream:error><conflict xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>",
]


def read_by_domish(data: bytes) -> list[Element]:
    """The stanzas of a stream, as Twisted's own parser sees them."""
    stanzas: list[Element] = []
    parser = domish.elementStream()
    parser.DocumentStartEvent = lambda root: None
    parser.ElementEvent = stanzas.append
    parser.parse(HEADER + data)
    return stanzas


def deep(levels: int) -> Element:
    """An element in an element in an element."""
    top = innermost = Element((NS_COMPONENT, "a"))
    for _ in range(levels - 1):
        innermost = innermost.addElement("a")
    return top


class ElementTests(SynchronousTestCase):
    """What comes out is what wokkel's handlers know from domish."""

    def test_same_elements_as_domish(self) -> None:
        """
        Names, namespaces, default namespaces, attributes, prefixes and text are those that domish would give.
        """
        for stanza in TRICKY[:2] + TRICKY[3:]:
            reading = Reading()
            reading.parser.parse(stanza)
            self.assertEqual([shape(element) for element in read_by_domish(stanza)], [*map(shape, reading.stanzas)])

    def test_undeclared_default_namespace(self) -> None:
        """
        A child with xmlns='' is in no namespace, and so are its children: domish has the wrong default for these.
        """
        reading = Reading()
        reading.parser.parse(b"<message xmlns:p='urn:p'><x xmlns=''><p:y><z/></p:y></x></message>")
        x = reading.stanzas[0].x
        self.assertEqual(
            [("", ""), ("urn:p", ""), ("", "")],
            [(e.uri, e.defaultUri) for e in (x, x.y, x.y.z)],
        )

    def test_top_level_has_no_parent(self) -> None:
        """
        A stanza stands alone: nothing leads from it to the stream.
        """
        reading = Reading()
        reading.parser.parse(TRICKY[0])
        self.assertIsNone(reading.stanzas[0].parent)

    def test_text_is_one_string(self) -> None:
        """
        A body written with references, CDATA sections and a comment is one string.
        """
        reading = Reading()
        reading.parser.parse(b"<m>a&amp;b<![CDATA[c]]>\xc3\xa9<!-- no -->" + b"x" * 50000 + b"</m>")
        self.assertEqual(["a&bc\xe9" + "x" * 50000], reading.stanzas[0].children)

    def test_space_in_namespace(self) -> None:
        """
        A stranger's namespace with a space or a line break in it is a namespace like any other.
        """
        reading = Reading()
        reading.parser.parse(b"<m><x xmlns='a b'/><y xmlns='a&#10;b'/><z xmlns:p='a b' p:q='1'/></m>")
        x, y, z = reading.stanzas[0].elements()
        self.assertEqual([("a b", "x"), ("a\nb", "y")], [(x.uri, x.name), (y.uri, y.name)])
        self.assertEqual({("a b", "q"): "1"}, z.attributes)


class StreamTests(SynchronousTestCase):
    """The life of a stream."""

    def test_start_and_end(self) -> None:
        """
        The root's start tag is reported at once, with the stream's namespace as its default, and so is its end.
        """
        reading = Reading(header=b"")
        reading.parser.parse(b"\xef\xbb\xbf")
        reading.parser.parse(HEADER)
        ((kind, root),) = reading.events
        self.assertEqual("start", kind)
        self.assertEqual(("http://etherx.jabber.org/streams", "stream"), (root.uri, root.name))
        self.assertEqual((NS_COMPONENT, {"id": "1"}), (root.defaultUri, root.attributes))
        self.assertEqual({"stream": "http://etherx.jabber.org/streams"}, root.localPrefixes)
        reading.parser.parse(b"</stream:stream>")
        self.assertEqual([("end",)], reading.events[1:])

    def test_under_twisteds_protocol(self) -> None:
        """
        Twisted's XmlStream works with it: the session id is taken from the header, observers see the stanza.
        """
        stream = xmlstream.XmlStream(xmlstream.ConnectAuthenticator("bot.example.org"))
        seen: list[Element] = []
        stream.addObserver("/message[@id='1']/body", seen.append)
        stream.stream = StreamParser(Limits(), lambda start, reason: None)
        stream.stream.DocumentStartEvent = stream.onDocumentStart
        stream.stream.ElementEvent = stream.onElement
        stream.dataReceived(HEADER + TRICKY[0])
        self.assertEqual("1", stream.sid)
        self.assertEqual(["Gr\xfc\xdfe \U0001f600"], [str(message.body) for message in seen])

    def test_everything_in_one_segment(self) -> None:
        """
        Header, stanzas and end in one segment are reported in their order.
        """
        reading = Reading(header=b"")
        reading.parser.parse(HEADER + b"<a/> <b/></stream:stream>\n")
        self.assertEqual(["start", "element", "element", "end"], [event[0] for event in reading.events])

    def test_nothing_is_read_after_the_end(self) -> None:
        """
        What a server sends after the end of its stream is of no interest.
        """
        reading = Reading()
        reading.parser.parse(b"</stream:stream><a/>")
        reading.parser.parse(b"<a/>")
        self.assertEqual([("end",)], reading.events)

    def test_keepalives(self) -> None:
        """
        White space between stanzas is ignored and takes no memory, whatever it consists of.
        """
        reading = Reading()
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(2000):
            reading.parser.parse(b"\r")
            reading.parser.parse(b" \n" * 50)
        self.assertLess(tracemalloc.get_traced_memory()[0] - before, 20_000)
        reading.parser.parse(b"<a/>")
        self.assertEqual(1, len(reading.stanzas))

    def test_one_error(self) -> None:
        """
        Stanzas before a broken place are still delivered, the error is raised once, and then the stream is over.
        """
        reading = Reading()
        with self.assertRaises(ParserError):
            reading.parser.parse(b"<a/><b></c><d/>")
        reading.parser.parse(b"<e/>")
        self.assertEqual(["a"], [stanza.name for stanza in reading.stanzas])

    def test_what_only_a_server_can_do_wrong(self) -> None:
        """
        A document type, an entity, a processing instruction, bad UTF-8 or a forbidden character ends the stream.
        """
        for broken in (
            b"<!DOCTYPE a>",
            b"<a>&e;</a>",
            b"<a b='&e;'/>",
            b"<?php ?>",
            b"<a><?php ?></a>",
            b"<a>\xff</a>",
            b"<a>\xed\xa0\x80</a>",
            b"<a>\x00</a>",
            b"<a>&#1;</a>",
            b"<a xmlns='b\x01c'/>",
            b"<a xmlns='b&#1;c'/>",
            b"<p:a/>",
            b"<a b='1' b='2'/>",
        ):
            with self.assertRaises(ParserError, msg=repr(broken)):
                Reading().parser.parse(broken)

    def test_document_type_before_the_root(self) -> None:
        """
        A document type declaration before the stream header is refused before any entity in it counts.
        """
        entities = b"".join(b"<!ENTITY e%d '%s'>" % (n, b"&e%d;" % (n - 1) * 20) for n in range(1, 9))
        with self.assertRaises(ParserError):
            Reading(header=b"").parser.parse(b"<!DOCTYPE s [<!ENTITY e0 'x'>" + entities + b"]><s a='&e8;'>")

    def test_not_xml_at_all(self) -> None:
        """
        Another protocol on that port is noticed with its first bytes, even if it never sends a bracket.
        """
        for greeting in (b"HTTP/1.1 400 Bad Request\r\n", b"\x15\x03\x01\x00\x02\x02\x0a"):
            with self.assertRaises(ParserError):
                Reading(header=b"").parser.parse(greeting)

    def test_endless_header(self) -> None:
        """
        A header, or something else that is no stanza, cannot fill the memory.
        """
        for header, begin in ((b"", b"<stream id='"), (HEADER, b"<!-- "), (HEADER, b"</stream:stream ")):
            reading = Reading(Limits(max_bytes=1000), header)
            with self.assertRaises(ParserError):
                for _ in range(10):
                    reading.parser.parse(begin + b" " * 200)

    def test_failing_callback(self) -> None:
        """
        An exception from one handler loses neither the stanzas behind it nor the order.
        """
        reading = Reading()
        note = reading.parser.ElementEvent

        def fail_once(element: Element) -> None:
            reading.parser.ElementEvent = note
            raise ZeroDivisionError

        reading.parser.ElementEvent = fail_once
        with self.assertRaises(ZeroDivisionError):
            reading.parser.parse(b"<a/><b/>" + b"<c></c>" * 5000 + b"<d")
        reading.parser.parse(b"/>")
        self.assertEqual(["b", *["c"] * 5000, "d"], [stanza.name for stanza in reading.stanzas])

    def test_callback_that_brings_more(self) -> None:
        """
        A handler whose answer is answered at once, as on an in-memory transport, sees everything in order.
        """
        reading = Reading()
        note = reading.parser.ElementEvent

        def bring_more(element: Element) -> None:
            note(element)
            if element.name == "a":
                reading.parser.parse(b"<c/>")

        reading.parser.ElementEvent = bring_more
        reading.parser.parse(b"<a/><b/>")
        self.assertEqual(["a", "b", "c"], [stanza.name for stanza in reading.stanzas])


class SegmentTests(SynchronousTestCase):
    """TCP cuts where it likes."""

    def check(self, stanzas: list[bytes], segments: list[bytes], limits: Limits | None = None) -> None:
        """Every stanza is there, the same as uncut, with the segment that brings its last byte."""
        whole = Reading(limits)
        whole.parser.parse(b"".join(stanzas))
        ends = [sum(map(len, stanzas[: n + 1])) for n in range(len(stanzas))]
        reading = Reading(limits)
        read = 0
        for segment in segments:
            reading.parser.parse(segment)
            read += len(segment)
            self.assertEqual(sum(end <= read for end in ends), len(reading.events))
        self.assertEqual(whole.shapes, reading.shapes)

    def test_byte_by_byte(self) -> None:
        """
        A stream that comes in bytes, or is cut anywhere once or twice, gives the same stanzas at the right moment.
        """
        data = b"".join(TRICKY)
        self.check(TRICKY, [data[at : at + 1] for at in range(len(data))])
        for at in range(len(data)):
            self.check(TRICKY, [data[:at], data[at : at + 7], data[at + 7 :]])

    def test_header_byte_by_byte(self) -> None:
        """
        The header is reported with its last byte.
        """
        reading = Reading(header=b"")
        for at in range(len(HEADER) - 1):
            reading.parser.parse(HEADER[at : at + 1])
        self.assertEqual([], reading.events)
        reading.parser.parse(HEADER[-1:])
        self.assertEqual(["start"], [event[0] for event in reading.events])

    @examples(150)
    @given(st.data(), st.lists(trees(), min_size=1, max_size=4))
    def test_any_cut(self, data: st.DataObject, elements: list[Element]) -> None:
        """
        Whatever peers send, and wherever it is cut, also inside of a character: the same stanzas.
        """
        stanzas = [data.draw(st.sampled_from([serialize(e).encode(), *TRICKY])) for e in elements]
        stream = b"".join(stanzas)
        self.check(stanzas, pieces(stream, data.draw(cuts(len(stream)))))

    @examples(150)
    @given(st.data(), st.lists(trees(), min_size=1, max_size=4))
    def test_any_cut_through_skipped_stanzas(self, data: st.DataObject, elements: list[Element]) -> None:
        """
        Which stanzas are over a limit does not depend on the cuts, and they are reported with their last byte.
        """
        stanzas = [data.draw(st.sampled_from([b"<m>%s</m>" % serialize(e).encode(), *TRICKY])) for e in elements]
        stream = b"".join(stanzas)
        limits = data.draw(
            st.builds(
                Limits,
                max_bytes=st.integers(50, 200),
                max_depth=st.integers(1, 4),
                max_attributes=st.integers(2, 5),
                max_elements=st.integers(1, 5),
            )
        )
        whole = Reading(limits)
        whole.parser.parse(stream)
        reading = Reading(limits)
        ends = [sum(map(len, stanzas[: n + 1])) for n in range(len(stanzas))]
        read = 0
        for segment in pieces(stream, data.draw(cuts(len(stream)))):
            reading.parser.parse(segment)
            read += len(segment)
            self.assertEqual(sum(end <= read for end in ends), len(reading.events))
        self.assertEqual(
            [(kind, first.name) for kind, first, *_ in whole.events],
            [(kind, first.name) for kind, first, *_ in reading.events],
        )
        self.assertEqual([*map(shape, whole.stanzas)], [*map(shape, reading.stanzas)])


class LimitTests(SynchronousTestCase):
    """A stanza over a limit is skipped, and nothing else."""

    def check(self, limits: Limits, good: bytes, bad: bytes, reason: str) -> None:
        """`good` is read, `bad` reported with its start tag, and the stream goes on; cut or not."""
        for size in (1, 5, 100_000):
            reading = Reading(limits)
            stream = good + bad + good
            for at in range(0, len(stream), size):
                reading.parser.parse(stream[at : at + size])
            self.assertEqual(["element", "skipped", "element"], [event[0] for event in reading.events])
            ((start, why),) = reading.skipped
            self.assertEqual(("m", {"id": "1"}, [], None), (start.name, start.attributes, start.children, start.parent))
            self.assertEqual(reason, why)

    def test_bytes(self) -> None:
        """
        Exactly max_bytes from bracket to bracket are a stanza, one more are too many: in text, CDATA, tags, names.
        """
        for begin, fill, end in (
            (b"<m id='1'>", b"x", b"</m>"),
            (b"<m id='1'>", b"\n", b"</m>"),
            (b"<m id='1'><![CDATA[", b"<", b"]]></m>"),
            (b"<m id='1'><![CDATA[>", b"<", b"]]></m>"),
            (b"<m id='1'><!-- ", b">", b"--></m>"),
            (b"<m id='1'><a b='", b">", b"'/></m>"),
            (b"<m id='1'><", b"a", b"/></m>"),
            (b"<m id='1'></m", b" ", b">"),
            (b"<m id='1'", b" ", b"/>"),
        ):
            good = begin + fill * (1000 - len(begin + end)) + end
            for more in (1, 100):
                bad = begin + fill * more + good[len(begin) :]
                self.check(Limits(max_bytes=1000), good, bad, "more than 1000 bytes")

    def test_skipped_whatever_it_contains(self) -> None:
        """
        The end of a skipped stanza is found behind everything that looks like one, wherever it is cut.
        """
        contents = (
            b"<a b='</m>' c=\"</m>'/>\"/><a/><!-- </m>-> --\n--><![CDATA[</m></m></m></m></m></m>]]&gt;]]]>"
            b"<?php '</m>?'?><d \n></d>\xf0\x9f\x98\x80</a></a>"
        )
        stream = b"<m id='1'><b/><a><a>" + contents + b"</m><n/>"
        for at in range(len(stream)):
            for size in (1, 2, 8, len(stream)):
                reading = Reading(Limits(max_depth=2))
                reading.parser.parse(stream[:at])
                for after in range(at, len(stream), size):
                    reading.parser.parse(stream[after : after + size])
                self.assertEqual(
                    [("skipped", "m"), ("element", "n")], [(kind, element.name) for kind, element, *_ in reading.events]
                )

    def test_depth(self) -> None:
        """
        So many levels are a stanza, one more is too many.
        """
        self.check(
            Limits(max_depth=3),
            b"<m id='1'><a><b/></a><a><b></b></a></m>",
            b"<m id='1'><a><b/><b><c/></b></a></m>",
            "more than 3 levels of nesting",
        )

    def test_elements(self) -> None:
        """
        So many elements are a stanza, one more is too many.
        """
        self.check(
            Limits(max_elements=4),
            b"<m id='1'><a/><a/><a/></m>",
            b"<m id='1'><a/><a/><a/><a>x</a></m>",
            "more than 4 elements",
        )

    def test_attributes(self) -> None:
        """
        So many attributes and declarations of one element are a stanza, one more is too many.
        """
        self.check(
            Limits(max_attributes=3),
            b"<m id='1'><a b='1' xmlns:p='c' p:b='2'/></m>",
            b"<m id='1'><a b='1' xmlns:p='c' xmlns:q='c' p:b='2'/></m>",
            "more than 3 attributes",
        )

    def test_attributes_of_the_stanza(self) -> None:
        """
        Too many attributes on the stanza itself are no reason to lose who sent it.
        """
        reading = Reading(Limits(max_attributes=3))
        reading.parser.parse(b"<iq from='a' id='1' type='get' x='1'><m/></iq><b/>")
        ((start, _),) = reading.skipped
        self.assertEqual(("a", "1", "get"), (start["from"], start["id"], start["type"]))
        self.assertEqual(["b"], [stanza.name for stanza in reading.stanzas])

    def test_endless_start_tag(self) -> None:
        """
        A start tag that never seems to end is skipped too, and reported with the attributes before the long one.
        """
        reading = Reading(Limits(max_bytes=1000))
        reading.parser.parse(b"<iq from='a>b' id=\"1\" type = 'get' long='")
        for _ in range(100):
            reading.parser.parse(b"x>" * 1000)
        self.assertEqual([], reading.events)
        reading.parser.parse(b"'><iq long='2'/></iq><b/>")
        ((start, reason),) = reading.skipped
        self.assertEqual((NS_COMPONENT, "iq"), (start.uri, start.name))
        self.assertEqual({"from": "a>b", "id": "1", "type": "get"}, start.attributes)
        self.assertEqual("more than 1000 bytes", reason)
        self.assertEqual(["b"], [stanza.name for stanza in reading.stanzas])

    def test_endless_start_tag_of_nobody(self) -> None:
        """
        If even the name of a stanza is endless, it is skipped and reported without a name.
        """
        reading = Reading(Limits(max_bytes=1000))
        reading.parser.parse(b"<p:" + b"x" * 5000 + b" xmlns:p='urn:p'/><b/>")
        self.assertEqual(["skipped", "element"], [event[0] for event in reading.events])

    def test_namespace_name(self) -> None:
        """
        A namespace name may have so many bytes and no more, wherever it is declared.
        """
        for begin, end in (
            (b"<m id='1' xmlns:p='", b"'/>"),
            (b"<m id='1'><a xmlns='", b"'/></m>"),
            (b"<m id='1'>b<a b='>' xmlns:c = '", b"' d=''>c</a></m>"),
            (b"<m id='1'><![CDATA[><a>]]><a xmlns='", b"'/></m>"),
        ):
            good = begin + b">" * 512 + end
            for white in (b"", b" ", b"\r"):
                bad = white + begin + b">" * 513 + end
                self.check(Limits(), good, bad, "a namespace name of more than 512 bytes")

    def test_text_about_namespaces(self) -> None:
        """
        A long text full of what looks like a namespace declaration is read like any other.
        """
        for word in (b"xmlns", b"xmlns:", b"xmlns=", b"xmlns='", b"xmlns:a ", b" xmlns = '\""):
            text = word * 20_000
            reading = Reading()
            reading.parser.parse(b"<m>" + text + b"</m>")
            self.assertEqual([text.decode()], [str(stanza) for stanza in reading.stanzas])

    def test_declarations_that_are_none(self) -> None:
        """
        What looks like a long declaration in text, CDATA, a comment, a value or an end tag's place declares nothing.
        """
        for quote in (b"'", b'"'):
            long = b" xmlns=" + quote + b"u>" * 1000
            other = b"'" if quote == b'"' else b'"'
            for content in (
                b"try" + long,
                b"&lt;a" + long + quote,
                b"<b/>" + long + b"<b></b >" + long + quote,
                b"<![CDATA[<a" + long + b"]]>]]&gt;" + long,
                b"<!--><a" + long + b"--><b/>" + long,
                b"<b c=" + other + b"a" + long + other + b"/>" + long,
                b"<b c='' d = " + other + long + other + b" xmlns='urn:b' ></b>",
            ):
                stanza = b"<m>" + content + b"</m>"
                for size in (1, 7, 513, 100_000):
                    reading = Reading()
                    for at in range(0, len(stanza), size):
                        reading.parser.parse(stanza[at : at + size])
                    self.assertEqual([], reading.skipped, content[:30])
                    self.assertEqual(["m"], [read.name for read in reading.stanzas])
                if b"<!" not in content:
                    self.assertEqual(1, len(parse_stanzas(stanza.decode(), Limits())))

    @examples(150)
    @given(st.data())
    def test_long_declaration_among_others(self, data: st.DataObject) -> None:
        """
        Whatever is around it and wherever it is cut, a stanza is skipped if a start tag of it has one, and only then.
        """
        long = b"xmlns:p='" + b"u" * 513 + b"'"
        harmless = [
            b"x>",
            b" " + long,
            b'xmlns="' + b"v" * 600,
            b"<![CDATA[]] <a " + long + b">]]>",
            b"<!-- <a " + long + b"> - ->-->",
            b'<a b="' + long + b">\" c=''/>",
            b"<a\n></a >",
        ]
        harmful = [b"<a " + long + b"/>", b"<a b='>' c = \"xmlns='\"\r\n" + long + b" d=''/>"]
        contents = data.draw(st.lists(st.sampled_from(harmless * 2 + harmful), max_size=6))
        stream = b"<m id='1'>" + b"".join(contents) + b"</m><n/>"
        reading = Reading()
        for segment in pieces(stream, data.draw(cuts(len(stream)))):
            reading.parser.parse(segment)
        expected = "skipped" if set(contents) & set(harmful) else "element"
        self.assertEqual(
            [(expected, "m"), ("element", "n")], [(kind, element.name) for kind, element, *_ in reading.events]
        )

    def test_known_sender_of_a_long_declaration(self) -> None:
        """
        What looks like a declaration in an attribute does not hide who sent a stanza that has a real one.
        """
        decoy = "xmlns='" + "u" * 600
        reading = Reading()
        reading.parser.parse(f"<m a=\"{decoy}\" id='1' xmlns:p=\"{'u' * 513}\" p:b=''/>".encode())
        ((start, _),) = reading.skipped
        self.assertEqual({"a": decoy, "id": "1"}, start.attributes)

    def test_multiplied_namespace_name(self) -> None:
        """
        One long namespace name and many attributes with its prefix do not become their product.
        """
        for length in (500, 100_000):
            attributes = b"".join(b" p:a%x=''" % number for number in range(10_000))
            reading = Reading()
            tracemalloc.start()
            reading.parser.parse(b"<m id='1' xmlns:p='" + b"u" * length + b"'" + attributes + b"/>")
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            self.assertEqual(["m"], [start.name for start, _ in reading.skipped])
            self.assertLess(peak, 32 * MEBIBYTE)

    def test_skipping_costs_no_memory(self) -> None:
        """
        Text, tags, names, one attribute, one tag without end: whatever is long about it, memory stays flat.
        """
        numbers = random.Random(1)

        def tags() -> bytes:
            return b"".join(b"<a%x b%x='1'/>" % ((numbers.getrandbits(60),) * 2) for _ in range(100))

        more: list[tuple[bytes, Callable[[], bytes]]] = [
            (b"<m>", lambda: b"x" * 16384),
            (b"<m>", lambda: b"<a>" * 1000),
            (b"<m>", tags),
            (b"<m><a b='", lambda: b">" * 16384),
            (b"<m a='", lambda: b"y" * 16384),
            (b"<m><![CDATA[", lambda: b"<" * 16384),
            (b"<m><!--", lambda: b"<" * 16384),
        ]
        for begin, make in more:
            reading = Reading(Limits(max_bytes=100_000))
            tracemalloc.start()
            reading.parser.parse(begin)
            for _ in range(256):
                reading.parser.parse(make())
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            self.assertLess(peak, 10 * MEBIBYTE, begin)

    def test_skipped_stanza_is_not_kept(self) -> None:
        """
        When a stanza passes its limit, what was built of it is gone at once, not when it ends.
        """
        reading = Reading()
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        reading.parser.parse(b"<m>" + b"<a/>" * 9_999)
        built = tracemalloc.get_traced_memory()[0]
        reading.parser.parse(b"<a/>")
        gc.collect()
        self.assertGreater(built, 2 * MEBIBYTE)
        self.assertLess(tracemalloc.get_traced_memory()[0], MEBIBYTE)


class LongLifeTests(SynchronousTestCase):
    """One stream lives for months."""

    def test_names_are_not_kept(self) -> None:
        """
        Strangers who never use a name twice do not fill the memory.
        """
        reading = Reading()
        reading.parser.ElementEvent = lambda element: None
        numbers = random.Random(2)
        peaks = []
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        for _ in range(2):
            tracemalloc.reset_peak()
            for _ in range(200):
                names = [numbers.getrandbits(64) for _ in range(100)]
                reading.parser.parse(b"".join(b"<e%x xmlns='u%x' xmlns:p%x='v' a%x=''/>" % ((n,) * 4) for n in names))
            peaks.append(tracemalloc.get_traced_memory()[1])
        self.assertLess(max(peaks), 5 * MEBIBYTE)

    def test_nothing_happens_when_the_inner_parser_is_renewed(self) -> None:
        """
        After megabytes, cut anywhere, the stanzas are still the same, and the end of the stream is still the end.
        """
        reading = Reading()
        stream = b" ".join(TRICKY) * 1000
        self.assertGreater(len(stream), 2 * 262144)
        cut = random.Random(3)
        at = 0
        while at < len(stream):
            size = cut.choice((1, 7, 100, 1460, 16384, 65536))
            reading.parser.parse(stream[at : at + size])
            at += size
        reading.parser.parse(b"</stream:stream>")
        once = Reading()
        once.parser.parse(b"".join(TRICKY))
        self.assertEqual(once.shapes * 1000 + [("end",)], reading.shapes)

    def test_renewed_with_any_header(self) -> None:
        """
        A root with another prefix, or none, and namespaces that need escaping, survives the renewal.
        """
        for header, footer in (
            (b"<stream xmlns='http://etherx.jabber.org/streams' xmlns:c=\"it's &lt;&amp;&gt;\">", b"</stream>"),
            (b"<\xc3\xa9:s xmlns:\xc3\xa9='a&#10;b' xmlns:c='c' >", b"</\xc3\xa9:s >"),
        ):
            reading = Reading(header=header)
            reading.parser.parse(b"<c:a><b/></c:a>" * 40_000 + footer)
            first, *others, end = reading.shapes
            self.assertEqual(("end",), end)
            self.assertEqual([first] * 39_999, others)


class ParseStanzasTests(SynchronousTestCase):
    """XML that a webhook wrote."""

    def test_one_namespace(self) -> None:
        """
        No namespace, jabber:client and jabber:component:accept are the same, on the stanza and on its children.
        """
        texts = [
            "<message><body>a</body></message>",
            "<message xmlns='jabber:client'><body>a</body></message>",
            "<message xmlns='jabber:component:accept'><body>a</body></message>",
            "<message><body xmlns='jabber:client'>a</body></message>",
            "<message xmlns='jabber:client'><body xmlns=''>a</body></message>",
        ]
        shapes = [shape(parse_stanzas(text, Limits())[0]) for text in texts]
        self.assertEqual([shapes[0]] * len(texts), shapes)
        self.assertEqual((NS_COMPONENT, "message", NS_COMPONENT), shapes[0][:3])

    def test_forwarded_stanza_keeps_its_namespace(self) -> None:
        """
        A message forwarded inside of another one stays jabber:client, as XEP-0297 wants it.
        """
        text = (
            "<message><forwarded xmlns='urn:xmpp:forward:0'>"
            "<message xmlns='jabber:client'><body>a</body></message></forwarded></message>"
        )
        (stanza,) = parse_stanzas(text, Limits())
        self.assertEqual(NS_CLIENT, stanza.forwarded.message.uri)
        self.assertEqual(text, serialize(stanza))

    def test_several(self) -> None:
        """
        Several stanzas side by side come in order, white space around them does not matter.
        """
        stanzas = parse_stanzas(" <message/>\n<iq/><presence/>\t", Limits())
        self.assertEqual(["message", "iq", "presence"], [stanza.name for stanza in stanzas])
        self.assertEqual([None] * 3, [stanza.parent for stanza in stanzas])

    def test_declaration_is_skipped(self) -> None:
        """
        What XML libraries print in front, a byte order mark and an XML declaration, does no harm.
        """
        for text in (
            "<?xml version='1.0'?><message/>",
            "\ufeff<?xml version='1.0' encoding='utf-16' standalone='yes'?>\r\n<message/>",
            "\n<?xml version='1.0'?>\n<message/>",
            "\ufeff<message/>",
        ):
            self.assertEqual(["message"], [stanza.name for stanza in parse_stanzas(text, Limits())], text)

    def test_refused(self) -> None:
        """
        What is not XML, or more than elements, text and attributes, is refused.
        """
        for text in (
            "",
            " ",
            "hello",
            "<message>",
            "<message></iq>",
            "<message/>hello",
            "hello<message/>",
            "<message/>&amp;<message/>",
            "<message/><![CDATA[x]]>",
            "<message",
            "<message/></message>",
            "<p:message/>",
            "<message p:a='1'/>",
            "<message xmlns:p=''/>",
            "<message xmlns:xml='urn:x'/>",
            "<message a='1' a='2'/>",
            "<message a=1/>",
            "<message>&e;</message>",
            "<message>&#0;</message>",
            "<message/><!-- -->",
            "<message><!-- --></message>",
            "<message><?php ?></message>",
            "<?php ?><message/>",
            "<message/><?xml version='1.0'?>",
            "<!DOCTYPE message><message/>",
            "<!DOCTYPE m [<!ENTITY e 'x'>]><message>&e;</message>",
            "<mess\x00age/>",
            "</_><_ xmlns='urn:x'>",
            "</_>",
            "<message/></_><_>",
            "<message/></_><_/>",
        ):
            with self.assertRaises(XmlRefused, msg=repr(text)):
                parse_stanzas(text, Limits())

    def test_limits(self) -> None:
        """
        Each stanza may be as large, deep and wide as the limits say, and no more.
        """
        limits = Limits(max_bytes=100, max_depth=3, max_attributes=2, max_elements=5)
        for good, bad in (
            ("<m>" + "x" * 93 + "</m>", "<m>" + "x" * 94 + "</m>"),
            ("<m a='" + "x" * 91 + "'/>", "<m a='" + "x" * 92 + "'/>"),
            ("<m><a><b/></a></m>", "<m><a><b><c/></b></a></m>"),
            ("<m a='' b=''/>", "<m a='' b='' c=''/>"),
            ("<m><a/><a/><a/><a/></m>", "<m><a/><a/><a/><a/><a/></m>"),
        ):
            self.assertEqual(2, len(parse_stanzas(good * 2, limits)))
            with self.assertRaises(XmlRefused):
                parse_stanzas(good + bad, limits)

    def test_forbidden_characters(self) -> None:
        """
        Characters that XML forbids, and half of a surrogate pair, become U+FFFD in text and attributes.
        """
        (stanza,) = parse_stanzas("<m a='\x00\ud800'>\x1b\uffff\udfff\t</m>", Limits())
        self.assertEqual(("\ufffd\ufffd", ["\ufffd\ufffd\ufffd\t"]), (stanza["a"], stanza.children))

    @examples(200)
    @given(st.text(st.sampled_from("<>/!-?[]CDATA'\"= ab:&;#x1\x00\ud800") | st.characters(), max_size=40))
    def test_anything_is_read_or_refused(self, text: str) -> None:
        """
        Whatever a webhook writes is either XML or refused; nothing else happens.
        """
        for attempt in (text, f"<m>{text}</m>", f"<m {text}/>"):
            try:
                stanzas = parse_stanzas(attempt, Limits())
            except XmlRefused:
                continue
            for stanza in stanzas:
                self.assertEqual(meaning(stanza), meaning(parse_stanzas(serialize(stanza), Limits())[0]))


class SerializeTests(SynchronousTestCase):
    """XML that leaves."""

    @examples(400)
    @given(trees())
    def test_round_trip(self, tree: Element) -> None:
        """
        Whatever is in an element: read on the stream, by us or by domish, and on its own, it says the same.
        """
        text = serialize(tree)
        reading = Reading()
        reading.parser.parse(text.encode())
        self.assertEqual([meaning(tree)], [meaning(stanza) for stanza in reading.stanzas])
        self.assertEqual([meaning(tree)], [meaning(stanza) for stanza in parse_stanzas(text, Limits())])
        if "xmlns='a b'" not in text and "'it&apos;s" not in text and "a b" not in text:
            self.assertEqual([meaning(tree)], [meaning(stanza) for stanza in read_by_domish(text.encode())])

    @examples(100)
    @given(hostile_text, hostile_text)
    def test_names_are_names_or_refused(self, name: str, other: str) -> None:
        """
        A name that is none, of an element or of an attribute, cannot smuggle anything in: the element is refused.
        """
        element = Element((None, "m"))
        element.addElement(name).attributes[other] = "1"
        element.attributes["urn:a", name] = "2"
        try:
            text = serialize(element)
        except XmlRefused:
            return
        self.assertEqual([meaning(element)], [meaning(stanza) for stanza in parse_stanzas(text, Limits())])

    def test_usual_stanza(self) -> None:
        """
        An ordinary message looks as people expect it, inside of a stream or alone.
        """
        text = (
            "<message to='a@b' type='chat' xml:lang='en'><body>1 &lt; 2 &amp; \"3\" &gt; '2'</body>"
            "<active xmlns='http://jabber.org/protocol/chatstates'/></message>"
        )
        self.assertEqual(text, serialize(parse_stanzas(text, Limits())[0]))

    def test_all_names_of_the_streams_namespace(self) -> None:
        """
        No namespace, None, jabber:client and jabber:component:accept are all written as nothing.
        """
        for uri in (None, "", NS_CLIENT, NS_COMPONENT, "urn:own"):
            for inner in (None, "", NS_CLIENT, NS_COMPONENT, "urn:own"):
                message = Element((uri, "message"))
                message.addChild(Element((inner, "body")))
                self.assertEqual("<message><body/></message>", serialize(message, default_namespace="urn:own"))

    def test_streams_namespace_inside_of_another(self) -> None:
        """
        A stanza of the stream's namespace inside of a foreign element gets by without naming that namespace.
        """
        message = Element((NS_COMPONENT, "message"))
        forwarded = message.addElement(("urn:xmpp:forward:0", "forwarded"))
        forwarded.addElement((NS_COMPONENT, "message")).addElement("body", content="x")
        forwarded.addElement(("", "nothing")).addElement((NS_CLIENT, "client"))
        self.assertEqual(
            "<message xmlns:ns0='urn:xmpp:forward:0' xmlns:ns1='jabber:client'><ns0:forwarded>"
            "<message><body>x</body></message><nothing xmlns=''><ns1:client/></nothing></ns0:forwarded></message>",
            serialize(message),
        )

    def test_none_is_the_namespace_around(self) -> None:
        """
        An element without a namespace of its own takes the default one around it, as with domish.
        """
        iq = Element((None, "iq"))
        query = iq.addElement(("urn:q", "query"))
        query.addChild(Element((None, "item")))
        self.assertEqual(iq.toXml(), serialize(iq))

    def test_whitespace_survives(self) -> None:
        """
        Tabs and line breaks come through in attributes, and carriage returns in text.
        """
        message = Element((None, "message"))
        message["a"] = "\t\n\r '\""
        message.addContent("\t\n\r")
        (again,) = parse_stanzas(serialize(message), Limits())
        self.assertEqual(("\t\n\r '\"", "\t\n\r"), (again["a"], str(again)))

    def test_quotation_marks(self) -> None:
        """
        A value is written in apostrophes, unless it holds more of them than of quotation marks.
        """
        for value, written in (
            ("a", "'a'"),
            ('"', "'\"'"),
            ("it's", '"it\'s"'),
            ("'\"", "'&apos;\"'"),
            ("'\"'", "\"'&quot;'\""),
            ("<&\t\n\r>'", '"&lt;&amp;&#9;&#10;&#13;>\'"'),
        ):
            self.assertEqual(f"<m a={written}/>", serialize(Element((None, "m"), attribs={"a": value})))

    @examples(100)
    @given(
        st.sampled_from("'\""),
        st.lists(st.sampled_from(["'", '"', "&#39;", "&#34;", "&#38;", "&#60;", "&#9;", "&#xD;", ">", "=", "\xe9"])),
    )
    def test_echoed_attribute_stays_short(self, mark: str, parts: list[str]) -> None:
        """
        An attribute that comes back, as an id does, is hardly longer than it was when it came.
        """
        value = "".join(part for part in parts if part != mark) * 1000
        stanza = f"<iq id={mark}{value}{mark}/>"
        (element,) = parse_stanzas(stanza, Limits(max_bytes=MEBIBYTE))
        text = serialize(element)
        self.assertLessEqual(len(text), 1.2 * len(stanza))
        self.assertEqual([meaning(element)], [*map(meaning, parse_stanzas(text, Limits(max_bytes=MEBIBYTE)))])

    def test_much_to_escape(self) -> None:
        """
        A long text that is mostly markup stays short: `>` stays where it may, or the text is a CDATA section.
        """
        for text, written in (
            ("a>b" * 40, "a>b" * 40),
            (">" * 40, "&gt;" + ">" * 39),
            ("]]>" * 40, "]]&gt;" * 40),
            ("&" * 40, "<![CDATA[" + "&" * 40 + "]]>"),
            ("&" * 40 + "]]>\r", "<![CDATA[" + "&" * 40 + "]]]]><![CDATA[>]]>&#13;<![CDATA[]]>"),
            (
                "salt & pepper, bread and butter, and a spoon" * 40,
                "salt &amp; pepper, bread and butter, and a spoon" * 40,
            ),
        ):
            element = Element((None, "m"), attribs={})
            element.addContent(text)
            self.assertEqual(f"<m>{written}</m>", serialize(element))
            self.assertEqual(text, str(parse_stanzas(serialize(element), Limits())[0]))

    def test_text_in_pieces(self) -> None:
        """
        Pieces of a text side by side never make the end of a CDATA section.
        """
        element = Element((None, "m"))
        element.children = ["]" * 40 + ">" * 40, ">" * 40, "]", ">" * 40, "]", "]>" * 40]
        self.assertEqual("".join(element.children), str(parse_stanzas(serialize(element), Limits())[0]))

    def test_prefixes_for_names_in_text(self) -> None:
        """
        Prefixes stay declared where they were, because text may use them.
        """
        text = "<m><x xmlns='urn:x' xmlns:xs='urn:xs' xmlns:i='urn:i' i:type='xs:string'>1</x></m>"
        (stanza,) = parse_stanzas(text, Limits())
        self.assertEqual(text, serialize(stanza))

    def test_prefix_of_an_attribute(self) -> None:
        """
        Two attributes of the same name in two namespaces stay two, whatever prefixes there are already.
        """
        element = Element((None, "m"), localPrefixes={"ns0": "urn:z", "ns1": "urn:b"})
        element.attributes = {"n": "0", ("urn:a", "n"): "1", ("urn:b", "n"): "2", (NS_XML, "lang"): "en"}
        (again,) = parse_stanzas(serialize(element), Limits())
        self.assertEqual(element.attributes, again.attributes)

    def test_refused(self) -> None:
        """
        What cannot be XML is refused, not written.
        """
        xmlns = "http://www.w3.org/2000/xmlns/"
        for broken in (
            Element((None, "")),
            Element((None, "a b")),
            Element((None, "a/><b")),
            Element((None, "p:a")),
            Element((None, "1")),
            Element((None, "\ud800")),
            Element((None, "a\u0300:b")),
            Element((xmlns, "a")),
            Element((None, "a"), attribs={"b c": "1"}),
            Element((None, "a"), attribs={"xmlns": "urn:x"}),
            Element((None, "a"), attribs={"xmlns:b": "urn:x"}),
            Element((None, "a"), attribs={"p:b": "1"}),
            Element((None, "a"), attribs={(xmlns, "b"): "1"}),
            Element((None, "a"), attribs={"b": "1", ("", "b"): "2"}),
            Element((None, "a"), attribs={("urn:\x00", "b"): "1", ("urn:\x01", "b"): "2"}),
            Element((None, "a"), attribs={"b": 1}),
            Element((None, "a"), attribs={"b": b"1"}),
            Element((None, "a"), attribs={7: "1"}),
            Element((None, None)),
            Element((7, "a")),
        ):
            with self.assertRaises(XmlRefused, msg=repr(vars(broken))):
                serialize(broken)
        for child in (b"bytes", 7, None, object()):
            parent = Element((None, "a"))
            parent.children.append(child)
            with self.assertRaises(XmlRefused, msg=repr(child)):
                serialize(parent)

    def test_raw_xml(self) -> None:
        """
        XML that a handler adds as text is read first: it takes the namespace around it, and cannot break out.
        """
        html = Element((None, "message")).addElement(("urn:html", "body"))
        html.addRawXml("a &lt; <b title=\"it's\">c</b><x xmlns='urn:x'/> d")
        self.assertEqual(
            "<message><body xmlns='urn:html'>a &lt; <b title=\"it's\">c</b><x xmlns='urn:x'/> d</body></message>",
            serialize(html.parent),
        )
        for raw in ("<b>", "</body>", "</_><_>", "<!-- -->", "&e;", "<p:a/>"):
            html.children[:] = [SerializedXML(raw)]
            with self.assertRaises(XmlRefused, msg=raw):
                serialize(html.parent)

    def test_any_depth(self) -> None:
        """
        A hundred thousand levels are written and read without recursion.
        """
        levels = 100_000
        text = serialize(deep(levels))
        self.assertEqual("<a>" * (levels - 1) + "<a/>" + "</a>" * (levels - 1), text)
        (again,) = parse_stanzas(text, Limits(max_bytes=MEBIBYTE, max_depth=levels, max_elements=levels))
        self.assertEqual(text, serialize(again))

    def test_length_is_in_proportion(self) -> None:
        """
        A long namespace name, used a thousand times through a prefix, is not written a thousand times.
        """
        for stanza in (
            b"<m xmlns:p='%s'>" % (b"u" * 500) + b"<p:a/><a/>" * 3000 + b"</m>",
            b"<m xmlns:p='%s'>" % (b"u" * 500) + b"<a p:b=''/>" * 3000 + b"</m>",
            b"<m xmlns:p='%s' xmlns:q='%s'>" % ((b"u" * 500,) * 2)
            + b"<x xmlns:p='x'>"
            + b"<q:a/><a/>" * 3000
            + b"</x></m>",
        ):
            reading = Reading()
            reading.parser.parse(stanza)
            (element,) = reading.stanzas
            text = serialize(element)
            self.assertLess(len(text), 2 * len(stanza))
            self.assertEqual([meaning(element)], [meaning(again) for again in parse_stanzas(text, Limits())])
