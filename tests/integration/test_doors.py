"""
The doors for operators as real processes: `twistd component-http`, a `.tac` file, and how each of them ends.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from hashlib import sha1
from pathlib import Path

import pytest

from tests.integration.processes import CHECKOUT, twistd
from tests.integration.waiting import eventually

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"

SECRET = "hunter2"


class ComponentPort:
    """
    The least of an XMPP server: it takes component connections, and says whether their secret is right.

    Attributes:
        accepted: Domains that gave the right secret so far.
    """

    def __init__(self) -> None:
        self.accepted: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def endpoint(self) -> str:
        """Where it is, as `server` has it."""
        return f"tcp:127.0.0.1:{self._listener.getsockname()[1]}"

    def close(self) -> None:
        """Take no more connections."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._handshake, args=(connection,), daemon=True).start()

    def _handshake(self, connection: socket.socket) -> None:
        # A gateway that stops may close the connection at any point.
        with connection, suppress(OSError):
            domain = self._read(connection, rb"<stream:stream[^>]* to=.([^'\"]+)[^>]*>")
            connection.sendall(
                f"<stream:stream xmlns='jabber:component:accept' id='s1' from='{domain}'"
                " xmlns:stream='http://etherx.jabber.org/streams'>".encode()
            )
            digest = self._read(connection, rb"<handshake[^>]*>([0-9a-f]+)</handshake>")
            if digest == sha1(f"s1{SECRET}".encode()).hexdigest():
                self.accepted.append(domain)
                connection.sendall(b"<handshake/>")
            self._read(connection, rb"(</stream:stream>)")
            connection.sendall(b"</stream:stream>")

    def _read(self, connection: socket.socket, pattern: bytes) -> str:
        """Read until there is a match; return its group, or nothing at the end of the stream."""
        received = b""
        while more := connection.recv(4096):
            received += more
            if found := re.search(pattern, received):
                return found[1].decode()
        return ""


@pytest.fixture
def port() -> Iterator[ComponentPort]:
    port = ComponentPort()
    yield port
    port.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the documented example of a settings file and of a `.tac`, and the secret."""
    for name in ["component-http.toml", "component_http.tac"]:
        shutil.copy(EXAMPLES / name, tmp_path)
    (tmp_path / "component-secret").write_text(f"{SECRET}\n")
    return tmp_path


def with_server(folder: Path, server: str) -> None:
    """Let the example's settings file name this server."""
    path = folder / "component-http.toml"
    path.write_text(path.read_text().replace('#server = "tcp:127.0.0.1:5347"', f'server = "{server}"'))


def environment(**more: str) -> dict[str, str]:
    """This process's environment, where the package is found from any folder."""
    path = os.pathsep.join(filter(None, [str(CHECKOUT), os.environ.get("PYTHONPATH")]))
    clean = {name: value for name, value in os.environ.items() if not name.startswith("COMPONENT_HTTP_")}
    return {**clean, "PYTHONPATH": path, **more}


