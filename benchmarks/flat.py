"""
`make flat`: whether a stanza costs the same however much there is beside it.

Each case is a process with the real classes over transports in memory (`fixed_run.py`), which is brought into its state
first: so many conversations that take turns, so many deliveries that wait in the spool's file, so many that wait for
their next attempt. Then the cases of a row take turns, and the CPU seconds of each turn are divided by its stanzas;
the spool's thread counts, too. Each value is the median of all turns.

Usage: `python benchmarks/flat.py [--rounds N] [--quick] [--out FOLDER] [ROW ...]`, from a source tree.
`--case ROW SIZE` shows the profile of one case instead.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Event
from typing import Any

from attrs import evolve
from twisted.internet.base import DelayedCall, ReactorBase
from twisted.internet.testing import MemoryReactorClock

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from fixed_run import AT_ONCE, IQ_ID, SETTINGS, Run, Wire  # noqa: E402
from report import lines, publish, table  # noqa: E402  (all of these are found through the line above)

from component_http.settings import DeliverySettings, Settings, SpoolSettings  # noqa: E402

ALLOWED = 1.2
"""How much more the dearest case of a row may cost than the cheapest."""

STANZAS = 500
"""Of each turn."""

FAILED = b"HTTP/1.1 500 x\r\nRetry-After: 600\r\nContent-Length: 0\r\n\r\n"
FAILING = re.compile(rb'"from": ?"f\d')


class Timers(ReactorBase):
    """Twisted's own timers, moved by hand."""

    now = 0.0

    def seconds(self) -> float:  # type: ignore[override]
        return self.now

    def installWaker(self) -> None:
        """Do nothing: there is no loop to wake."""


class Reactor(MemoryReactorClock):
    """A reactor in memory whose timers cost what they cost in earnest, and which other threads can call."""

    def __init__(self) -> None:
        super().__init__()
        self._timers = Timers()
        self._called: deque[tuple[Callable[..., object], tuple[object, ...]]] = deque()
        self._anything = Event()

    def seconds(self) -> float:
        return self._timers.now

    def callLater(self, delay: float, callable: Callable[..., Any], *args: object, **kw: object) -> DelayedCall:
        return self._timers.callLater(delay, callable, *args, **kw)

    def getDelayedCalls(self) -> Any:
        return self._timers.getDelayedCalls()

    def callFromThread(self, callable: Callable[..., object], *args: object) -> None:
        self._called.append((callable, args))
        self._anything.set()

    def advance(self, amount: float) -> None:
        self._timers.now += amount
        self._timers.runUntilCurrent()
        while self._called:
            called, arguments = self._called.popleft()
            called(*arguments)
            self._timers.runUntilCurrent()

    def wait(self) -> None:
        """Wait until another thread calls."""
        if not self._anything.wait(30.0):
            sys.exit("nothing happens any more")
        self._anything.clear()


