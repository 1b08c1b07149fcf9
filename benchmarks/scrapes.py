"""
What those who watch a gateway cost: p99 of its deliveries while its metrics are asked for a thousand times per second.

A process asks for /metrics that often, on a few connections that stay, or on a new one each time. It asks the gateway in
one turn and a plain server in the next, so that it takes the same of the machine in both; the messages go on meanwhile.

Usage: `python benchmarks/scrapes.py [--rounds N] [--seconds S] [--rate N] [--window N]`, from a source tree.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from programs import MEMORY, Command, Program, Stage, free_port, gateway  # noqa: E402
from report import table  # noqa: E402  (all of these are found through the line above)

CONNECTIONS = 10
REQUEST = b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n"
LAST = b"GET /metrics HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"


class Asker:
    """Asks at a steady rate, whether answers come or not, but never twice at once on one connection."""

    def __init__(self, port: int, rate: float, *, keep: bool) -> None:
        self.port, self.rate, self.keep = port, rate, keep
        self.results: Counter[str] = Counter()

    async def run(self, seconds: float) -> None:
        """Ask for some seconds."""
        each = [self._ask(number, seconds) for number in range(CONNECTIONS)]
        await asyncio.gather(*each)

    async def _ask(self, number: int, seconds: float) -> None:
        step = CONNECTIONS / self.rate
        begin = time.monotonic()
        due, end = begin + number * step / CONNECTIONS, begin + seconds
        stream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        while due < end:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            due = max(due + step, time.monotonic() - 1.0)
            try:
                stream = stream or await asyncio.open_connection("127.0.0.1", self.port)
                status, stays = await asyncio.wait_for(self._answer(*stream), 2.0)
                self.results[status] += 1
                if stays and self.keep:
                    continue
            except (OSError, EOFError, TimeoutError, asyncio.IncompleteReadError) as error:
                self.results[type(error).__name__] += 1
            if stream is not None:
                stream[1].transport.abort()
            stream = None

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[str, bool]:
        writer.write(REQUEST if self.keep else LAST)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        at = head.find(b"content-length:")
        await reader.readexactly(int(head[at + 15 : head.find(b"\r", at)]) if at >= 0 else 0)
        return head.split()[1].decode(), b"connection: close" not in head


def child(port: int, rate: float, seconds: float, keep: bool) -> None:
    """Be the process that asks; it writes how often each answer came."""
    asker = Asker(port, rate, keep=keep)
    asyncio.run(asker.run(seconds))
    print(json.dumps(asker.results))


def watched(port: int) -> Command:
    """A gateway with a port for operations."""

    def command(folder: Path, xmpp: int, url: str) -> list[str]:
        made = gateway("memory")(folder, xmpp, url)
        with (folder / "settings.toml").open("a") as file:
            file.write(f'[operations]\nlisten = "tcp:{port}:interface=127.0.0.1"\n')
        return made

    return command


async def plain(port: int) -> asyncio.Server:
    """A server that answers everything with as many bytes as the metrics have."""
    body = b"x" * 16_000

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
                if head == LAST:
                    break
        except (EOFError, OSError):
            pass
        writer.close()

    return await asyncio.start_server(serve, "127.0.0.1", port)


async def turn(program: Program, window: int, seconds: float, port: int, rate: float, keep: bool) -> dict[str, Any]:
    """Measure one turn."""
    asking = await asyncio.create_subprocess_exec(
        *(sys.executable, __file__, "--child", str(port), str(rate), str(seconds + 1), str(int(keep))),
        stdout=subprocess.PIPE,
    )
    await asyncio.sleep(0.5)
    side = program.side
    side.reset()
    cpu = program.cpu()
    took = await side.keep(window, seconds)
    cpu = program.cpu() - cpu
    found, _ = await asking.communicate()
    ordered = sorted(side.latencies)
    return {
        "p50": 1000 * ordered[len(ordered) // 2],
        "p99": 1000 * ordered[int(len(ordered) * 0.99)],
        "rate": side.replies / took,
        "cpu": cpu / took,
        "answers": json.loads(found),
    }


async def measure(options: argparse.Namespace) -> None:
    """Measure all, and show it."""
    with tempfile.TemporaryDirectory(prefix="component-http-scrapes-") as folder:
        stage, port, other = Stage(Path(folder)), free_port(), free_port()
        server = subprocess.Popen([sys.executable, __file__, "--plain", str(other)])
        [program] = await stage.start([MEMORY], "nginx", command=watched(port))
        await program.side.keep(options.window, 2.0)
        cells = []
        try:
            for keep in (True, False):
                found: dict[str, list[dict[str, Any]]] = {"without": [], "with": []}
                for number in range(options.rounds):
                    for which in ("without", "with")[:: 1 if number % 2 else -1]:
                        asked = port if which == "with" else other
                        found[which].append(
                            await turn(program, options.window, options.seconds, asked, options.rate, keep)
                        )
                how = "the same connections" if keep else "a new connection each"
                for which, turns in found.items():
                    values = [statistics.median(one[name] for one in turns) for name in ("p50", "p99", "rate", "cpu")]
                    answers = sum((Counter(one["answers"]) for one in turns), Counter[str]())
                    told = ", ".join(f"{name}: {count}" for name, count in sorted(answers.items()))
                    cells.append([how, which, *(f"{value:.2f}" for value in values), told])
        finally:
            stage.clear()
            server.kill()
            server.wait()
    print(table(["scrapes", "of the gateway", "p50 ms", "p99 ms", "per second", "CPU", "answers"], cells))


async def serve(port: int) -> None:
    """Be the plain server."""
    async with await plain(port) as server:
        await server.serve_forever()


def main(arguments: Sequence[str]) -> None:
    """Measure."""
    if arguments[:1] == ["--child"]:
        port, rate, seconds, keep = arguments[1:]
        child(int(port), float(rate), float(seconds), keep == "1")
        return
    if arguments[:1] == ["--plain"]:
        asyncio.run(serve(int(arguments[1])))
        return
    parser = argparse.ArgumentParser(prog="scrapes")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rate", type=float, default=1000.0)
    parser.add_argument("--window", type=int, default=10)
    asyncio.run(measure(parser.parse_args(arguments)))


if __name__ == "__main__":
    main(sys.argv[1:])
