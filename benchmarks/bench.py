"""
`make bench`: the gateway beside other ways to do the same, in one run, and whether it is as good as it is to be.

Each program is a process of its own with an XMPP side and a webhook of its own; they take turns, so that whatever else
the machine does falls on all of them, and each figure is the median of its turns. What is not installed is left out by
name. The tables go into docs/performance.md, their figures as JSON and a picture into a folder.

Usage: `python benchmarks/bench.py [--rounds N] [--seconds S] [--quick] [--out FOLDER] [--disk FOLDER] [NAME ...]`, from
a source tree; some ten minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import re
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from attrs import evolve, frozen

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from programs import DISK, LIMIT, MEMORY, NODE, PROGRAMS, SCRIPT, Program, Stage, gateway  # noqa: E402
from report import bars, publish, table  # noqa: E402  (all of these are found through the line above)

LARGE = 64 * 1024
WINDOWS = (100, 1, 50, 500)
USERS = 1000
"""Senders of a flood."""

STRACE = ("strace", "-D", "-f", "-y", "-qq", "--seccomp-bpf", "-e", "trace=fsync,fdatasync", "-o", "{folder}/syncs")


@frozen
class Sizes:
    """How much of each is measured."""

    rounds: int = 3
    seconds: float = 2.0
    waiting: int = 10_000
    flood: int = 200_000
    pending: int = 100_000
    alone: int = 10_000


QUICK = Sizes(rounds=1, seconds=0.5, waiting=500, flood=3000, pending=2000, alone=2000)


async def race(programs: list[Program], sizes: Sizes, window: int, padding: bytes, label: str) -> None:
    """Let each have so many messages unanswered for some seconds, in turns."""
    for program in programs:
        await program.side.keep(window, min(0.5, sizes.seconds), padding)
    for turn in range(sizes.rounds):
        for program in programs[turn % len(programs) :] + programs[: turn % len(programs)]:
            side = program.side
            side.reset()
            cpu, before = program.cpu(), side.outstanding
            took = await side.keep(window, sizes.seconds, padding)
            program.note("lost", side.outstanding - before)
            if side.replies:
                program.note(f"cpu {label}", 1000 * (program.cpu() - cpu) / side.replies)
                program.note(f"rate {label}", side.replies / took)
                ordered = sorted(side.latencies)
                program.note(f"p50 {label}", 1000 * ordered[len(ordered) // 2])
                program.note(f"p99 {label}", 1000 * ordered[int(len(ordered) * 0.99)])


async def idle(programs: list[Program]) -> None:
    """Measure each before it does anything."""
    await asyncio.sleep(1.0)
    for program in programs:
        program.note("idle", program.mib("VmRSS"))


async def hardship(programs: list[Program], sizes: Sizes) -> None:
    """Send what a slow webhook with errors answers, in twenty conversations; in turns."""
    for _ in range(sizes.rounds):
        for program in programs:
            program.side.reset()
            before = program.side.outstanding
            await program.side.keep(50, sizes.seconds, users=20, patience=4.0)
            program.note("hard lost", program.side.outstanding - before + program.side.refused)
            program.note("hard order", program.side.wrong_order)


async def catch_up(programs: list[Program], sizes: Sizes) -> None:
    """Stop the webhook, send what has to wait for it, and let it go on."""
    for program in programs:
        side = program.side
        side.reset()
        before = side.outstanding
        program.webhook.send_signal(signal.SIGSTOP)
        flood = asyncio.ensure_future(side.flood(sizes.waiting, USERS, patience=20.0))
        await asyncio.sleep(3.0)
        cpu, since = program.cpu(), time.perf_counter()
        program.webhook.send_signal(signal.SIGCONT)
        await flood
        times = sorted(each - since for each in side.times)
        program.note("catch-up lost", side.outstanding - before + side.refused)
        if times:
            program.note("catch-up s", times[-1])
            program.note("catch-up p95", times[int(len(times) * 0.95)])
            program.note("catch-up cpu", 1000 * (program.cpu() - cpu) / len(times))
        program.note("peak", program.mib("VmHWM"))


async def greed(program: Program, sizes: Sizes) -> None:
    """Let the server write only as fast as it is answered, and then as fast as the socket takes it."""
    side, began = program.side, time.perf_counter()
    await side.keep(100, sizes.seconds + 1.0)
    calm = side.rate(began + 1.0, began + 1.0 + sizes.seconds)
    program.note("goodput", await side.greed(sizes.seconds, USERS) / calm)


async def flood(program: Program, sizes: Sizes) -> None:
    """Send very many messages at once to a webhook that takes 5 ms."""
    await program.side.flood(sizes.flood, USERS)
    program.note("flood lost", program.side.outstanding + program.side.refused)
    program.note("flood peak", program.mib("VmHWM"))
    if len(program.side.times) > 1:
        program.note("flood rate", program.side.replies / (program.side.times[-1] - program.side.times[0]))


async def pending(program: Program, sizes: Sizes) -> None:
    """Let very many deliveries wait in the spool's file, for a webhook that hangs."""
    program.webhook.send_signal(signal.SIGSTOP)
    sent = asyncio.ensure_future(program.side.flood(sizes.pending, 10 * USERS))
    file, last, since = program.folder / "spool.sqlite3", -1, time.perf_counter()
    while last < sizes.pending and time.perf_counter() - since < 20:
        await asyncio.sleep(0.5)
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
            [[count]] = connection.execute("SELECT count(*) FROM deliveries")
        if count != last:
            last, since = count, time.perf_counter()
    program.note("pending", last)
    program.note("pending peak", program.mib("VmHWM"))
    program.note("pending disk", sum(each.stat().st_size for each in program.folder.glob("spool.sqlite3*")) / 2**20)
    sent.cancel()


