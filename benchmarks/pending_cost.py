"""
What a pending delivery costs beside its request body: memory, by tracemalloc and by the size of the process.

Usage: `python benchmarks/pending_cost.py [NUMBER]`, from a source tree. So many messages, each of another sender, wait
for a webhook that does not answer, with the spool in memory.
"""

from __future__ import annotations

import gc
import os
import sys
import tracemalloc
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.words.xish.domish import Element

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from component_http.contract.stanza import Stanza  # noqa: E402
from component_http.contract.xml import NS_COMPONENT  # noqa: E402  (all of these are found through the line above)
from component_http.delivery.backlog import BacklogLimits  # noqa: E402
from component_http.testing import ScriptedWebhook  # noqa: E402
from tests.relay_world import DOMAIN, relay_world  # noqa: E402

LIMITS = BacklogLimits(max_pending=10**7, max_pending_bytes=2**40)


def a_message(number: int) -> Stanza:
    """A message of a sender of its own, with a short text."""
    element = Element((NS_COMPONENT, "message"))
    element["from"], element["to"] = f"user{number}@example.org/phone", f"bot@{DOMAIN}"
    element["type"], element["id"] = "chat", f"m{number}"
    element.addElement("body", content="hello")
    return Stanza.from_element(element)


def fill(number: int) -> tuple[object, int]:
    """Let so many messages wait; returns what has them, and the bytes of their bodies."""
    world = relay_world(ScriptedWebhook(answer=lambda *_: Deferred()), Clock(), limits=LIMITS, grace=86_400.0)
    for each in range(number):
        world.relay.accept(a_message(each))
    gc.collect()
    return world, world.relay.status().pending_bytes


def resident() -> int:
    """Bytes of memory that the process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Measure and print."""
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    fill(100)
    before = resident()
    world, size = fill(number)
    grown = resident() - before
    print(f"the process grows by {(grown - size) / number:.0f} bytes for each of {number}, beside its body")
    del world
    gc.collect()
    tracemalloc.start()
    _world, size = fill(number)
    print(f"Python has allocated {(tracemalloc.get_traced_memory()[0] - size) / number:.0f} bytes for each of them")


if __name__ == "__main__":
    main()
