"""The programs that `bench.py` compares: how each is started, with an XMPP side and a webhook of its own."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from attrs import define, field
from xmpp_side import DOMAIN, Side

HERE = Path(__file__).resolve().parent
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")

Command = Callable[[Path, int, str], list[str]]
"""Gives the command of a program, by its folder, the port of its XMPP side and the URL of its webhook."""

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


def gateway(spool: str, *, prefix: Sequence[str] = ()) -> Command:
    """
    A gateway with its defaults.

    Args:
        spool: `memory` or `sqlite`.
        prefix: What its command begins with; `{folder}` is its folder.
    """

    def command(folder: Path, port: int, url: str) -> list[str]:
        (folder / "secret").write_text("secret\n")
        (folder / "secret").chmod(0o600)
        store = 'kind = "memory"' if spool == "memory" else 'path = "spool.sqlite3"'
        settings = GATEWAY.format(domain=DOMAIN, xmpp=port, url=url, spool=store)
        (folder / "settings.toml").write_text(settings)
        before = [word.format(folder=folder) for word in prefix]
        return [*before, sys.executable, "-m", "component_http", "run", str(folder / "settings.toml")]

    return command


def script(name: str) -> Command:
    """A program in `peers`."""
    return lambda folder, port, url: [sys.executable, str(HERE / "peers" / name), str(port), url]


def node(folder: Path, port: int, url: str) -> list[str]:
    """The Node program."""
    return ["node", str(HERE / "peers" / "node" / "bot.js"), str(port), url]


LIMIT, MEMORY, DISK, SCRIPT, NODE = "pipe", "gateway, memory", "gateway, sqlite", "wokkel + treq", "Node"
"""The hand-written limit, the gateway's two forms, the script that a user would write in an afternoon, and Node."""

PROGRAMS: Mapping[str, tuple[Command, Callable[[], bool]]] = {
    LIMIT: (script("pipe.py"), lambda: True),
    MEMORY: (gateway("memory"), lambda: True),
    DISK: (gateway("sqlite"), lambda: True),
    SCRIPT: (script("obvious.py"), lambda: find_spec("treq") is not None),
    "slixmpp + aiohttp": (script("slix.py"), lambda: bool(find_spec("slixmpp") and find_spec("aiohttp"))),
    NODE: (node, lambda: bool(shutil.which("node")) and (HERE / "peers" / "node" / "node_modules").exists()),
}
"""The command of each program, and whether it is installed."""


@define(eq=False)
class Program:
    """
    A running program.

    Attributes:
        figures: The values of each round, by what they are.
    """

    name: str
    folder: Path
    side: Side
    process: subprocess.Popen[bytes]
    webhook: subprocess.Popen[bytes]
    webhook_port: int
    figures: dict[str, list[float]]

    def note(self, what: str, value: float) -> None:
        """Note the value of one round."""
        self.figures.setdefault(what, []).append(value)

    def cpu(self) -> float:
        """CPU seconds of the process up to now."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS

    def mib(self, what: str) -> float:
        """MiB of memory that the process has (`VmRSS`), or has had at most (`VmHWM`)."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(what):
                return int(line.split()[1]) / 1024
        return 0.0

    async def connections(self) -> int:
        """Connections that the webhook in Python has got so far."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.webhook_port)
        writer.write(b"GET / HTTP/1.1\r\nHost: webhook\r\n\r\n")
        found = await reader.read()
        writer.close()
        count: int = json.loads(found.partition(b"\r\n\r\n")[2])["connections"]
        return count

    def log(self) -> str:
        """The end of its log."""
        return (self.folder / "log").read_text(errors="replace")[-2000:]


@define
class Stage:
    """
    Where programs run.

    Attributes:
        folder: For their folders, and the gateway's spool.
        figures: Of each program, of all its processes.
    """

    folder: Path
    figures: dict[str, dict[str, list[float]]] = field(factory=dict)
    _processes: list[subprocess.Popen[bytes]] = field(factory=list)

    async def start(
        self,
        names: Iterable[str],
        webhook: str,
        *,
        latency: float = 0.0,
        jitter: float = 0.0,
        errors: float = 0.0,
        command: Command | None = None,
    ) -> list[Program]:
        """
        Start programs, each with an XMPP side and a webhook of its own, and wait until they are connected.

        Args:
            webhook: `nginx`, or `python` with the other options.
            command: In the place of their own.
        """
        programs = []
        for name in names:
            folder = Path(tempfile.mkdtemp(dir=self.folder))
            side, port, hook = Side(), free_port(), free_port()
            await asyncio.get_running_loop().create_server(side, "127.0.0.1", port)
            if webhook == "nginx":
                (folder / "nginx.conf").write_text(NGINX.format(folder=folder, port=hook))
                answering = self._run(["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")], folder)
            else:
                arguments = [str(each) for each in (hook, latency, jitter, errors)]
                answering = self._run([sys.executable, str(HERE / "webhook.py"), *arguments], folder)
            url = f"http://127.0.0.1:{hook}/bot"
            process = self._run((command or PROGRAMS[name][0])(folder, port, url), folder)
            figures = self.figures.setdefault(name, {})
            programs.append(Program(name, folder, side, process, answering, hook, figures))
        for program in programs:
            try:
                await asyncio.wait_for(program.side.ready.wait(), 60)
            except TimeoutError:
                sys.exit(f"{program.name} does not connect: {program.log()}")
        return programs

    def _run(self, command: list[str], folder: Path) -> subprocess.Popen[bytes]:
        env = {**os.environ, "PYTHONPATH": str(HERE.parent), "NODE_ENV": "production"}
        with (folder / "log").open("ab") as log:
            process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env=env)
        self._processes.append(process)
        return process

    def clear(self) -> None:
        """End all that runs."""
        for process in self._processes:
            process.kill()  # a gateway would deliver first what waits in it
            process.wait()
        self._processes.clear()


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