async def syncs(program: Program, sizes: Sizes) -> None:
    """Count how often the gateway asks the disk to write; each transaction does once, for the spool's log."""
    file = program.folder / "syncs"
    for window in (1, 100):
        await program.side.keep(window, 0.5)
        before = file.read_text()
        program.side.reset()
        await program.side.keep(window, sizes.seconds)
        new = file.read_text()[len(before) :].splitlines()
        new = [line for line in new if "sync(" in line]
        program.note(f"syncs w{window}", len(new) / program.side.replies)
        program.note(f"commits w{window}", sum("-wal>" in line for line in new) / program.side.replies)


def commit_ms(folder: Path, count: int = 300) -> float:
    """Milliseconds that SQLite takes for one small transaction in this folder, as the spool sets it: the median."""
    times = []
    with closing(sqlite3.connect(folder / "commits.sqlite3", isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("CREATE TABLE rows (number INTEGER PRIMARY KEY, body BLOB)")
        for _ in range(count):
            begun = time.perf_counter()
            connection.execute("INSERT INTO rows (body) VALUES (?)", (bytes(600),))
            times.append(1000 * (time.perf_counter() - begun))
    return statistics.median(times)


def beside_body(number: int) -> float:
    """Bytes of memory that a pending delivery costs beside its body."""
    found = subprocess.run(
        [sys.executable, str(HERE / "pending_cost.py"), str(number)], capture_output=True, text=True, check=True
    )
    [size] = re.findall(r"grows by (\d+) bytes", found.stdout)
    return float(size)


async def measure(stage: Stage, names: Sequence[str], sizes: Sizes) -> None:
    """Run all of it."""
    gateways = [name for name in names if name in (MEMORY, DISK)]
    webhook = "nginx" if shutil.which("nginx") else "python"
    began = time.perf_counter()

    def say(what: str) -> None:
        print(f"{time.perf_counter() - began:4.0f} s  {what}", flush=True)

    quick = await stage.start(names, webhook)
    await idle(quick)
    for program in quick:
        await program.side.keep(1, 0.3)
        if not program.side.replies:
            sys.exit(f"{program.name} does not answer: {program.log()}")
    for window in WINDOWS:
        say(f"window {window}")
        await race(quick, sizes, window, b"", f"w{window}")
    stage.clear()

    say("as fast as the socket takes")
    for _ in range(sizes.rounds):
        for name in gateways:  # a new one each time, because what is in the socket takes long
            [program] = await stage.start([name], webhook)
            await greed(program, sizes)
            stage.clear()

    echo = await stage.start(names, "python")
    say("small and large bodies, and an outage")
    await race(echo, sizes, 50, b"", "20 B")
    await race(echo, sizes, 50, b"x" * LARGE, "64 KiB")
    for program in echo:
        program.note("connections", await program.connections())
    await catch_up(echo, sizes)
    stage.clear()

    say("a slow webhook with errors")
    await hardship(await stage.start(names, "python", latency=0.005, jitter=0.02, errors=0.02), sizes)
    stage.clear()

    for name in gateways:
        say(f"flood: {name}")
        [program] = await stage.start([name], "python", latency=0.005)
        await flood(program, sizes)
        stage.clear()
    if DISK in gateways:
        say("many pending on disk")
        [program] = await stage.start([DISK], "python")
        await pending(program, sizes)
        stage.clear()
        program.note("commit", commit_ms(stage.folder))
        if shutil.which("strace"):
            [program] = await stage.start([DISK], "python", command=gateway("sqlite", prefix=STRACE))
            await syncs(program, sizes)
            stage.clear()
        else:
            print("left out, because strace is not installed: syncs and commits")
    if MEMORY in gateways:
        stage.figures[MEMORY]["beside body"] = [beside_body(sizes.alone)]


ROWS: Sequence[tuple[str, str, int]] = (
    ("CPU s per 1000, window 100", "cpu w100", 3),
    ("stanzas per second, window 100", "rate w100", 0),
    ("CPU s per 1000, window 1", "cpu w1", 3),
    ("p50 ms, window 1", "p50 w1", 2),
    ("p99 ms, window 1", "p99 w1", 2),
    ("p50 ms, window 50", "p50 w50", 1),
    ("p99 ms, window 50", "p99 w50", 1),
    ("p50 ms, window 500", "p50 w500", 1),
    ("p99 ms, window 500", "p99 w500", 1),
    ("CPU s per 1000, 20 bytes, echo", "cpu 20 B", 3),
    ("CPU s per 1000, 64 KiB, echo", "cpu 64 KiB", 2),
    ("connections opened for these", "connections", 0),
    ("lost so far", "lost", 0),
    ("catch-up with 10 000 waiting, s", "catch-up s", 1),
    ("95 % of them delivered after, s", "catch-up p95", 1),
    ("CPU s per 1000 of these", "catch-up cpu", 3),
    ("lost of these", "catch-up lost", 0),
    ("lost with 2 % of 503, each turn", "hard lost", 0),
    ("out of order with 2 % of 503, each turn", "hard order", 0),
    ("MiB after the start", "idle", 0),
    ("MiB at most, up to the catch-up", "peak", 0),
    ("goodput while the server writes all it can, of the calm one", "goodput", 2),
    ("flood of 200 000, webhook of 5 ms: MiB at most", "flood peak", 0),
    ("the same: stanzas per second", "flood rate", 0),
    ("the same: not answered", "flood lost", 0),
    ("deliveries pending on disk", "pending", 0),
    ("the same: MiB at most", "pending peak", 0),
    ("the same: MiB of disk", "pending disk", 0),
    ("bytes of a pending delivery beside its body", "beside body", 0),
    ("syncs of the disk per delivery, window 1", "syncs w1", 2),
    ("syncs of the disk per delivery, window 100", "syncs w100", 2),
    ("commits per delivery, window 1", "commits w1", 2),
    ("commits per delivery, window 100", "commits w100", 2),
    ("ms of one commit of SQLite alone", "commit", 2),
)

Figures = Mapping[str, Mapping[str, Sequence[float]]]


def value(figures: Figures, name: str, what: str) -> float:
    """The median of a figure; KeyError if there is none."""
    return statistics.median(figures[name][what])


def comparison(figures: Figures) -> str:
    """The table of all programs, with CPU also as a ratio to the limit and to the script."""
    rows = []
    for title, what, digits in ROWS:
        cells = [f"{value(figures, name, what):.{digits}f}" if of.get(what) else "" for name, of in figures.items()]
        if any(cells):
            rows.append([title, *cells])
    for base in (LIMIT, SCRIPT):
        if base in figures:
            of = value(figures, base, "cpu w100")
            rows.append([f"CPU against {base}", *(f"{value(figures, name, 'cpu w100') / of:.2f}" for name in figures)])
    return table(["", *figures], rows)


def _difference(figures: Figures, name: str) -> float:
    return value(figures, name, "cpu 64 KiB") - value(figures, name, "cpu 20 B")


def _of(name: str, what: str, base: str, of: str = "") -> Callable[[Figures], float]:
    return lambda figures: value(figures, name, what) / value(figures, base, of or what)


TARGETS: Sequence[tuple[str, Callable[[Figures], float], float, str]] = (
    ("CPU, memory, in parts of the limit", _of(MEMORY, "cpu w100", LIMIT), 4, "at most"),
    ("CPU, memory, in parts of the obvious script", _of(MEMORY, "cpu w100", SCRIPT), 0.2, "at most"),
    ("CPU, memory, in parts of Node", _of(MEMORY, "cpu w100", NODE), 1, "at most"),
    ("CPU, sqlite, in parts of memory", _of(DISK, "cpu w100", MEMORY), 1.4, "at most"),
    ("p99 at window 1, memory, in parts of the limit", _of(MEMORY, "p99 w1", LIMIT), 2, "at most"),
    (
        "p50 at window 1, sqlite, beyond memory and two commits, ms",
        lambda figures: (
            value(figures, DISK, "p50 w1") - value(figures, MEMORY, "p50 w1") - 2 * value(figures, DISK, "commit")
        ),
        0.2,
        "at most",
    ),
    (
        "64 KiB more, memory, in parts of the limit",
        lambda figures: _difference(figures, MEMORY) / _difference(figures, LIMIT),
        1.5,
        "at most",
    ),
    ("MiB after the start, memory", lambda figures: value(figures, MEMORY, "idle"), 60, "at most"),
    ("MiB in a flood, memory", lambda figures: value(figures, MEMORY, "flood peak"), 96, "at most"),
    ("not answered in a flood, memory", lambda figures: value(figures, MEMORY, "flood lost"), 0, "at most"),
    ("goodput under greed, memory", lambda figures: value(figures, MEMORY, "goodput"), 0.9, "at least"),
    ("bytes of a pending delivery", lambda figures: value(figures, MEMORY, "beside body"), 1024, "at most"),
    ("pending on disk", lambda figures: value(figures, DISK, "pending"), 100_000, "at least"),
    ("MiB with these", lambda figures: value(figures, DISK, "pending peak"), 256, "at most"),
)


def targets(figures: Figures) -> str:
    """The table of what is to be met, and whether it is; what cannot be said is left out."""
    rows = []
    for title, measured, bound, side in TARGETS:
        try:
            found = measured(figures)
        except KeyError:
            continue
        met = found <= bound if side == "at most" else found >= bound
        rows.append([title, f"{side} {bound:g}", f"{found:.2f}", "met" if met else "not met"])
    return table(["target", "to be", "is", ""], rows)


def machine() -> str:
    """The machine and the time of a run, in one sentence."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    on = f"{os.cpu_count()} cores{f' ({model[1]})' if model else ''}"
    return f"Measured on {time.strftime('%Y-%m-%d')} with Python {platform.python_version()} on {on}."


def main(arguments: Sequence[str]) -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(prog="bench", description="The gateway beside other ways to do the same.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PROGRAMS)}; all without one")
    parser.add_argument("--rounds", type=int, help="turns of each (default 3)")
    parser.add_argument("--seconds", type=float, help="of each turn (default 2)")
    parser.add_argument("--quick", action="store_true", help="little of everything, to try it out; not published")
    parser.add_argument("--out", type=Path, help="a folder for bench.json and bench.svg; the tables go into the page")
    parser.add_argument("--disk", type=Path, help="a folder for the spool, to measure its disk")
    options = parser.parse_args(arguments)
    base = QUICK if options.quick else Sizes()
    chosen = {key: getattr(options, key) or getattr(base, key) for key in ("rounds", "seconds")}
    sizes = evolve(base, **chosen)
    names = []
    for name in options.names or PROGRAMS:
        if PROGRAMS[name][1]():
            names.append(name)
        else:
            print(f"left out, because it is not installed: {name}")
    with tempfile.TemporaryDirectory(prefix="component-http-bench-", dir=options.disk) as folder:
        stage = Stage(Path(folder))
        try:
            asyncio.run(measure(stage, names, sizes))
        finally:
            stage.clear()
            figures = stage.figures
            compared, met = comparison(figures), targets(figures)
            print(f"\n{machine()}\n\n{compared}\n\n{met}")
    if options.out is not None and not options.quick:
        options.out.mkdir(parents=True, exist_ok=True)
        cpu = {name: value(figures, name, "cpu w100") for name in figures}
        title = "CPU seconds per 1000 round trips (less is better)"
        (options.out / "bench.svg").write_text(bars(title, cpu, marked="gateway"))
        (options.out / "bench.json").write_text(json.dumps(figures, indent=1) + "\n")
        publish("table of make bench", f"{machine()}\n\n{compared}")
        publish("targets of make bench", met)


if __name__ == "__main__":
    main(sys.argv[1:])
