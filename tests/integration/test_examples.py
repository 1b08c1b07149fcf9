"""
The bots of `examples/`, each in its own language, behind the real gateway.
"""

from __future__ import annotations

import base64
import hmac
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest
import requests

from component_http.signing import new_secret
from tests.integration.counterparts import need
from tests.integration.exchange import says
from tests.integration.probe import Peer, ScriptedServer
from tests.integration.processes import Bot, GatewayProcess
from tests.integration.servers import free_port

EXAMPLES = Path(__file__).parents[2] / "examples"


def start(language: str, port: int, environment: Mapping[str, str] | None = None) -> Bot:
    """Start a bot as the first line of its file says."""
    if language == "php":
        return Bot([need("php", "php-cli"), "-S", f"127.0.0.1:{port}", str(EXAMPLES / "echo.php")], port, environment)
    if language == "node":
        return Bot([need("node", "nodejs"), str(EXAMPLES / "echo_bot.mjs"), str(port)], port, environment)
    return Bot([sys.executable, str(EXAMPLES / "echo_bot.py"), str(port)], port, environment)


@pytest.fixture(scope="module", params=["php", "node", "python"])
def stream(request: pytest.FixtureRequest) -> Iterator[Peer]:
    """The stream of a gateway with that bot as its webhook."""
    with ExitStack() as stack:
        bot = stack.enter_context(start(request.param, free_port()))
        bot.wait_for_log(bot.url.rstrip("/"))
        server = stack.enter_context(ScriptedServer())
        gateway = stack.enter_context(
            GatewayProcess(domain="bot.localhost", server=server.endpoint, secret=server.secret, post_url=bot.url)
        )
        yield server.connected()
        gateway.assert_sound()
        assert gateway.warnings() == []
        assert "Warning" not in bot.log() and "rror:" not in bot.log(), bot.log()


@pytest.mark.parametrize("language", ["php", "node", "python"])
def test_only_signed_requests(language: str) -> None:
    """
    With the gateway's secret a bot answers what the gateway has signed, also while another secret takes its place, and
    nobody else.
    """
    secret, other = new_secret(), new_secret(asymmetric=True)
    with ExitStack() as stack:
        bot = stack.enter_context(start(language, free_port(), {"SIGNING_SECRET": secret}))
        bot.wait_for_log(bot.url.rstrip("/"))
        server = stack.enter_context(ScriptedServer())
        gateway = stack.enter_context(
            GatewayProcess(
                domain="bot.localhost",
                server=server.endpoint,
                secret=server.secret,
                post_url=bot.url,
                sections={"webhook": {"signing_secret_files": ["other", "signing"]}},
                secrets={"signing": secret, "other": other},
            )
        )
        stream = server.connected()
        stream.send("<message from='a@localhost/x' to='b@bot.localhost' type='chat'><body>h\u00e9llo</body></message>")
        stream.wait_for(lambda element: says(element, "You said: h\u00e9llo"), "the echo")
        for headers in (
            {},
            {"webhook-id": "1", "webhook-timestamp": str(int(time.time())), "webhook-signature": "v1,AAAA v1a,AAAA"},
            {"webhook-id": "1", "webhook-timestamp": "1", "webhook-signature": "v1,\u00e9".encode().decode("latin-1")},
        ):
            assert requests.post(bot.url, data=b'{"body": "hello"}', headers=headers, timeout=20).status_code == 401
        gateway.stop()


@pytest.mark.parametrize("language", ["php", "node", "python"])
def test_empty_secret(language: str) -> None:
    """
    A bot whose secret is there but empty, because a file's name was misspelled, say, answers nobody.
    """
    with start(language, free_port(), {"SIGNING_SECRET": ""}) as bot:
        bot.wait_for_log(bot.url.rstrip("/"))
        now = str(int(time.time()))
        signed = base64.b64encode(hmac.digest(b"", f'1.{now}.{{"body": "hello"}}'.encode(), "sha256")).decode()
        for headers in (
            {},
            {"webhook-id": "1", "webhook-timestamp": now, "webhook-signature": f"v1,{signed}"},
        ):
            assert requests.post(bot.url, data=b'{"body": "hello"}', headers=headers, timeout=20).status_code == 401


@pytest.mark.parametrize("words", ["hello", "<b>&amp;</b> \"quoted\" 'too'", "héllo 😀 你好", "two\nlines"])
def test_the_bot_says_it_back(stream: Peer, words: str) -> None:
    """
    What a person writes to the bot comes back, whatever the letters.
    """
    escaped = words.replace("&", "&amp;").replace("<", "&lt;")
    stream.send(
        "<message from='alice@localhost/phone' to='bot@bot.localhost' type='chat' id='1'>"
        f"<body>{escaped}</body></message>"
    )
    answer = stream.wait_for(lambda element: says(element, f"You said: {words}"), "the echo")
    assert (answer.get("from"), answer.get("to")) == ("bot@bot.localhost", "alice@localhost/phone")
    assert answer.get("type") == "chat"


def test_typing_is_not_answered(stream: Peer) -> None:
    """
    A notice that somebody is typing, which has no body, gets no reply from the bot.
    """
    sent = "<message from='a@localhost/x' to='bot@bot.localhost' type='chat' id='2'>{}</message>"
    stream.take()
    stream.send(sent.format("<composing xmlns='http://jabber.org/protocol/chatstates'/>"))
    stream.send(sent.format("<body>done</body>"))
    stream.wait_for(lambda element: says(element, "You said: done"), "the echo")
    assert len(stream.take()) == 1


def test_several_at_once_are_all_answered(stream: Peer) -> None:
    """
    Thirty people at once all get their own words back.
    """
    for number in range(30):
        stream.send(
            f"<message from='user{number}@localhost/x' to='bot@bot.localhost' type='chat' id='{number}'>"
            f"<body>I am {number}</body></message>"
        )
    for number in range(30):
        answer = stream.wait_for(lambda element, n=number: says(element, f"You said: I am {n}"), f"echo {number}")
        assert answer.get("to") == f"user{number}@localhost/x"
