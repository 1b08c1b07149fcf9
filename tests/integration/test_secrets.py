"""
Secrets stay secret: a marked one in each place, and a search in all that the gateway writes, shows and sends.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from base64 import b64decode, b64encode
from contextlib import ExitStack
from pathlib import Path
from subprocess import run

import requests
from twisted.internet.testing import MemoryReactorClock

from component_http.settings import Settings
from component_http.signing import new_secret
from component_http.webhooks import webhook_client
from tests.certificates import Authority
from tests.integration.exchange import says
from tests.integration.probe import ScriptedServer
from tests.integration.processes import Answer, GatewayProcess, Request, ScriptedWebhook, from_checkout, reply
from tests.integration.waiting import eventually

PATIENCE = 20.0

COMPONENT, BEARER, HEADER, PATH = (
    "canary-of-the-component",
    "canary-of-bearer",
    "canary-of-a-header",
    "canary-of-the-path",
)
TOKEN, HOOK, PASSWORD = "canary-token-of-ops", "canary-secret-of-the-hook", "canary-of-the-proxy"
IN_URL, IN_ROUTE, ENVIRONMENT = "canary-of-the-url", "canary-in-a-route", "canary-of-the-environment"


def bot(request: Request) -> Answer:
    """Answer, fail, or refuse, as it is asked to; as a proxy refuse always."""
    text = request.json.get("body", "")
    if text == "fail":
        return Answer(status=500, body="no")
    return Answer(status=200, body="{") if text == "rubbish" else reply(body="pong")


def test_canaries() -> None:
    """
    No secret is in the log, in the command lines that `ps` shows, in the spool, in an answer of the API, in what the
    commands print, or in what a program may show of the settings.
    """
    signing, private = new_secret(), new_secret(asymmetric=True)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    own = Authority().certified("gateway.example").decode()
    key = own.partition("-----BEGIN PRIVATE KEY-----\n")[2].splitlines()[1]
    secrets = {
        "own.pem": own,
        "bearer": BEARER,
        "signing": signing,
        "private": private,
        "ops": TOKEN,
        "hook": HOOK,
    }
    with ExitStack() as stack:
        server = stack.enter_context(ScriptedServer(COMPONENT))
        webhook = stack.enter_context(ScriptedWebhook(bot))
        sections = {
            "component": {
                "route": [
                    {
                        "name": "bearer",
                        "to": ["bearer@*"],
                        "url": webhook.url,
                        "webhook": {"bearer_token_file": "bearer"},
                    },
                    {
                        "name": "proxied",
                        "to": ["proxied@*"],
                        "url": f"https://127.0.0.1:1/{IN_ROUTE}",
                        "webhook": {"proxy": f"http://user:{PASSWORD}@127.0.0.1:{webhook.port}"},
                    },
                    {"name": "gone", "to": ["gone@*"], "url": f"http://user:{IN_ROUTE}@127.0.0.1:1/{IN_ROUTE}"},
                ]
            },
            "webhook": {
                "client_certificate": "own.pem",
                "signing_secret_files": ["signing", "private"],
                "headers": {"X-Api-Key": HEADER},
            },
            "delivery": {"max_attempts": 2, "retry_cap": 0.1, "drain_timeout": 0.1},
            "api": {
                "listen": f"tcp:{port}:interface=127.0.0.1",
                "token": [{"name": "ops", "token_file": "ops", "admin": True}],
                "hook": [{"name": "alerts", "secret_file": "hook", "to": "alice@localhost", "template": "generic"}],
            },
        }
        gateway = stack.enter_context(
            GatewayProcess(
                domain="bot.localhost",
                server=server.endpoint,
                secret=COMPONENT,
                post_url=f"http://user:{IN_URL}@127.0.0.1:{webhook.port}/{PATH}",
                sections=sections,
                secrets=secrets,
            )
        )
        peer = server.connected()
        gateway.wait_until_authenticated()
        for text in ("hello", "fail", "rubbish"):
            addresses = f"from='{text}@localhost/x' to='bot@bot.localhost'"
            peer.send(f"<message {addresses} type='chat' id='1'><body>{text}</body></message>")
        peer.wait_for(lambda element: says(element, "pong"), "the answer")
        for name in ("bearer", "proxied", "gone"):
            peer.send(f"<message from='x@localhost/x' to='{name}@bot.localhost' id='1'><body>hello</body></message>")
        gateway.wait_for_log(f"the proxy http://127.0.0.1:{webhook.port} refuses a connection")
        gateway.wait_for_log("Connection refused")
        eventually(lambda: len(webhook.requests) >= 5, "all requests", detail=gateway.log)
        shown = []
        hook = f"/hooks/{HOOK}"
        for url, token in ((hook, None), (f"{hook}x", None), ("/v1/messages", TOKEN), ("/v1/x", "x")):
            answer = requests.post(
                f"http://127.0.0.1:{port}{url}",
                json={"to": "alice@localhost", "body": "hello", "text": "hello", "from": "x@elsewhere.example"},
                headers={} if token is None else {"Authorization": f"Bearer {token}"},
                timeout=PATIENCE,
            )
            shown.append(f"{answer.headers} {answer.text}")
        file = gateway.folder / "gateway.toml"
        good = file.read_text()
        for broken in (
            f"{good}\n[webhook]\n",
            good.replace('"ops"', '"nothing"', 2),
            good.replace('"own.pem"', '"bearer"'),
        ):
            file.write_text(broken)
            os.kill(gateway.pid, signal.SIGHUP)
            eventually(lambda: "the settings stay as they were" in gateway.log(), "the refusal", detail=gateway.log)
        file.write_text(good)
        shown.append(Path(f"/proc/{gateway.pid}/cmdline").read_text())
        config = ["--config", str(file)]
        for command in (
            ["check", str(file)],
            ["check", str(file), "--domain=x..y", "--secret-file="],
            ["letters", "list", *config],
            ["pending", "list", *config],
            ["spool", *config],
            ["route", str(file), "--to=bearer@bot.localhost", "--from=x@localhost"],
        ):
            ended = run(
                [sys.executable, "-m", "component_http", *command],
                capture_output=True,
                text=True,
                timeout=60,
                env={**os.environ, **from_checkout(), "COMPONENT_HTTP_SECRET": ENVIRONMENT},
            )
            assert "usage:" not in ended.stderr, ended.stderr
            shown.append(ended.stdout + ended.stderr)
        settings = Settings.from_toml(file, {})
        for one in (settings, *settings.of_routes.values()):
            client = webhook_client(one, MemoryReactorClock())
            shown += [repr(one.component), repr(one.webhook), repr(client), str(vars(client))]
        shown += [repr(settings), str(settings), repr(settings.webhook), repr(settings.api)]
        core = Path(f"/proc/{gateway.pid}/limits").read_text()
        assert "Max core file size        0" in core, core
        assert int(Path(f"/proc/{gateway.pid}/coredump_filter").read_text(), 16) == 0
        gateway.stop()
        shown += [gateway.log(), *(path.read_bytes().decode("latin-1") for path in gateway.folder.glob("*.sqlite3*"))]
        sent = "".join(str(request.headers) for request in webhook.requests)
        assert all(each in sent for each in (BEARER, HEADER, b64encode(f"user:{IN_URL}".encode()).decode())), sent
        assert len(webhook.requests) >= 4 and COMPONENT not in "".join(webhook.requests[0].headers.values())
        keys = [b64decode(each.partition("_")[2]) for each in (signing, private)]
        canaries = (COMPONENT, BEARER, HEADER, PATH, TOKEN, HOOK, PASSWORD, IN_URL, IN_ROUTE, ENVIRONMENT, key)
        for canary in (*canaries, signing, private, *(each.hex() for each in keys)):
            for form in (canary, b64encode(canary.encode()).decode().rstrip("="), canary.encode().hex()):
                for text in shown:
                    at = text.find(form)
                    assert at < 0, text[max(0, at - 200) : at + 20]