class Case(Run):
    """
    A gateway in some state.

    Args:
        folder: For the spool's file; None for a spool in memory.
        users: Senders that take turns.
        keep_ended: As `spool.keep_ended`; the log is full soon, so that its oldest rows are deleted all the time.
    """

    def __init__(
        self, folder: Path | None, users: int = 100, settings: Settings = SETTINGS, keep_ended: str = "nothing"
    ) -> None:
        spool = SpoolSettings(kind="memory")
        if folder is not None:
            spool = SpoolSettings(path=str(folder / "spool.sqlite3"), keep_ended=keep_ended, max_ended=5000)
        settings = evolve(settings, delivery=DeliverySettings(max_pending=1_000_000), spool=spool)
        super().__init__(b"x" * 20, settings, Reactor())
        self.body = b"y" * 20  # no repetition of the replies, which would look like two programs that answer each other
        self.users = users
        self.start()

    def connect(self) -> tuple[Any, Wire]:
        while not self.reactor.tcpClients:
            self.reactor.wait()  # the spool's file is read first
            self.reactor.advance(0.0)
        return super().connect()

    def exchange(self, names: Sequence[bytes]) -> None:
        """Let users write a message each, and go on until all that are not to fail have their replies."""
        due = self.replies + sum(not name.startswith(b"f") for name in names)
        self.xmpp.dataReceived(b"".join(self.message(name) for name in names))
        answered = True
        while self.replies < due or answered:
            self.reactor.advance(0.0)
            while self.reactor.tcpClients:
                self.webhooks.append(self.connect())
            answered = False
            for protocol, wire in self.webhooks:
                if wire.written:
                    answered = True
                    protocol.dataReceived(FAILED if FAILING.search(wire.take()) else self.answer)
            before = self.replies
            self.take_replies()
            if not answered and self.replies == before and self.replies < due:
                self.reactor.wait()
        self.reactor.advance(0.005)
        self.take_replies()

    def turns(self, count: int = STANZAS) -> None:
        """Let so many messages be answered."""
        for first in range(self.sent, self.sent + count, AT_ONCE):
            self.exchange([b"u%d" % (number % self.users) for number in range(first, first + AT_ONCE)])


def conversations(size: int, _folder: Path) -> Case:
    """So many senders with a message each, and now again."""
    case = Case(None, users=size)
    case.turns(max(size, 2000))
    return case


def rows(size: int, folder: Path) -> Case:
    """So many deliveries wait in the spool's file for their next attempt."""
    return _retries(Case(folder), size)


def kept(size: int, folder: Path) -> Case:
    """The log of deliveries: 0 keeps nothing, 1 facts, 2 bodies, too."""
    case = Case(folder, keep_ended=("nothing", "facts", "bodies")[size])
    case.turns(7000)
    return case


def retries(size: int, _folder: Path) -> Case:
    """So many deliveries wait for their next attempt, with a spool in memory."""
    return _retries(Case(None), size)


def _retries(case: Case, size: int) -> Case:
    """Half of the messages fail, so that the webhook is not taken for dead."""
    half = 50
    for first in range(0, size, half):
        names = [b"%s%d" % (kind, first + each) for each in range(min(half, size - first)) for kind in (b"u", b"f")]
        case.exchange(names)
    case.turns(2000)
    return case


class Components(Case):
    """So many components, between which the messages take turns."""

    def __init__(self, size: int) -> None:
        self.domains = [b"bot%d.localhost" % number for number in range(size)]
        first, *others = [
            evolve(SETTINGS, component=evolve(SETTINGS.component, domain=domain.decode())) for domain in self.domains
        ]
        self.streams: list[tuple[Any, Wire]] = []
        super().__init__(None, settings=evolve(first, others=others))

    def start(self) -> None:
        self.gateway.startService()
        self.reactor.advance(0)
        for domain in self.domains:
            xmpp, stream = self.connect()
            xmpp.dataReceived(
                b"<stream:stream xmlns='jabber:component:accept' xmlns:stream='http://etherx.jabber.org/streams'"
                b" from='%s' id='1'><handshake/>" % domain
            )
            self.streams.append((xmpp, stream))
            self.reactor.advance(0)
            stream.take()

    def exchange(self, names: Sequence[bytes]) -> None:
        """Let each message go to the next component."""
        due = self.replies + len(names)
        for name in names:
            number = self.sent % len(self.domains)
            self.streams[number][0].dataReceived(self.message(name).replace(b"bot.localhost", self.domains[number], 1))
        while self.replies < due:
            self.reactor.advance(0.0)
            self.answer_posts()
            self.reactor.advance(0.005)
            self.take_replies()

    def take_replies(self) -> None:
        for domain, (xmpp, stream) in zip(self.domains, self.streams, strict=True):
            written = stream.take()
            self.replies += written.count(b"</message>")
            for iq in IQ_ID.findall(written):
                xmpp.dataReceived(b"<iq from='%s' to='%s' type='result' id='%s'/>" % (domain, domain, iq))


