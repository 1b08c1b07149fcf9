"""
What those who watch a gateway cost: p99 of its deliveries while its metrics are asked for a thousand times per second.

A process asks for /metrics that often, on ten connections that stay, or on a new one each time. In other turns it asks
nobody, or a plain server that closes each connection, for what that process takes of the machine counts, too. The
messages go on meanwhile.

Usage: `python benchmarks/scrapes.py [--rounds N] [--seconds S] [--rate N] [--window N]`, from a source tree.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
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
    """
    Asks at a steady rate, whether answers come or not: on ten connections, or on a new one each time.

    Attributes:
        results: How often each status came, or each failure.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.results: Counter[str] = Counter()

    async def run(self, rate: float, seconds: float, *, keep: bool) -> None:
        """Ask for some seconds."""
        begin, tasks = time.monotonic(), set()
        if keep and rate:
            await asyncio.gather(*(self._again_and_again(rate / CONNECTIONS, seconds) for _ in range(CONNECTIONS)))
            return
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, begin + number / rate - time.monotonic()))
            task = asyncio.create_task(self._once())
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)

    async def _again_and_again(self, rate: float, seconds: float) -> None:
        begin = time.monotonic()
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, begin + number / rate - time.monotonic()))
            if time.monotonic() > begin + seconds:
                break
            writer.write(REQUEST)
            self.results[await _status(reader)] += 1
        writer.transport.abort()

    async def _once(self) -> None:
        try:
            async with asyncio.timeout(5.0):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.write(LAST)
                result = await _status(reader)
                writer.transport.abort()
        except (OSError, EOFError, TimeoutError) as error:
            result = type(error).__name__
        self.results[result] += 1


async def _status(reader: asyncio.StreamReader) -> str:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    at = head.find(b"content-length:")
    await reader.readexactly(int(head[at + 15 : head.find(b"\r", at)]) if at >= 0 else 0)
    return head.split()[1].decode()


def child(port: int, rate: float, seconds: float, keep: bool) -> None:
    """Be the process that asks; it writes how often each answer came."""
    asker = Asker(port)
    asyncio.run(asker.run(rate, seconds, keep=keep))
    print(json.dumps(asker.results))


def watched(port: int) -> Command:
    """A gateway with a port for operations."""

    def command(folder: Path, xmpp: int, url: str) -> list[str]:
        made = gateway("memory")(folder, xmpp, url)
        with (folder / "settings.toml").open("a") as file:
            file.write(f'[operations]\nlisten = "tcp:{port}:interface=127.0.0.1"\n')
        return made

    return command


def closing() -> None:
    """Be a server that closes all connections; it writes its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        print(server.getsockname()[1], flush=True)
        while True:
            server.accept()[0].close()


async def turn(program: Program, window: int, seconds: float, port: int, rate: float, keep: bool) -> dict[str, Any]:
    """Measure one turn."""
    asking = await asyncio.create_subprocess_exec(
        *(sys.executable, __file__, "--child", str(port), str(rate), str(seconds + 1), str(int(keep))),
        stdout=subprocess.PIPE,
    )
    await asyncio.sleep(1.0)
    side = program.side
    side.reset()
    cpu = program.cpu()
    took = await side.keep(window, seconds)
    cpu = program.cpu() - cpu
    found, _ = await asking.communicate()
    return {
        "latencies": side.latencies,
        "rate": side.replies / took,
        "cpu": cpu / took,
        "answers": json.loads(found),
    }


async def measure(options: argparse.Namespace) -> None:
    """Measure all, and show it."""
    with tempfile.TemporaryDirectory(prefix="component-http-scrapes-") as folder:
        stage, port = Stage(Path(folder)), free_port()
        closes = subprocess.Popen([sys.executable, __file__, "--closing"], stdout=subprocess.PIPE, text=True)
        assert closes.stdout is not None
        ports = {"nobody": 0, "another": int(closes.stdout.readline()), "the gateway": port}
        [program] = await stage.start([MEMORY], "nginx", command=watched(port))
        await program.side.keep(options.window, 2.0)
        cells = []
        try:
            for keep in (True, False):
                found: dict[str, list[dict[str, Any]]] = {name: [] for name in ports if name != "another" or not keep}
                for number in range(options.rounds):
                    for which in list(found)[:: 1 if number % 2 else -1]:
                        rate = options.rate if ports[which] else 0.0
                        found[which].append(
                            await turn(program, options.window, options.seconds, ports[which], rate, keep)
                        )
                how = "the same connections" if keep else "a new connection each"
                for which, turns in found.items():
                    ordered = sorted(each for one in turns for each in one["latencies"])
                    values = [1000 * ordered[int(len(ordered) * share)] for share in (0.5, 0.99)]
                    values += [statistics.median(one[name] for one in turns) for name in ("rate", "cpu")]
                    answers = sum((Counter(one["answers"]) for one in turns), Counter[str]())
                    told = ", ".join(f"{name}: {count}" for name, count in sorted(answers.items()))
                    cells.append([how, which, *(f"{value:.2f}" for value in values), told])
        finally:
            stage.clear()
            closes.kill()
            closes.wait()
    print(table(["scrapes", "of", "p50 ms", "p99 ms", "per second", "CPU", "answers"], cells))


def main(arguments: Sequence[str]) -> None:
    """Measure."""
    if arguments[:1] == ["--child"]:
        port, rate, seconds, keep = arguments[1:]
        child(int(port), float(rate), float(seconds), keep == "1")
        return
    if arguments == ["--closing"]:
        closing()
    parser = argparse.ArgumentParser(prog="scrapes")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--rate", type=float, default=1000.0)
    parser.add_argument("--window", type=int, default=2)
    asyncio.run(measure(parser.parse_args(arguments)))


if __name__ == "__main__":
    main(sys.argv[1:])
