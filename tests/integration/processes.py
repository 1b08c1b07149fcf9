"""
Real processes around a real webhook: the gateway as an operator runs it, and the bots of `examples/`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from attrs import define, frozen

import component_http
from tests.integration.closing import Closing
from tests.integration.waiting import PATIENCE, eventually

__all__ = [
    "CHECKOUT",
    "NO_REPLY",
    "Answer",
    "Bot",
    "GatewayProcess",
    "Process",
    "Request",
    "ScriptedWebhook",
    "from_checkout",
    "gateway_folder",
    "reply",
    "toml",
    "twistd",
]

CHECKOUT = Path(component_http.__file__).resolve().parent.parent
"""The folder that holds the package and, beside it, `twisted/plugins`."""

BUGS = re.compile(r"Traceback|Unhandled|Exception ignored|internal error|\bcritical\b|never awaited")
"""What must never be in a gateway's log, whatever its peers do."""


class Process:
    """
    A child process with its output in a file of its own temporary folder.

    Args:
        command: Program and arguments.
        folder: Where it runs; deleted at the end.
        environment: Added to this process's own.
    """

    def __init__(self, command: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self._log_path = folder / "output.log"
        with self._log_path.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                env={**os.environ, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, where: TracebackType | None
    ) -> None:
        self.remove()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """It has not ended."""
        return self._process.poll() is None

    def log(self) -> str:
        """Everything it printed so far."""
        return self._log_path.read_text(errors="replace")

    def wait_for_log(self, text: str, *, times: int = 1, seconds: float = PATIENCE) -> None:
        """Wait until it has printed something so many times."""

        def look() -> bool:
            seen = self.log().count(text) >= times
            if not seen and not self.running and self.log().count(text) < times:
                raise AssertionError(f"it ended with {self._process.returncode} before it said {text!r}:\n{self.log()}")
            return seen

        eventually(look, f"{text!r} in the log", seconds=seconds, detail=self.log)

    def wait(self, seconds: float = PATIENCE) -> int:
        """
        Returns:
            Its exit status, once it has ended.
        """
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it still runs after {seconds:g} s:\n{self.log()}") from None

    def terminate(self, seconds: float = PATIENCE) -> int:
        """
        Ask it to end as a service manager does (SIGTERM).

        Returns:
            Its exit status.
        """
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        return self.wait(seconds)

    def kill(self) -> None:
        """End it at once, as by kill -9."""
        self._process.kill()
        self.wait()

    def remove(self) -> None:
        """End it whatever it does, and delete its folder."""
        if self.running:
            self._process.terminate()
            try:
                self._process.wait(10.0)
            except subprocess.TimeoutExpired:
                self._process.kill()
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(10.0)
        shutil.rmtree(self.folder, ignore_errors=True)

    def resident_kib(self) -> int:
        """Memory it holds now, in KiB."""
        return self._status_kib("VmRSS")

    def peak_kib(self) -> int:
        """The most memory it ever held, in KiB."""
        return self._status_kib("VmHWM")

    def _status_kib(self, name: str) -> int:
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(rf"^{name}:\s+(\d+) kB", status, re.MULTILINE)
        assert found is not None, status
        return int(found[1])


class GatewayProcess(Process):
    """
    `twistd -n component-http` with a settings file, in a folder of its own.

    Args:
        domain: The component.
        server: Endpoint of the XMPP server.
        secret: What goes into its secret file.
        post_url: The webhook.
        arguments: More flags of the plugin.
        sections: More settings: `{"webhook": {"timeout": 1.0}, "component": {...}}`; where there are several tables of
            a name, as a list of them, these instead.
        environment: Added to its own.
        secrets: What is in files beside the settings, by their names.
    """

    def __init__(
        self,
        *,
        domain: str,
        server: str,
        secret: str,
        post_url: str,
        arguments: Iterable[str] = (),
        sections: Mapping[str, Mapping[str, object] | Sequence[Mapping[str, object]]] | None = None,
        environment: Mapping[str, str] | None = None,
        secrets: Mapping[str, str] | None = None,
    ) -> None:
        settings: dict[str, Any] = {
            "component": {
                "domain": domain,
                "server": server,
                "secret_file": "secret",
                "component_post_url": post_url,
            },
            "delivery": {"max_attempts": 1},
            "log": {"level": "debug"},
        }
        for section, values in (sections or {}).items():
            if isinstance(values, Mapping):
                settings.setdefault(section, {}).update(values)
            else:
                settings[section] = values
        self.domain = domain
        super().__init__(
            [*twistd(), "-n", "--pidfile=", "component-http", "--config", "gateway.toml", *arguments],
            gateway_folder(secret, settings, secrets),
            {**from_checkout(), **(environment or {})},
        )

    def wait_until_authenticated(self, *, times: int = 1, seconds: float = PATIENCE) -> None:
        """Wait until the server has accepted it for the so-manieth time."""
        self.wait_for_log(f"authenticated as {self.domain}", times=times, seconds=seconds)

    def lines(self, text: str) -> list[str]:
        """The log's lines that hold a text."""
        return [line for line in self.log().splitlines() if text in line]

    def stop(self) -> None:
        """Ask it to end, and see that it ended in order and without a bug of ours in all its log."""
        self.assert_sound()
        self.terminate()
        self.assert_ended_in_order()

    def assert_ended_in_order(self) -> None:
        """It ends, or has ended, as one does that was asked to, and without a bug of ours in all its log."""
        status = self.wait()
        # twistd ends by the signal that stopped it, once everything is shut down.
        assert status in (0, -signal.SIGTERM), f"exit status {status}\n{self.log()}"
        assert "stopped; in all" in self.log() and "Server Shut Down" in self.log(), self.log()
        assert BUGS.search(self.log()) is None, self.log()

    def warnings(self) -> list[str]:
        """The log's lines at warn or worse."""
        return [line for line in self.log().splitlines() if re.search(r"#(warn|error|critical)\b", line)]

    def assert_sound(self) -> None:
        """It still runs and nothing in its log is a bug of ours."""
        assert self.running, self.log()
        assert BUGS.search(self.log()) is None, self.log()


def gateway_folder(secret: str, settings: Mapping[str, Any], secrets: Mapping[str, str] | None = None) -> Path:
    """Make a folder with `gateway.toml`, and beside it the file `secret` and others that it may name."""
    folder = Path(tempfile.mkdtemp(prefix="component-http-gateway-"))
    for name, text in {"secret": secret, **(secrets or {})}.items():
        (folder / name).touch(mode=0o600)
        (folder / name).write_text(text + "\n")
    (folder / "gateway.toml").write_text(toml(settings))
    return folder


def from_checkout() -> dict[str, str]:
    """The environment of a child that imports what is tested from where it is tested."""
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(CHECKOUT), os.environ.get("PYTHONPATH")]))}


