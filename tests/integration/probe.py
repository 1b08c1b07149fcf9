"""
The other end of a component stream, twice, without a line of component-http.

`Probe` is a small XEP-0114 component of a real server that sends raw stanzas and collects what comes.
`ScriptedServer` is the server's side of the stream for one gateway: it says whatever a test wants it to say.
Both are plain sockets, one reading thread each, and the standard library's XML parser.
"""

from __future__ import annotations

import hashlib
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from xml.etree.ElementTree import Element, ParseError, XMLPullParser, fromstring, tostring

from tests.integration.closing import Closing
from tests.integration.waiting import PATIENCE, eventually

__all__ = [
    "COMPONENT",
    "STREAMS",
    "Peer",
    "Probe",
    "ScriptedServer",
    "StreamReader",
    "canonical",
    "child",
    "parse",
    "stanza_error",
]

COMPONENT = "jabber:component:accept"
STREAMS = "http://etherx.jabber.org/streams"
STREAM_ERRORS = "urn:ietf:params:xml:ns:xmpp-streams"
STANZA_ERRORS = "urn:ietf:params:xml:ns:xmpp-stanzas"
PING = "urn:xmpp:ping"
XML_LANG = "{http://www.w3.org/XML/1998/namespace}lang"

_ONE_NAMESPACE = ("{jabber:component:accept}", "{jabber:client}")
_numbers = itertools.count(1)


class StreamReader:
    """
    Bytes of a stream in, its header's attributes and its top-level elements out.

    Attributes:
        header: Attributes of the stream's opening tag; None until it is in.
        closed: The stream's closing tag was read.
    """

    def __init__(self) -> None:
        self._parser = XMLPullParser(("start", "end"))
        self._root: Element | None = None
        self._depth = 0
        self.header: dict[str, str] | None = None
        self.closed = False

    def feed(self, data: bytes) -> list[Element]:
        """
        Returns:
            The top-level elements that `data` completed.

        Raises:
            xml.etree.ElementTree.ParseError: What came is not well-formed.
        """
        self._parser.feed(data)
        if hasattr(self._parser, "flush"):  # else a newer expat holds a cut start tag back
            self._parser.flush()
        complete = []
        for event, element in self._parser.read_events():
            assert isinstance(element, Element)
            if event == "start":
                self._depth += 1
                if self._depth == 1:
                    self._root = element
                    self.header = dict(element.attrib)
                continue
            self._depth -= 1
            if self._depth == 0:
                self.closed = True
            elif self._depth == 1:
                complete.append(element)
                assert self._root is not None
                self._root.clear()
        return complete


