"""
What the spool on disk costs a whole gateway, in one run: throughput, CPU and latency with it and without.

Usage: `python benchmarks/spool_cost.py [ROUNDS] [FOLDER]`, from a source tree; five rounds take two minutes. Each mode
has a gateway of its own, with the load and the webhook of the soak tests: real processes, on loopback. They take turns,
so that what else the machine does falls on both.

At window 100, so many messages are always unanswered, of 100 senders. At window 1 a message is sent when the one before
it is answered; this may take two commits longer, one before it is accepted and one before its answer leaves.

Two commits are measured twice in the same folder, with the same settings: in SQLite alone, one row each, and as the
gateway sees them, from asking the spool to being told. The second has changes of thread in it, and more rows, which
count where the disk is very fast.
"""

from __future__ import annotations

import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from attrs import define, field
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from component_http.contract.delivery import Delivery  # noqa: E402
from component_http.contract.outbound import OutboundStanza  # noqa: E402
from component_http.contract.stanza import Stanza  # noqa: E402  (all of these are found through the line above)
from component_http.contract.xml import Limits, parse_stanzas  # noqa: E402
from component_http.spool import database  # noqa: E402
from component_http.spool.sqlite import SqliteSpool  # noqa: E402
from tests.soak.rig import Rig  # noqa: E402

WINDOW, SENDERS = 100, 100
ROUNDS = 5
SECONDS = 5.0
"""Of each turn at window 100; at window 1 half of it."""

COMMITS = 300


@define
class Mode:
    """
    A gateway in one mode, and what was measured of it.

    Attributes:
        throughput: Messages answered per second, in each round.
        cpu: CPU seconds of the gateway for 1000 of them.
        latencies: Seconds at window 1.
    """

    name: str
    rig: Rig
    throughput: list[float] = field(factory=list)
    cpu: list[float] = field(factory=list)
    latencies: list[float] = field(factory=list)

    def warm_up(self) -> None:
        """Let everything be imported, connected and written to once."""
        self.rig.run(1.0, {"name": "warm", "window": WINDOW, "senders": SENDERS, "user": "w"})
        self._settle()

    def race(self, turn: int) -> None:
        """One round at window 100."""
        name = f"busy {turn}"
        cpu, before = self.rig.gateway.cpu_seconds(), self._answered()
        since = time.monotonic()
        self.rig.start(SECONDS, {"name": name, "window": WINDOW, "senders": SENDERS})
        time.sleep(SECONDS)
        took, answered = time.monotonic() - since, self._answered() - before
        self._settle()
        self.throughput.append(answered / took)
        in_all = self._answered() - before
        self.cpu.append(1000 * (self.rig.gateway.cpu_seconds() - cpu) / in_all)

    def walk(self, turn: int) -> None:
        """One round at window 1."""
        name = f"alone {turn}"
        self.rig.run(SECONDS / 2, {"name": name, "window": 1, "user": "a"})
        self._settle()
        self.latencies += self.rig.load.ask("latencies", group=name)

    def _answered(self) -> int:
        answered: int = self.rig.load.ask("state")["replied"]
        return answered

    def _settle(self) -> None:
        self.rig.settle(20)
        state = self.rig.load.ask("state")
        assert state["replied"] == state["sent"], state


def _commit(folder: Path) -> list[float]:
    """Seconds that each of some commits took, of one row as large as a delivery's, with the pragmas of a spool."""
    path = folder / "commits.sqlite3"
    path.touch()
    times = []
    with closing(database.opened(path)) as connection:
        connection.execute("CREATE TABLE rows (number INTEGER PRIMARY KEY, body BLOB)")
        for _ in range(COMMITS):
            begun = time.perf_counter()
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("INSERT INTO rows (body) VALUES (?)", (bytes(600),))
            connection.execute("COMMIT")
            times.append(time.perf_counter() - begun)
    return times


def _asked_pairs(folder: Path, count: int) -> list[float]:
    """Seconds in which a spool accepts a delivery and ends it with a reply, one after the other and nothing else."""
    reactor: Any = _reactor
    times: list[float] = []
    path = folder / "asked.sqlite3"
    path.touch()
    spool = SqliteSpool(path, reactor, deadlines={"message": 900.0})

    async def ask() -> None:
        for number in range(count):
            now = reactor.seconds()
            delivery = Delivery(str(number), _stanza(), 600, now + 900.0)
            reply = OutboundStanza(b"x" * 200, "message", now + 900.0, now, delivery_id=delivery.id)
            begun = time.perf_counter()
            await spool.store(delivery, bytes(600))
            await spool.end(delivery.id, [reply])
            times.append(time.perf_counter() - begun)
        await spool.close()

    def begin() -> None:
        asked = Deferred.fromCoroutine(ask())
        asked.addErrback(lambda failure: failure.printTraceback())
        asked.addBoth(lambda _: reactor.stop())

    reactor.callWhenRunning(begin)
    reactor.run()
    return times


def _stanza() -> Stanza:
    [element] = parse_stanzas(
        "<message from='alice@example.org/x' to='bot@bot.example.org' type='chat' id='1'><body>x</body></message>",
        Limits(),
    )
    return Stanza.from_element(element)


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.2f}"


def main(arguments: Sequence[str]) -> None:
    """Measure and print."""
    rounds = int(arguments[0]) if arguments else ROUNDS
    parent = Path(arguments[1]) if len(arguments) > 1 else Path(tempfile.gettempdir())
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="component-http-cost-", dir=parent)))
        memory, durable = modes = [
            Mode(name, stack.enter_context(Rig(seed=1, memory=name == "memory", disk=folder)))
            for name in ("memory", "sqlite")
        ]
        for mode in modes:
            mode.warm_up()
        commits: list[float] = []
        for turn in range(rounds):
            # Each is first as often as the other.
            for mode in modes if turn % 2 else modes[::-1]:
                mode.race(turn)
            for mode in modes if turn % 2 else modes[::-1]:
                mode.walk(turn)
            commits += _commit(folder)
            (folder / "commits.sqlite3").unlink()
        asked = statistics.median(_asked_pairs(folder, COMMITS * rounds))
    ratios = [of_disk / of_memory for of_disk, of_memory in zip(durable.throughput, memory.throughput, strict=True)]
    commit = statistics.median(commits)
    grown = statistics.median(durable.latencies) - statistics.median(memory.latencies)
    print(f"SQLite {sqlite3.sqlite_version}, synchronous FULL, {rounds} rounds; medians\n")
    print(f"{'':34}{'memory':>10}{'sqlite':>10}")
    for label, values in (
        (f"answered per second, window {WINDOW}", [mode.throughput for mode in modes]),
        ("CPU seconds per 1000", [mode.cpu for mode in modes]),
    ):
        print(f"{label:34}" + "".join(f"{statistics.median(one):>10.3g}" for one in values))
    print(f"{'latency ms, window 1':34}" + "".join(f"{_ms(statistics.median(mode.latencies)):>10}" for mode in modes))
    print(f"\nthroughput ratio, of each round: {', '.join(f'{ratio:.2f}' for ratio in ratios)}")
    print(f"throughput ratio, median: {statistics.median(ratios):.2f} (to be 0.70 or more)")
    print(f"latency grows by {_ms(grown)} ms (to be two commits or less)")
    print(f"two commits in SQLite alone: {_ms(2 * commit)} ms")
    print(f"two commits as the gateway sees them: {_ms(asked)} ms")


if __name__ == "__main__":
    main(sys.argv[1:])