def twistd() -> list[str]:
    """The twistd of this interpreter's environment."""
    beside = Path(sys.executable).with_name("twistd")
    return [str(beside)] if beside.exists() else [sys.executable, "-m", "twisted.scripts.twistd"]


def toml(settings: Mapping[str, Any]) -> str:
    """Write sections of values as TOML; a list of them as tables of one name."""
    lines: list[str] = []
    for section, content in settings.items():
        several = isinstance(content, (list, tuple))
        for values in content if several else [content]:
            lines.append(f"[[{section}]]" if several else f"[{section}]")
            lines += [f"{json.dumps(key)} = {_toml_value(value)}" for key, value in values.items()]
    return "\n".join(lines) + "\n"


def _toml_value(value: object) -> str:
    """A JSON value is a TOML value, but for tables."""
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{json.dumps(name)} = {_toml_value(one)}' for name, one in value.items())} }}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_toml_value, value))}]"
    return json.dumps(value)


class Bot(Process):
    """
    A bot of somebody's, started by its own command and asked by HTTP.

    Args:
        command: How it is started; it listens on `port`.
        port: A free port of loopback.
        environment: Added to this process's own.
    """

    def __init__(self, command: Sequence[str], port: int, environment: Mapping[str, str] | None = None) -> None:
        self.url = f"http://127.0.0.1:{port}/"
        super().__init__(command, Path(tempfile.mkdtemp(prefix="component-http-bot-")), environment)
        try:
            eventually(lambda: self._listens(port), f"the bot on port {port}", detail=self.log)
        except BaseException:
            self.remove()
            raise

    def _listens(self, port: int) -> bool:
        assert self.running, self.log()
        try:
            socket.create_connection(("127.0.0.1", port), 1.0).close()
        except OSError:
            return False
        return True


