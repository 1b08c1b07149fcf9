"""
`make bench`: the gateway beside other ways to do the same, in one run.

Each program is a process of its own with an XMPP side and a webhook of its own; they take turns, so that whatever else
the machine does falls on all of them. What is not installed is left out by name. The table, its figures as JSON and a
picture are written to the folder that is named.

Usage: `python benchmarks/bench.py [--rounds N] [--seconds S] [--out FOLDER] [NAME ...]`, from a source tree.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from importlib.util import find_spec
from pathlib import Path

from attrs import define, field

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from xmpp_side import DOMAIN, Side  # noqa: E402  (found through the line above)

LARGE = 64 * 1024
WAITING = 10_000
"""Messages that wait for a webhook that was away, for `catch_up`."""

CLOCK_TICKS = os.sysconf("SC_CLK_TCK")

NGINX = """
daemon off; master_process off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.log crit;
events {{ worker_connections 2048; }}
http {{
    access_log off; keepalive_requests 1000000000; keepalive_timeout 600; tcp_nodelay on;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port} backlog=1000;
        location / {{ default_type application/json; return 200 '{{"body":"hello"}}'; }}
    }}
}}
"""

GATEWAY = """
[component]
domain = "{domain}"
secret_file = "secret"
server = "tcp:127.0.0.1:{xmpp}"
component_post_url = "{url}"
[spool]
{spool}
"""


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def node_folder() -> Path:
    """The folder in which `make bench` installs what the Node program needs."""
    return HERE / "peers" / "node"


def gateway(spool: str) -> Callable[[Path, int, str], list[str]]:
    """The command of a gateway with this spool, its settings written to a folder."""

    def command(folder: Path, port: int, url: str) -> list[str]:
        (folder / "secret").write_text("secret\n")
        (folder / "secret").chmod(0o600)
        store = 'kind = "memory"' if spool == "memory" else 'path = "spool.sqlite3"'
        (folder / "settings.toml").write_text(GATEWAY.format(domain=DOMAIN, xmpp=port, url=url, spool=store))
        return [sys.executable, "-m", "component_http", "run", str(folder / "settings.toml")]

    return command


def script(name: str) -> Callable[[Path, int, str], list[str]]:
    """The command of a program in `peers`."""
    return lambda folder, port, url: [sys.executable, str(HERE / "peers" / name), str(port), url]


def node(folder: Path, port: int, url: str) -> list[str]:
    """The command of the Node program."""
    return ["node", str(node_folder() / "bot.js"), str(port), url]


PROGRAMS: Mapping[str, tuple[Callable[[Path, int, str], list[str]], Callable[[], bool]]] = {
    "pipe": (script("pipe.py"), lambda: True),
    "gateway, memory": (gateway("memory"), lambda: True),
    "gateway, sqlite": (gateway("sqlite"), lambda: True),
    "wokkel + treq": (script("obvious.py"), lambda: find_spec("treq") is not None),
    "slixmpp + aiohttp": (script("slix.py"), lambda: bool(find_spec("slixmpp") and find_spec("aiohttp"))),
    "Node": (node, lambda: bool(shutil.which("node")) and (node_folder() / "node_modules").exists()),
}
"""What is compared: the command of each, and whether it is installed. The first is the limit."""

SCRIPT = "wokkel + treq"
"""The program that a user would write in an afternoon, which the others are compared with."""


@define
class Program:
    """
    A program under test, and what was measured of it.

    Attributes:
        figures: The values of each round, by what they are.
    """

    name: str
    folder: Path
    side: Side
    process: subprocess.Popen[bytes]
    webhook: subprocess.Popen[bytes]
    url: str
    figures: dict[str, list[float]] = field(factory=dict)

    def note(self, what: str, value: float) -> None:
        """Note the value of one round."""
        self.figures.setdefault(what, []).append(value)

    def cpu(self) -> float:
        """CPU seconds of the process up to now."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS

    def peak(self) -> float:
        """MiB of memory at most up to now."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
        return 0.0


@define
class Bench:
    """One run: its programs, and where they are."""

    stack: ExitStack
    folder: Path
    names: Sequence[str]
    seconds: float
    env: dict[str, str]

    async def start(self, webhook: str, **how: float) -> list[Program]:
        """Start each program with an XMPP side and a webhook of its own."""
        programs = []
        for name in self.names:
            command, _ = PROGRAMS[name]
            folder = Path(tempfile.mkdtemp(dir=self.folder))
            side, port, hook = Side(), free_port(), free_port()
            await asyncio.get_running_loop().create_server(side, "127.0.0.1", port)
            if webhook == "nginx":
                (folder / "nginx.conf").write_text(NGINX.format(folder=folder, port=hook))
                answering = self.run(["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")], folder)
            else:
                arguments = [str(how.get(each, 0.0)) for each in ("latency", "jitter", "errors")]
                answering = self.run([sys.executable, str(HERE / "webhook.py"), str(hook), *arguments], folder)
            url = f"http://127.0.0.1:{hook}/bot"
            process = self.run(command(folder, port, url), folder)
            programs.append(Program(name, folder, side, process, answering, url))
        for program in programs:
            try:
                await asyncio.wait_for(program.side.ready.wait(), 60)
            except TimeoutError:
                sys.exit(f"{program.name} does not connect: {(program.folder / 'log').read_text()[-2000:]}")
        return programs

    def run(self, command: list[str], folder: Path) -> subprocess.Popen[bytes]:
        """Start a process that ends with the run."""
        with (folder / "log").open("ab") as log:
            process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env=self.env)
        self.stack.callback(_end, process)
        return process

    async def race(self, programs: list[Program], rounds: int, window: int, padding: bytes, label: str) -> None:
        """Let each have this many messages unanswered for some seconds, in turns."""
        for program in programs:
            await program.side.keep(window, 0.5, padding)
        for turn in range(rounds):
            for program in programs[turn % len(programs) :] + programs[: turn % len(programs)]:
                side = program.side
                side.reset()
                cpu = program.cpu()
                took = await side.keep(window, self.seconds, padding)
                lost = side.outstanding
                if side.replies:
                    program.note(f"cpu {label}", 1000 * (program.cpu() - cpu) / side.replies)
                    program.note(f"rate {label}", side.replies / took)
                    ordered = sorted(side.latencies)
                    program.note(f"p50 {label}", 1000 * ordered[len(ordered) // 2])
                    program.note(f"p99 {label}", 1000 * ordered[int(len(ordered) * 0.99)])
                program.note(f"lost {label}", lost)

    async def hardship(self, programs: list[Program]) -> None:
        """Send what a slow webhook with errors answers; a fifth of the messages of one user each."""
        for program in programs:
            program.side.reset()
            await program.side.keep(50, self.seconds, users=20)
            program.note("lost", program.side.outstanding)
            program.note("out of order", program.side.wrong_order)

    async def catch_up(self, programs: list[Program]) -> None:
        """Stop the webhook, send what has to wait for it, and let it go on."""
        for program in programs:
            side = program.side
            side.reset()
            program.webhook.send_signal(signal.SIGSTOP)
            flood = asyncio.ensure_future(side.flood(WAITING, 1000))
            await asyncio.sleep(3.0)
            cpu, before, since = program.cpu(), side.replies, time.perf_counter()
            program.webhook.send_signal(signal.SIGCONT)
            await flood
            answered = side.replies - before
            program.note("catch-up lost", side.outstanding)
            if answered:
                waits = sorted(side.latencies)
                idle = 30.0 if side.outstanding else 0.0
                program.note("catch-up s", time.perf_counter() - since - idle)
                program.note("catch-up p95", waits[int(len(waits) * 0.95)])
                program.note("catch-up cpu", 1000 * (program.cpu() - cpu) / answered)
            program.note("peak MiB", program.peak())


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGCONT)
        process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


async def measure(bench: Bench, rounds: int) -> list[Program]:
    """Run all of it; returns the programs with their figures."""
    quick = await bench.start("nginx" if shutil.which("nginx") else "python")
    for program in quick:
        await program.side.keep(1, 0.5)
        if not program.side.replies:
            sys.exit(f"{program.name} does not answer: {(program.folder / 'log').read_text()[-2000:]}")
    for program in quick:
        await asyncio.sleep(0.2)
        program.note("idle MiB", program.peak())
    for window in (100, 1, 50, 500):
        await bench.race(quick, rounds, window, b"", f"w{window}")
    echo = await bench.start("python")
    await bench.race(echo, rounds, 50, b"", "20 B")
    await bench.race(echo, rounds, 50, b"x" * LARGE, "64 KiB")
    await bench.catch_up(echo)
    hard = await bench.start("python", latency=0.005, jitter=0.02, errors=0.02)
    await bench.hardship(hard)
    for program in quick:
        for other in (echo, hard):
            for each in other:
                if each.name == program.name:
                    program.figures.update(each.figures)
    return quick


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
    ("catch-up with 10 000, s", "catch-up s", 1),
    ("p95 of their delivery, s", "catch-up p95", 1),
    ("CPU s per 1000 of these", "catch-up cpu", 3),
    ("lost of these", "catch-up lost", 0),
    ("lost, 2 % of 503", "lost", 0),
    ("out of order, 2 % of 503", "out of order", 0),
    ("idle MiB", "idle MiB", 0),
    ("peak MiB", "peak MiB", 0),
)


def table(programs: Sequence[Program]) -> str:
    """The figures of all programs, medians of the rounds, and CPU as a ratio to the limit and to the script."""
    names = [program.name for program in programs]
    lines = ["| | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for title, what, digits in ROWS:
        cells = [_cell(program.figures.get(what), digits) for program in programs]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    for base in (names[0], SCRIPT):
        if base in names:
            of = statistics.median(programs[names.index(base)].figures["cpu w100"])
            cells = [f"{statistics.median(program.figures['cpu w100']) / of:.2f}" for program in programs]
            lines.append(f"| CPU against {base} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(values: Sequence[float] | None, digits: int) -> str:
    return "" if not values else f"{statistics.median(values):.{digits}f}"


def picture(programs: Sequence[Program]) -> str:
    """CPU per 1000 stanzas as bars, in SVG."""
    values = [statistics.median(program.figures["cpu w100"]) for program in programs]
    widest, step = max(values), 34
    rows = []
    for at, (program, value) in enumerate(zip(programs, values, strict=True)):
        y, width = 40 + at * step, max(2.0, 420 * value / widest)
        colour = "#2b6cb0" if program.name.startswith("gateway") else "#a0aec0"
        rows.append(
            f'<text x="150" y="{y + 15}" text-anchor="end">{program.name}</text>'
            f'<rect x="160" y="{y}" width="{width:.0f}" height="22" fill="{colour}"/>'
            f'<text x="{168 + width:.0f}" y="{y + 15}">{value:.3f}</text>'
        )
    height = 50 + len(programs) * step
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 680 {height}" font-family="sans-serif" font-size="13">'
        '<text x="10" y="22" font-size="15">CPU seconds per 1000 round trips (less is better)</text>'
        + "".join(rows)
        + "</svg>\n"
    )


def main(arguments: Sequence[str]) -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="bench", description="The gateway beside other ways to do the same.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PROGRAMS)}; all without one")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each round (default 3)")
    parser.add_argument("--out", type=Path, help="a folder for bench.json, bench.md and bench.svg")
    options = parser.parse_args(arguments)
    names = []
    for name in options.names or PROGRAMS:
        if PROGRAMS[name][1]():
            names.append(name)
        else:
            print(f"left out, because it is not installed: {name}")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="component-http-bench-")))
        env = {**os.environ, "PYTHONPATH": str(HERE.parent), "NODE_ENV": "production"}
        programs = asyncio.run(measure(Bench(stack, folder, names, options.seconds, env), options.rounds))
    found = table(programs)
    print(found)
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "bench.md").write_text(found + "\n")
        (options.out / "bench.svg").write_text(picture(programs))
        figures = {program.name: program.figures for program in programs}
        (options.out / "bench.json").write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