def components(size: int, _folder: Path) -> Case:
    """So many components, between which the messages take turns."""
    case = Components(size)
    case.turns(2000)
    return case


ROWS: Mapping[str, tuple[str, Callable[[int, Path], Case], tuple[int, ...], tuple[int, ...]]] = {
    "conversations": ("conversations", conversations, (100, 10_000, 200_000), (100, 2000)),
    "retries": ("waiting retries", retries, (10, 10_000), (10, 1000)),
    "rows": ("deliveries in the spool's file", rows, (0, 100_000), (0, 1000)),
    "log": ("log of deliveries: none, facts, bodies", kept, (0, 1, 2), (0, 1)),
    "components": ("components", components, (1, 10), (1, 10)),
}
"""What is compared: its title, how a case comes about, the sizes, and those of `--quick`."""


def child(row: str, size: int) -> None:
    """Be one case: take a turn for each line read, and write the microseconds of each stanza."""
    with tempfile.TemporaryDirectory(prefix="component-http-flat-", ignore_cleanup_errors=True) as folder:
        case = ROWS[row][1](size, Path(folder))
        print("ready", flush=True)
        for _ in sys.stdin:
            began = time.process_time()
            case.turns()
            print(1e6 * (time.process_time() - began) / STANZAS, flush=True)


def profile(row: str, size: int) -> None:
    """Show where the time of one case goes."""
    with tempfile.TemporaryDirectory(prefix="component-http-flat-", ignore_cleanup_errors=True) as folder:
        case = ROWS[row][1](size, Path(folder))
        with cProfile.Profile() as profiler:
            for _ in range(6):
                case.turns()
    pstats.Stats(profiler).sort_stats("tottime").print_stats(30)


def measure(row: str, sizes: Sequence[int], rounds: int) -> dict[int, float]:
    """Microseconds of CPU for each stanza, by size: medians."""
    processes = {}
    for size in sizes:
        processes[size] = subprocess.Popen(
            [sys.executable, __file__, "--child", row, str(size)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
    found: dict[int, list[float]] = {size: [] for size in sizes}
    try:
        for size, process in processes.items():
            assert process.stdin is not None and process.stdout is not None
            if process.stdout.readline().strip() != "ready":
                sys.exit(f"{row} {size} does not come about")
        for _ in range(rounds):
            for size, process in processes.items():
                assert process.stdin is not None and process.stdout is not None
                process.stdin.write("go\n")
                process.stdin.flush()
                found[size].append(float(process.stdout.readline()))
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
    return {size: statistics.median(values) for size, values in found.items()}


def main(arguments: Sequence[str]) -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="flat", description="Does a stanza cost the same however much there is?")
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}; all without one")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds, to try it out")
    parser.add_argument("--out", type=Path, help="a folder for flat.svg; the table goes into docs/performance.md")
    parser.add_argument("--case", nargs=2, metavar=("ROW", "SIZE"), help="show the profile of one case")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child is not None:
        child(options.child[0], int(options.child[1]))
        return
    if options.case is not None:
        profile(options.case[0], int(options.case[1]))
        return
    found, cells = {}, []
    for row in options.rows or ROWS:
        title, _, sizes, small = ROWS[row]
        values = measure(row, small if options.quick else sizes, 3 if options.quick else options.rounds)
        found[title] = {f"{size:,}".replace(",", " "): value for size, value in values.items()}
        ratio = max(values.values()) / min(values.values())
        shown = ", ".join(f"{size}: {value:.0f}" for size, value in found[title].items())
        cells.append([title, shown, f"{ratio:.2f}", "met" if ratio < ALLOWED else "not met"])
    text = table(["beside a stanza there are", "CPU microseconds of it", "most / least", "less than 1.20"], cells)
    print(text)
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "flat.svg").write_text(lines("CPU microseconds of a stanza, by what there is beside it", found))
        publish("table of make flat", text)


if __name__ == "__main__":
    main(sys.argv[1:])