@frozen
class Answer:
    """
    What the webhook says to one request.

    Attributes:
        status: HTTP status.
        content_type: None for no such header.
        body: Bytes, or text that becomes UTF-8.
        headers: More headers.
        drop: Close the connection without a word instead.
        raw: Send exactly these pieces, each at once, and close instead; it may be endless, the gateway hangs up.
    """

    status: int = 200
    content_type: str | None = "application/json"
    body: bytes | str = b""
    headers: Mapping[str, str] = {}
    drop: bool = False
    raw: Iterable[bytes] | None = None


def reply(*values: Any, **properties: Any) -> Answer:
    """An answer with one JSON value, or with an object of the given properties."""
    return Answer(body=json.dumps(values[0] if values else properties))


NO_REPLY = Answer(status=204, content_type=None)


@define
class Request:
    """
    One request as it came.

    Attributes:
        path: Path with query.
        headers: Names in lower case.
        body: The bytes.
        connection: Which connection it came on; counted from 1.
        settled: Its answer was handed to the network.
    """

    path: str
    headers: dict[str, str]
    body: bytes
    connection: int
    settled: bool = False

    @property
    def json(self) -> dict[str, Any]:
        """The body as JSON."""
        decoded = json.loads(self.body)
        assert isinstance(decoded, dict)
        return decoded


class ScriptedWebhook(Closing):
    """
    An HTTP server of keep-alive connections that records every POST and answers as the test says.

    Args:
        tls: Speak TLS with this context.

    Attributes:
        answer: Asked for each request, in the connection's own thread; set it at any time.
        requests: What came, in order of arrival.
    """

    def __init__(
        self, answer: Callable[[Request], Answer] = lambda request: NO_REPLY, *, tls: ssl.SSLContext | None = None
    ) -> None:
        self.answer = answer
        self.requests: list[Request] = []
        self._changed = threading.Condition()
        self._open: set[socket.socket] = set()
        self._connections = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # an answer leaves in one piece
            disable_nagle_algorithm = True

            def setup(self) -> None:
                super().setup()
                self.number = outer._opened(self.connection)

            def finish(self) -> None:
                outer._open.discard(self.connection)
                with suppress(OSError, ValueError):
                    super().finish()

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
                headers = {name.lower(): value for name, value in self.headers.items()}
                outer._answer(self, Request(self.path, headers, body, self.number))

            def log_message(self, format: str, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, request: object, client_address: object) -> None:
                pass  # the gateway may hang up whenever it likes

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port: int = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/"
        if tls is not None:
            # Each thread does the handshake of its own connection.
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
            self.url = f"https://localhost:{self.port}/"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def _opened(self, connection: socket.socket) -> int:
        with self._changed:
            self._open.add(connection)
            self._connections += 1
            return self._connections

    def _answer(self, handler: BaseHTTPRequestHandler, request: Request) -> None:
        with self._changed:
            self.requests.append(request)
            self._changed.notify_all()
        answer = self.answer(request)
        try:
            if answer.drop or answer.raw is not None:
                handler.close_connection = True
                for piece in answer.raw or ():
                    handler.wfile.write(piece)
                    handler.wfile.flush()
            else:
                body = answer.body.encode() if isinstance(answer.body, str) else answer.body
                handler.send_response(answer.status)
                if answer.content_type is not None:
                    handler.send_header("Content-Type", answer.content_type)
                for name, value in answer.headers.items():
                    handler.send_header(name, value)
                if answer.status != 204:
                    handler.send_header("Content-Length", str(len(body)))
                handler.end_headers()
                handler.wfile.write(body if answer.status != 204 else b"")
            handler.wfile.flush()
            if handler.close_connection:
                handler.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            handler.close_connection = True  # the gateway may hang up whenever it likes
        finally:
            with self._changed:
                request.settled = True
                self._changed.notify_all()

    def wait_for(self, count: int, *, settled: bool = True, seconds: float = PATIENCE) -> list[Request]:
        """
        Wait until so many requests have come in all and, unless told otherwise, been answered.

        Returns:
            All requests so far.
        """

        def look() -> bool:
            return len(self.requests) >= count and (not settled or all(one.settled for one in self.requests[:count]))

        with self._changed:
            if not self._changed.wait_for(look, seconds):
                raise AssertionError(f"waited {seconds:g} s for request {count}, there are {len(self.requests)}")
            return list(self.requests)

    def take(self) -> list[Request]:
        """
        Returns:
            The requests since the last call, which are forgotten.
        """
        with self._changed:
            taken, self.requests = self.requests, []
            return taken

    def close(self) -> None:
        """Stop answering and close every connection."""
        self._server.shutdown()
        self._server.server_close()
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join(PATIENCE)
