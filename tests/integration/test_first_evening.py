"""What somebody meets on the first evening: `run`, the unit for systemd, a check for another user, sending alone."""

from __future__ import annotations

import json
import os
import pwd
import re
import shlex
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator, Sequence
from http.client import HTTPConnection
from pathlib import Path
from tempfile import mkdtemp

import pytest

from tests.certificates import Authority
from tests.integration.counterparts import need, need_library
from tests.integration.probe import ScriptedServer
from tests.integration.processes import Process, ScriptedWebhook, from_checkout, reply
from tests.integration.servers import SERVERS, free_port

ROOT = Path(__file__).parents[2]

COMMAND = [sys.executable, "-m", "component_http"]

NOBODY = pwd.getpwnam("nobody")

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that everyone may enter and only the user of the test may write to."""
    folder = Path(mkdtemp(prefix="component-http-first-evening-"))
    folder.chmod(0o755)
    yield folder
    subprocess.run(["rm", "-rf", str(folder)], check=True)


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as server:
        yield server


def private(path: Path, text: str) -> None:
    """Write a file that only its user can read."""
    path.touch(mode=0o600)
    path.write_text(text)


def settings(server: ScriptedServer, component: str = "", more: str = "") -> str:
    return f"""
        [component]
        domain = "bot.localhost"
        server = "{server.endpoint}"
        {component}
        {more}
    """


def post(place: int | Path, token: str, message: dict[str, str]) -> int:
    """Push a message to the API at a port, or at a unix socket; returns the status."""
    connection = HTTPConnection("127.0.0.1", place if isinstance(place, int) else 0, timeout=60)
    if isinstance(place, Path):
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(place))
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}", "Connection": "close"}
    connection.request("POST", "/v1/messages", json.dumps(message), headers)
    with connection.getresponse() as response:
        return response.status


@pytest.mark.parametrize("command", [COMMAND, [str(Path(sys.executable).with_name("component-http"))]])
def test_run(folder: Path, server: ScriptedServer, command: Sequence[str]) -> None:
    """
    `component-http run FILE`, and `python -m component_http run FILE`, serve until SIGTERM, and leave nothing behind
    but the spool.
    """
    private(folder / "secret", server.secret)
    (folder / "bot.toml").write_text(
        settings(server, 'secret_file = "secret"\ncomponent_post_url = "http://127.0.0.1:9/"')
    )
    with Process([*command, "run", "bot.toml", "--delivery-drain-timeout", "1"], folder, from_checkout()) as gateway:
        server.connected()
        gateway.wait_for_log("authenticated as bot.localhost")
        assert gateway.terminate() == -signal.SIGTERM
        assert "stopped; in all" in gateway.log()
        assert "go by the wall clock" not in gateway.log() and "Traceback" not in gateway.log(), gateway.log()
        left = {path.name for path in folder.iterdir() if not path.name.startswith("component-http.sqlite3")}
        assert left == {"bot.toml", "secret", "output.log"}


def test_only_sending(folder: Path, server: ScriptedServer) -> None:
    """
    Without a webhook what is pushed comes from the bot's contact, a message to it is bounced, and presence is answered.
    """
    port = free_port()
    private(folder / "secret", server.secret)
    private(folder / "token", "0123456789abcdef")
    (folder / "bot.toml").write_text(
        settings(
            server,
            'secret_file = "secret"\nsender = "bot@bot.localhost"',
            f'[api]\nlisten = "tcp:{port}:interface=127.0.0.1"\n[[api.token]]\nname = "ops"\ntoken_file = "token"',
        )
    )
    with Process([*COMMAND, "run", "bot.toml"], folder, from_checkout()) as gateway:
        peer = server.connected()
        gateway.wait_for_log("the API listens on")
        assert "serves bot.localhost: no webhook; the spool is" in gateway.log()
        assert post(port, "0123456789abcdef", {"to": "alice@localhost", "body": "hello"}) == 202
        pushed = peer.wait_for(lambda element: element.get("to") == "alice@localhost", "the push")
        assert pushed.get("from") == "bot@bot.localhost"
        addresses = "from='alice@localhost/phone' to='bot@bot.localhost'"
        peer.send(f"<message {addresses} type='chat' id='m1'><body>hello</body></message>")
        bounced = peer.wait_for(lambda element: element.get("id") == "m1", "the error")
        assert bounced.get("type") == "error"
        peer.send(f"<presence {addresses} type='subscribe'/>")
        peer.wait_for(lambda element: element.get("type") == "subscribed", "the answer to a subscription")
        gateway.terminate()
        assert "Traceback" not in gateway.log(), gateway.log()


def test_unit(folder: Path, server: ScriptedServer) -> None:
    """
    What the documented unit runs works as systemd would run it: confined by the unit's lines, with credentials, folders
    for its state and its sockets, and as a user who can read no other file with a secret.
    """
    need("systemd-analyze", "systemd")
    need_library("*/libseccomp.so.2", "libseccomp2")
    unit = (ROOT / "docs" / "examples" / "component-http@.service").read_text()
    unit = re.sub("(?m)^#(?=LoadCredential)", "", unit).replace("%i", "bot")
    etc, passed, written = folder / "etc", folder / "credentials", folder / "written"
    state, sockets = written / "state", written / "sockets"
    for made in (etc, passed, written, state, sockets):
        made.mkdir()
    private(etc / "bot.secret", server.secret)
    private(etc / "ops-token", "0123456789abcdef")
    authority = Authority()
    (etc / "ca.pem").write_bytes(authority.pem)
    (etc / "own.pem").write_bytes(authority.certified("localhost"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(etc / "own.pem")
    answer = reply(body="arrived")
    with ScriptedWebhook(lambda request: answer, tls=context) as webhook:
        (etc / "bot.toml").write_text(
            settings(
                server,
                f'secret_file = "component-secret"\ncomponent_post_url = "{webhook.url}"',
                f"""
                [webhook]
                ca_file = "ca.pem"
                [api]
                listen = "unix:{sockets}/api"
                [[api.token]]
                name = "ops"
                token_file = "credential:ops-token"
                """,
            )
        )
        for name, path in re.findall(r"(?m)^LoadCredential=([^:]+):/etc/component-http/(.+)$", unit):
            private(passed / name, (etc / path).read_text())
        [words] = re.findall(r"(?m)^ExecStart=/opt/component-http/bin/component-http (.*)$", unit)
        if os.geteuid() == 0:
            for path in (passed, *passed.iterdir(), state, sockets):
                os.chown(path, NOBODY.pw_uid, NOBODY.pw_gid)
        (folder / "unit").write_text(unit)
        command = [sys.executable, "-m", "tests.integration.confined", str(folder / "unit"), str(written)]
        command += shlex.split(words.replace("/etc/component-http", str(etc)))
        environment = {**from_checkout(), "CREDENTIALS_DIRECTORY": str(passed), "STATE_DIRECTORY": str(state)}
        with Process(command, folder, environment) as gateway:
            gateway.wait_for_log("serves bot.localhost")
            peer = server.connected()
            addresses = "from='alice@localhost/x' to='bot@bot.localhost'"
            peer.send(f"<message {addresses} type='chat'><body>hello</body></message>")
            peer.wait_for(lambda element: element.get("to") == "alice@localhost/x", "the answer over TLS")
            gateway.wait_for_log("the API listens on")
            assert post(sockets / "api", "0123456789abcdef", {"to": "alice@localhost", "body": "hello"}) == 202
            peer.wait_for(lambda element: element.get("to") == "alice@localhost", "the push")
            assert (state / "component-http.sqlite3").exists()
            status = Path(f"/proc/{gateway.pid}/status").read_text()
            assert "Seccomp_filters:\t2\n" in status and "NoNewPrivs:\t1\n" in status, status
            gateway.terminate()
            told = re.sub("#warn. the certificate of .* ends in", "", gateway.log())
            assert "Traceback" not in told and "#warn" not in told, told


def check(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, "check", *arguments],
        cwd=folder,
        env={**os.environ, **from_checkout(), **more},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@AS_ROOT
def test_check_for_another_user(folder: Path) -> None:
    """
    A check by root for another user names at once each file that he cannot read and the folder he cannot write to.
    """
    (folder / "state").mkdir()
    (folder / "closed").mkdir(mode=0o700)
    for name in ("secret", "ops-token", "closed/hook"):
        private(folder / name, f"{Path(name).name}-0123456789abcdef")
    (folder / "bot.toml").write_text(
        """
        [component]
        domain = "bot.localhost"
        secret_file = "secret"
        [spool]
        path = "state/spool"
        [api]
        listen = "tcp:8347:interface=127.0.0.1"
        [[api.token]]
        name = "ops"
        token_file = "ops-token"
        [[api.hook]]
        name = "hook"
        to = "alice@localhost"
        secret_file = "closed/hook"
        """
    )
    assert check(folder, "bot.toml").returncode == 0
    ended = check(folder, "bot.toml", "--user", "nobody")
    assert (ended.returncode, ended.stdout) == (78, "")
    lines = ended.stderr.splitlines()
    assert len(lines) == 4, lines
    for line, words in zip(
        lines,
        (
            'component.secret_file "secret" cannot be read by the user nobody: Permission denied',
            'api.token.token_file "ops-token" cannot be read by the user nobody',
            f"by the user nobody, who may not enter the folder {folder}/closed: Permission denied",
            f"spool.path: the user nobody cannot write to the folder {folder}/state: Permission denied",
        ),
        strict=True,
    ):
        assert words in line
    for name in ("secret", "ops-token", "closed", "closed/hook", "state"):
        os.chown(folder / name, NOBODY.pw_uid, NOBODY.pw_gid)
    ended = check(folder, "bot.toml", f"--user={NOBODY.pw_uid}")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert list((folder / "state").iterdir()) == []
    (folder / "state" / "spool").touch()
    ended = check(folder, "bot.toml", "--user", "nobody")
    assert f"the file {folder}/state/spool belongs to another user than nobody" in ended.stderr


@AS_ROOT
def test_check_leaves_credentials_to_systemd(folder: Path) -> None:
    """
    What systemd passes as a credential the user of the gateway need not be able to read.
    """
    (folder / "etc").mkdir(mode=0o700)
    private(folder / "etc" / "secret", "s")
    flags = ["--domain=bot.localhost", "--post-url=http://127.0.0.1:9/", "--spool-kind=memory", "--user=nobody"]
    ended = check(folder, *flags, "--secret-file=credential:secret", CREDENTIALS_DIRECTORY=str(folder / "etc"))
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize("name", list(SERVERS))
def test_client_port_of_real_servers(folder: Path, name: str) -> None:
    """
    Whoever names the port for clients of Prosody or ejabberd reads that in the log, with the port to name.
    """
    private(folder / "secret", "s")
    with SERVERS[name]() as server:
        address = f"127.0.0.1:{server.client_port}"
        flags = [f"--server=tcp:{address}", "--domain=bot.localhost", "--secret-file=secret"]
        with Process(
            [*COMMAND, "run", *flags, "--post-url=http://127.0.0.1:9/", "--spool-kind=memory"], folder, from_checkout()
        ) as gateway:
            gateway.wait_for_log(f"does not name a component port ({address} is for clients: ")
            assert "5347 unless" in gateway.log()
