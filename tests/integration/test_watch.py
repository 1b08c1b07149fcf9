"""A conversation that is watched while a real gateway serves it, by the command in a process of its own."""

from __future__ import annotations

import signal
import subprocess
from contextlib import ExitStack, redirect_stderr
from io import StringIO

from component_http.cli import main
from tests.integration.probe import ScriptedServer
from tests.integration.processes import Answer, GatewayProcess, ScriptedWebhook
from tests.integration.test_doors import environment
from tests.integration.test_letters import COMMAND, DOMAIN, USER, echo, said
from tests.integration.waiting import eventually

BEARER = "canary-bearer-token"
HEADER = "canary-of-a-header"
SIGNING = "whsec_Y2FuYXJ5LW9mLXRoZS1zaWduaW5nLXNlY3JldC1rZXk="


def test_watched_conversation() -> None:
    """
    Each step of the conversation is a line, with its content if that is asked for and never a secret; others are not
    shown, and hostile text stays on its line. Ctrl-C ends the command quietly, and the stop of the gateway says so.
    """
    hostile = "\x1b[31mred\x1b[0m\nended, replied"
    with ExitStack() as stack:
        server, webhook = stack.enter_context(ScriptedServer()), stack.enter_context(ScriptedWebhook(echo))
        gateway = stack.enter_context(
            GatewayProcess(
                domain=DOMAIN,
                server=server.endpoint,
                secret=server.secret,
                post_url=webhook.url,
                sections={
                    "delivery": {"max_attempts": 3},
                    "operations": {"listen": "unix:watch.sock:mode=600"},
                    "spool": {"kind": "memory"},
                    "webhook": {"bearer_token_file": "bearer", "signing_secret_files": ["signing"]},
                },
                secrets={"bearer": BEARER, "signing": SIGNING},
            )
        )
        peer = server.connected()
        gateway.wait_until_authenticated()
        settings = str(gateway.folder / "gateway.toml")

        def watching(*arguments: str) -> subprocess.Popen[str]:
            child = subprocess.Popen(
                [*COMMAND, "watch", settings, *arguments],
                env=environment(),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            stack.callback(child.kill)
            stack.enter_context(child)
            assert child.stderr is not None
            assert child.stderr.readline() == "watching: Ctrl-C ends it\n"
            return child

        raw, quiet = watching("--from", USER.partition("/")[0], "--raw"), watching("--from", "nobody@example.org")
        answers = [Answer(status=503, content_type="text/plain", body=hostile)]
        webhook.answer = lambda request: answers.pop() if answers else echo(request)
        text = "hello \x85 there"
        peer.send(f"<message from='{USER}' to='echo@{DOMAIN}' type='chat' id='m1'><body>{text}</body></message>")
        said(peer, text)
        peer.send(f"<message from='bob@example.org/x' to='echo@{DOMAIN}' id='m2'><body>other</body></message>")
        eventually(lambda: len(webhook.wait_for(3)) == 3, "all POSTs")
        lines: list[str] = []
        assert raw.stdout is not None
        while not lines or "has a stanza" not in lines[-1]:
            lines.append(raw.stdout.readline())
        raw.send_signal(signal.SIGINT)
        assert raw.wait(20) == 0
        printed = "".join(lines)
        steps = [line[13:].partition(" ")[2].strip() for line in lines if not line.startswith(" ")]
        first = webhook.take()[0]
        assert steps[0].startswith(f"arrived: message of type chat with id m1 from {USER} to echo@{DOMAIN}, ")
        assert steps[1] == "attempt 1: POST"
        assert steps[2].startswith("attempt 1: status 503 (") and "connected in" in steps[2]
        assert steps[3:4] == ["attempt 2: POST"] and steps[4].startswith("attempt 2: status 200 (")
        assert steps[5].startswith("ended, replied; sends message of type chat") and f" to {USER}, " in steps[5]
        assert "webhook-signature: " + first.headers["webhook-signature"] in printed
        assert "    stanza: <message" in printed and "\\x1b[31mred" in printed and "\x1b" not in printed
        for secret in (BEARER, SIGNING, SIGNING[6:], server.secret):
            assert secret not in printed
        assert "Authorization: (hidden)" in printed
        socket = gateway.folder / "watch.sock"
        socket.chmod(0o666)
        assert "every user of this machine could read it" in refused(settings)
        gateway.stop()
        stdout, stderr = quiet.communicate(timeout=20)
        assert (quiet.returncode, stdout) == (1, "")
        assert stderr == "component-http: the gateway has closed the connection, for it stops\n"
        assert f"no gateway answers at unix:{socket}:" in refused(settings)


def refused(settings: str) -> str:
    """Ask to watch in vain, from this process; the one line of complaint."""
    with redirect_stderr(StringIO()) as complaint:
        assert main(["watch", settings]) == 1
    assert complaint.getvalue().count("\n") == 1
    return complaint.getvalue()