def run(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run twistd to its end, or until it has gone into the background."""
    return subprocess.run(
        [*twistd(), *arguments],
        cwd=folder,
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def how_to_run(folder: Path, *, daemon: bool) -> list[str]:
    """twistd's own flags: in the foreground, or in the background with all its files in `folder`."""
    if not daemon:
        return ["-n", "--pidfile="]
    return [f"--pidfile={folder}/gateway.pid", f"--logfile={folder}/gateway.log"]


@contextmanager
def running(folder: Path, port: ComponentPort, door: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A gateway in the foreground that has shaken hands; what it prints goes to the file `output`."""
    with open(folder / "output", "wb") as output:
        process = subprocess.Popen(
            [*twistd(), *how_to_run(folder, daemon=False), *door],
            cwd=folder,
            env=environment(),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        eventually(lambda: port.accepted == ["bot.example.org"], "the handshake", detail=(folder / "output").read_text)
        yield process
    finally:
        process.kill()
        process.wait()


BY_FILE = ("component-http", "--config=component-http.toml")
BY_TAC = ("-y", "component_http.tac")
DOORS = pytest.mark.parametrize("door", [BY_FILE, BY_TAC], ids=["plugin", "tac"])
BOTH_WAYS = pytest.mark.parametrize("daemon", [False, True], ids=["foreground", "background"])


@DOORS
def test_runs_and_stops(folder: Path, port: ComponentPort, door: Sequence[str]) -> None:
    """
    Plugin and .tac connect with the settings file beside them, and stop when they are asked to.
    """
    with_server(folder, port.endpoint)
    with running(folder, port, door) as process:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    said = (folder / "output").read_text()
    assert "Server Shut Down" in said
    assert "Traceback" not in said
    assert SECRET not in said


SITE = """
from twisted.web.resource import Resource
from twisted.web.server import Site


def open_site():
    port = reactor.listenTCP(0, Site(Resource(), logPath="access.log"), interface="127.0.0.1")
    Path("port").write_text(str(port.getHost().port))


reactor.callWhenRunning(open_site)
"""
"""A web site for the end of the `.tac`; it writes its port to a file."""


def test_a_web_site_beside_it(folder: Path, port: ComponentPort) -> None:
    """
    The access log of a web site in the same `.tac` has the right time: the gateway's clock is nobody else's.
    """
    with_server(folder, port.endpoint)
    with open(folder / "component_http.tac", "a") as application:
        application.write(SITE)
    with running(folder, port, BY_TAC):
        with socket.create_connection(("127.0.0.1", int((folder / "port").read_text())), 30) as client:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.0 404")
        log = folder / "access.log"
        eventually(lambda: log.read_text().endswith("\n"), "a line of the access log")
        [logged] = re.findall(r"\[(.*?) \+0000\]", log.read_text())
        age = time.time() - datetime.strptime(f"{logged} +0000", "%d/%b/%Y:%H:%M:%S %z").timestamp()
        assert abs(age) < 60, logged


def test_runs_in_the_background(folder: Path, port: ComponentPort) -> None:
    """
    In the background it connects too, from another folder than the settings file's, to which paths are relative.
    """
    with_server(folder, port.endpoint)
    (folder / "elsewhere").mkdir()
    ended = run(folder / "elsewhere", *how_to_run(folder, daemon=True), BY_FILE[0], "--config=../component-http.toml")
    assert (ended.returncode, ended.stderr) == (0, "")
    gateway = int((folder / "gateway.pid").read_text())
    try:
        log = folder / "gateway.log"
        eventually(lambda: port.accepted == ["bot.example.org"], "the handshake", detail=log.read_text)
    finally:
        os.kill(gateway, signal.SIGTERM)
    eventually(lambda: "Server Shut Down" in log.read_text(), "the end", detail=log.read_text)


def test_flags_alone(folder: Path) -> None:
    """
    Flags and the environment are enough; that the server is not there is no reason to end.
    """
    flags = ["--domain=x.example.org", "--post-url=http://127.0.0.1:9/", "--server=tcp:127.0.0.1:9"]
    log = folder / "gateway.log"
    ended = run(folder, *how_to_run(folder, daemon=True), BY_FILE[0], *flags, COMPONENT_HTTP_SECRET=SECRET)
    assert (ended.returncode, ended.stderr) == (0, "")
    gateway = int((folder / "gateway.pid").read_text())
    try:
        eventually(lambda: "x.example.org: cannot connect" in log.read_text(), "an attempt", detail=log.read_text)
    finally:
        os.kill(gateway, signal.SIGTERM)
    eventually(lambda: "Server Shut Down" in log.read_text(), "the end", detail=log.read_text)
    assert SECRET not in log.read_text()


def test_warnings_are_logged(folder: Path, port: ComponentPort) -> None:
    """
    A password in the URL is taken, with a warning in the log that does not show it.
    """
    with_server(folder, port.endpoint)
    settings = folder / "component-http.toml"
    settings.write_text(settings.read_text().replace("http://127.0.0.1:8080/", f"http://user:{SECRET}@127.0.0.1:9/"))
    ended = run(folder, *how_to_run(folder, daemon=True), *BY_FILE)
    assert (ended.returncode, ended.stderr) == (0, "")
    log = folder / "gateway.log"
    gateway = int((folder / "gateway.pid").read_text())
    try:
        eventually(lambda: "holds a user or a password" in log.read_text(), "the warning", detail=log.read_text)
        # Before its reactor runs a SIGTERM ends the process without a word.
        eventually(lambda: port.accepted, "the handshake", detail=log.read_text)
    finally:
        os.kill(gateway, signal.SIGTERM)
    eventually(lambda: "Server Shut Down" in log.read_text(), "the end", detail=log.read_text)
    assert SECRET not in log.read_text()


@BOTH_WAYS
@DOORS
def test_wrong_settings(folder: Path, door: Sequence[str], daemon: bool) -> None:
    """
    Settings that cannot be used: one sentence on standard error and status 78, in the foreground and in the background.
    """
    (folder / "component-secret").unlink()
    ended = run(folder, *how_to_run(folder, daemon=daemon), *door)
    assert ended.returncode == 78
    (sentence,) = ended.stderr.splitlines()
    assert re.fullmatch(
        r"component-http: .*component-http\.toml: component\.secret_file .* cannot be read: No such file .*",
        sentence,
    )
    assert not (folder / "gateway.pid").exists()


@BOTH_WAYS
@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--webhook-timeot=5"], "--webhook-timeot is not a flag; did you mean --webhook-timeout?"),
        (["--config=none.toml"], "none.toml cannot be read: No such file or directory"),
        (
            ["--config=component-http.toml", "--webhook-timeout=x"],
            '--webhook-timeout is "x", but must be a number from',
        ),
        ([], "--domain is missing: add --domain=bot.example.org, or --config=FILE with domain below [component]"),
    ],
    ids=["flag", "file", "value", "nothing"],
)
def test_wrong_command_line(folder: Path, flags: Sequence[str], expected: str, daemon: bool) -> None:
    """
    A command line that cannot be used ends the same way.
    """
    ended = run(folder, *how_to_run(folder, daemon=daemon), BY_FILE[0], *flags)
    assert ended.returncode == 78
    sentence, *others = ended.stderr.splitlines()
    assert sentence.startswith(f"component-http: {expected}")
    assert bool(others) == (not flags), others  # who gives nothing is told all that is missing
    assert not (folder / "gateway.pid").exists()
