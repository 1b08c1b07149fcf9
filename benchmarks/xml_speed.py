"""
What reading and writing one stanza costs here and with Twisted's domish, in one run.

Usage: `python benchmarks/xml_speed.py`. Prints CPU microseconds for each stanza, and ours in parts of domish's.
The stanza is an ordinary chat message. "one segment each" is a quiet stream, "packed" a busy one, where a read
brings 64 KiB.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from twisted.words.xish import domish

from component_http.contract.xml import NS_COMPONENT, Limits, StreamParser, serialize

HEADER = (
    b"<?xml version='1.0'?><stream:stream xmlns='jabber:component:accept' "
    b"xmlns:stream='http://etherx.jabber.org/streams' from='bot.example.org' id='a1b2c3'>"
)
STANZA = (
    b"<message to='bot@bot.example.org' from='alice@example.org/phone' type='chat' id='a3f9c2d1-77' xml:lang='en'>"
    b"<body>Where is the next meeting? I&apos;d like to be there &amp; on time.</body>"
    b"<active xmlns='http://jabber.org/protocol/chatstates'/><request xmlns='urn:xmpp:receipts'/>"
    b"<origin-id xmlns='urn:xmpp:sid:0' id='a3f9c2d1-77'/></message>"
)
STANZAS = 10_000
ROUNDS = 5


def _drop(*_: object) -> None:
    pass


def _reading(make: Callable[[], StreamParser | domish.ExpatElementStream], segments: list[bytes]) -> Callable[[], None]:
    def read() -> None:
        parser = make()
        parser.DocumentStartEvent = parser.ElementEvent = parser.DocumentEndEvent = _drop
        parser.parse(HEADER)
        for segment in segments:
            parser.parse(segment)

    return read


def _best(job: Callable[[], None]) -> float:
    """CPU microseconds for one stanza, the best of some rounds."""
    times = []
    for _ in range(ROUNDS):
        begun = time.process_time()
        job()
        times.append(time.process_time() - begun)
    return min(times) / STANZAS * 1e6


def _ours() -> StreamParser:
    return StreamParser(Limits(), _drop)


def main() -> None:
    """Measure and print."""
    everything = STANZA * STANZAS
    packed = [everything[at : at + 65536] for at in range(0, len(everything), 65536)]
    single = [STANZA] * STANZAS

    stanzas: list[domish.Element] = []
    parser = _ours()
    parser.ElementEvent = stanzas.append
    parser.parse(HEADER + STANZA)
    (stanza,) = stanzas

    def write_ours() -> None:
        for _ in range(STANZAS):
            serialize(stanza)

    def write_domish() -> None:
        for _ in range(STANZAS):
            stanza.toXml(defaultUri=NS_COMPONENT)

    print(f"{'':24}{'ours':>8}{'domish':>8}{'ratio':>8}")
    for name, ours, theirs in (
        ("read, one segment each", _reading(_ours, single), _reading(domish.elementStream, single)),
        ("read, packed", _reading(_ours, packed), _reading(domish.elementStream, packed)),
        ("write", write_ours, write_domish),
    ):
        mine, other = _best(ours), _best(theirs)
        print(f"{name:24}{mine:8.1f}{other:8.1f}{mine / other:8.2f}")


if __name__ == "__main__":
    main()