class Peer(Closing):
    """
    One connected socket that carries a stream, with everything that came over it; a closing tag is answered.

    Args:
        connection: The socket.
        routes: It is a server's side, so what a component sends to itself goes back to it.

    Attributes:
        elements: Top-level elements as they came.
        raw_bytes: How many bytes came.
        broken: Why the other side's XML could not be read; None while it could.
        gone: The other side closed the connection, or it broke.
    """

    def __init__(self, connection: socket.socket, *, routes: bool = False) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = connection
        self._reader = StreamReader()
        self._changed = threading.Condition()
        self.elements: list[Element] = []
        self.raw_bytes = 0
        self.broken: ParseError | None = None
        self.gone = False
        self._said_goodbye = False
        self._routes = routes
        # Nothing of one thread may come between what another one sends in pieces.
        self._writing = threading.Lock()
        self._reads = threading.Event()
        self._reads.set()
        self._thread = threading.Thread(target=self._read, name="peer", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while True:
            self._reads.wait()
            try:
                data = self._socket.recv(65536)
            except OSError:
                data = b""
            with self._changed:
                if not data:
                    self.gone = True
                elif self.broken is None:
                    self.raw_bytes += len(data)
                    try:
                        self.elements.extend(one for one in self._reader.feed(data) if not self._routed(one))
                    except ParseError as error:
                        self.broken = error
                    if self._reader.closed and not self._said_goodbye:
                        self._said_goodbye = True
                        with suppress(OSError):
                            self._socket.sendall(b"</stream:stream>")
                            self._socket.shutdown(socket.SHUT_WR)
                self._changed.notify_all()
            if not data:
                return

    def _routed(self, element: Element) -> bool:
        """A ping of the component to itself goes back to it, as any server does."""
        if not (self._routes and element.tag == f"{{{COMPONENT}}}iq" and element.get("from") == element.get("to")):
            return False
        with suppress(OSError):
            attributes = " ".join(f"{name}='{value}'" for name, value in element.items())
            self.send(f"<iq {attributes}><ping xmlns='{PING}'/></iq>")
        return True

    @property
    def header(self) -> dict[str, str] | None:
        """Attributes of the other side's opening tag."""
        return self._reader.header

    @property
    def stream_closed(self) -> bool:
        """The other side closed its stream by the closing tag."""
        return self._reader.closed

    @contextmanager
    def not_reading(self) -> Iterator[None]:
        """Leave what comes to the network's buffers for a while; one more piece of it may be read."""
        self._reads.clear()
        try:
            yield
        finally:
            self._reads.set()

    def send(self, data: str | bytes) -> None:
        """Send raw XML."""
        with self._writing:
            self._socket.sendall(data.encode() if isinstance(data, str) else data)

    def send_in_pieces(self, data: str | bytes, sizes: Iterator[int]) -> None:
        """Send raw XML cut into segments of the given numbers of bytes, each handed to the network at once."""
        left = data.encode() if isinstance(data, str) else data
        with self._writing:
            while left:
                size = next(sizes)
                self._socket.sendall(left[:size])
                left = left[size:]
                time.sleep(0)

    def wait(self, ready: Callable[[], bool], what: str, seconds: float = PATIENCE) -> None:
        """Wait for a state of this peer; each arrival wakes it."""
        with self._changed:
            if not self._changed.wait_for(ready, seconds):
                arrived = [tostring(element, "unicode")[:500] for element in self.elements[-10:]]
                raise AssertionError(
                    f"waited {seconds:g} s for {what}; gone: {self.gone}, broken: {self.broken}, last came: {arrived}"
                )

    def wait_for(self, wanted: Callable[[Element], bool], what: str, seconds: float = PATIENCE) -> Element:
        """Wait until an element of this description has come; it stays in `elements`."""
        found: list[Element] = []

        def look() -> bool:
            found[:] = [element for element in self.elements if wanted(element)]
            return bool(found) or self.gone or self.broken is not None

        self.wait(look, what, seconds)
        if not found:
            raise AssertionError(f"the stream ended before {what} came; broken: {self.broken}")
        return found[0]

    def wait_until_gone(self, seconds: float = PATIENCE) -> None:
        """Wait until the other side has closed the connection."""
        self.wait(lambda: self.gone, "the end of the connection", seconds)

    def take(self) -> list[Element]:
        """
        Returns:
            What came since the last call, which is forgotten.
        """
        with self._changed:
            taken, self.elements = self.elements, []
            return taken

    def ping(self, sender: str, recipient: str, seconds: float = PATIENCE) -> Element:
        """
        Send a ping (XEP-0199) and wait for its answer.

        Returns:
            The answer; it and nothing else is taken out of `elements`.
        """
        id = f"ping-{next(_numbers)}"
        self.send(f"<iq type='get' id='{id}' from='{sender}' to='{recipient}'><ping xmlns='{PING}'/></iq>")
        answer = self.wait_for(lambda element: element.get("id") == id, f"the answer to a ping to {recipient}", seconds)
        with self._changed:
            self.elements.remove(answer)
        return answer

    def close(self) -> None:
        """Close the connection without a word and wait for the reading thread."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._reads.set()
        self._thread.join(PATIENCE)
        self._socket.close()


class Probe(Peer):
    """
    An authenticated component of a server on this machine.

    Args:
        port: The server's component port.
        domain: Which component to be.
        secret: Its secret.
    """

    def __init__(self, port: int, domain: str, secret: str) -> None:
        super().__init__(socket.create_connection(("127.0.0.1", port), PATIENCE))
        self._socket.settimeout(None)
        self.domain = domain
        self.send(f"<?xml version='1.0'?><stream:stream xmlns='{COMPONENT}' xmlns:stream='{STREAMS}' to='{domain}'>")
        try:
            self.wait(lambda: self.header is not None or self.gone, "the server's stream header")
            stream_id = (self.header or {}).get("id", "")
            digest = hashlib.sha1((stream_id + secret).encode()).hexdigest()
            with suppress(OSError):  # the server may have closed already; what it said is in `elements`
                self.send(f"<handshake>{digest}</handshake>")
            self.wait_for(lambda element: element.tag == f"{{{COMPONENT}}}handshake", "the server's handshake")
        except BaseException:
            self.close()
            raise
        self.take()


class ScriptedServer(Closing):
    """
    The server's side of a component stream, one connection at a time as the test asks for them.

    Args:
        secret: What the gateway is expected to know.
    """

    def __init__(self, secret: str = "s3cret") -> None:
        self.secret = secret
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=16)
        self.port: int = self._listener.getsockname()[1]
        self.endpoint = f"tcp:host=127.0.0.1:port={self.port}"
        self._peers: list[Peer] = []

    def accept(self, seconds: float = PATIENCE, *, routes: bool = True) -> Peer:
        """
        Args:
            seconds: To wait.
            routes: What the component sends to itself goes back to it; else it never learns what has arrived.

        Returns:
            The gateway's next connection, on which nothing was said yet.
        """
        self._listener.settimeout(seconds)
        try:
            connection, _ = self._listener.accept()
        except TimeoutError:
            raise AssertionError(f"the gateway did not connect within {seconds:g} s") from None
        connection.settimeout(None)
        peer = Peer(connection, routes=routes)
        self._peers.append(peer)
        return peer

    def open_stream(self, peer: Peer) -> str:
        """
        Answer the gateway's stream header.

        Returns:
            The digest that the right secret makes of this stream's id.
        """
        peer.wait(lambda: peer.header is not None or peer.gone, "the gateway's stream header")
        assert peer.header is not None, "the gateway hung up"
        stream_id = f"stream-{next(_numbers)}"
        peer.send(
            f"<?xml version='1.0'?><stream:stream xmlns='{COMPONENT}' xmlns:stream='{STREAMS}'"
            f" from='{peer.header['to']}' id='{stream_id}'>"
        )
        return hashlib.sha1((stream_id + self.secret).encode()).hexdigest()

    def refuse(self, peer: Peer, condition: str, text: str = "") -> None:
        """End the stream with an error, as RFC 6120 section 4.9 has it."""
        words = f"<text xmlns='{STREAM_ERRORS}'>{text}</text>" if text else ""
        peer.send(f"<stream:error><{condition} xmlns='{STREAM_ERRORS}'/>{words}</stream:error></stream:stream>")
        peer.close()

    def authenticate(self, peer: Peer) -> None:
        """Open the stream, check the gateway's handshake and accept it."""
        digest = self.open_stream(peer)
        handshake = peer.wait_for(lambda element: element.tag == f"{{{COMPONENT}}}handshake", "the handshake")
        assert (handshake.text or "").strip() == digest, "the gateway's digest is wrong"
        peer.take()
        peer.send("<handshake/>")

    def connected(self, seconds: float = PATIENCE, *, routes: bool = True) -> Peer:
        """
        Returns:
            The gateway's next connection, authenticated.
        """
        peer = self.accept(seconds, routes=routes)
        self.authenticate(peer)
        return peer

    @contextmanager
    def not_listening(self) -> Iterator[None]:
        """Refuse connections for a while; listens on the same port afterwards."""
        self._listener.close()
        try:
            yield
        finally:
            self._listener = socket.create_server(("127.0.0.1", self.port), backlog=16)

    def close(self) -> None:
        """Close everything."""
        for peer in self._peers:
            peer.close()
        self._listener.close()


def parse(xml: str) -> Element:
    """Read one element that was written down without a namespace."""
    return fromstring(xml)


def child(element: Element, name: str) -> Element | None:
    """Find a child by its local name in the stream's namespace."""
    return next((one for one in element if canonical(one)[0] == name), None)


def stanza_error(element: Element) -> tuple[str | None, str | None]:
    """
    Returns:
        Type and condition of a stanza's error; (None, None) if it has none.
    """
    error = child(element, "error")
    if error is None:
        return None, None
    conditions = [one.tag.partition("}")[2] for one in error if one.tag.startswith(f"{{{STANZA_ERRORS}}}")]
    return error.get("type"), next((name for name in conditions if name != "text"), None)


def canonical(element: Element, *, ignore: frozenset[str] = frozenset()) -> tuple[object, ...]:
    """
    Bring a stanza into a form in which two that mean the same are equal.

    The namespaces of a component's and a client's stream and none at all are one, as are attribute orders and prefixes.
    The language that the server adds by itself is left out.

    Args:
        element: The stanza.
        ignore: Attributes of the stanza itself that do not matter.
    """
    name = element.tag
    for namespace in _ONE_NAMESPACE:
        name = name.removeprefix(namespace)
    attributes = sorted(
        (key, value) for key, value in element.attrib.items() if key not in ignore and (key, value) != (XML_LANG, "en")
    )
    children = tuple((canonical(one), one.tail or "") for one in element)
    return name, tuple(attributes), element.text or "", children


def wait_for_port(port: int, what: str, seconds: float = PATIENCE, detail: Callable[[], str] | None = None) -> None:
    """Wait until somebody listens on a port of this machine."""

    def look() -> bool:
        try:
            socket.create_connection(("127.0.0.1", port), 1.0).close()
        except OSError:
            return False
        return True

    eventually(look, what, seconds=seconds, detail=detail)
