"""A secret for signatures that is replaced while the gateway runs, each delivery checked by the official library."""

from __future__ import annotations

import os
import signal

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from component_http.signing import new_secret
from tests.integration.exchange import says
from tests.integration.probe import ScriptedServer
from tests.integration.processes import GatewayProcess, Request, ScriptedWebhook, reply

DOMAIN = "bot.localhost"

TOLD = " the settings "
"""A line of the log has it that says how a reload ended."""


def fits(secret: str, request: Request) -> bool:
    """Ask the library of Standard Webhooks whether a request was signed with a secret."""
    try:
        Webhook(secret).verify(request.body, request.headers)
    except WebhookVerificationError:
        return False
    return True


def test_rotation() -> None:
    """
    While a secret is replaced each delivery is signed with both; a file that is empty, or written in half, is told in
    one line and changes nothing, so that no delivery goes out with no signature that fits.
    """
    old, new = new_secret(), new_secret()
    with (
        ScriptedServer() as server,
        ScriptedWebhook(lambda request: reply(body=f"got {request.json['body']}")) as webhook,
        GatewayProcess(
            domain=DOMAIN,
            server=server.endpoint,
            secret=server.secret,
            post_url=webhook.url,
            sections={"webhook": {"signing_secret_files": ["old"]}},
            secrets={"old": old, "new": ""},
        ) as gateway,
    ):
        stream = server.connected()
        gateway.wait_until_authenticated()
        file = gateway.folder / "gateway.toml"
        first = file.read_text()

        def reload(text: str) -> None:
            times = gateway.log().count(TOLD)
            file.write_text(text)
            os.kill(gateway.pid, signal.SIGHUP)
            gateway.wait_for_log(TOLD, times=times + 1)

        def delivered(body: str) -> Request:
            stream.send(f"<message from='a@localhost/x' to='b@{DOMAIN}' type='chat'><body>{body}</body></message>")
            stream.wait_for(lambda element: says(element, f"got {body}"), body)
            return webhook.requests[-1]

        def signed_by(body: str) -> list[bool]:
            request = delivered(body)
            return [fits(old, request), fits(new, request)]

        assert signed_by("before") == [True, False]
        both = first.replace('["old"]', '["old", "new"]')
        for content, words in (
            ("", "is empty, but must hold the secret in one line"),
            (new[:-5], "must be whole Base64 behind its prefix"),
            ("whsec_", "must hold 24 to 64 bytes behind whsec_"),
        ):
            (gateway.folder / "new").write_text(content)
            reload(both)
            line = gateway.warnings()[-1]
            assert "the settings stay as they were" in line and words in line and '"new"' in line, line
            assert signed_by("meanwhile") == [True, False]
        (gateway.folder / "new").write_text(f"{new}\n")
        reload(both)
        assert signed_by("both") == [True, True]
        reload(first.replace('["old"]', '["new"]'))
        assert signed_by("after") == [False, True]
        for secret in (old, new):
            assert secret.removeprefix("whsec_") not in gateway.log()
        gateway.stop()
