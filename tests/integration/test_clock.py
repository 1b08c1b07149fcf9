"""
What somebody who sets the machine's clock does to `twistd component-http`: nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from attrs import frozen

from tests.integration.probe import Peer, ScriptedServer
from tests.integration.processes import Answer, GatewayProcess, Request, ScriptedWebhook, reply
from tests.integration.waiting import PATIENCE
from tests.integration.wall_clock import WallClock

DOMAIN = "bot.example.org"


@frozen
class Bench:
    """A gateway that takes another time for the time of day, between a server and a webhook."""

    clock: WallClock
    webhook: ScriptedWebhook
    gateway: GatewayProcess
    peer: Peer

    def say(self, text: str, sender: str = "alice") -> None:
        """Let a user say something."""
        self.peer.send(
            f"<message from='{sender}@example.org/x' to='bot@{DOMAIN}' type='chat' id='1'><body>{text}</body></message>"
        )


@pytest.fixture
def bench() -> Iterator[Bench]:
    with ExitStack() as stack:
        clock = stack.enter_context(WallClock())
        server = stack.enter_context(ScriptedServer())
        webhook = stack.enter_context(ScriptedWebhook())
        gateway = stack.enter_context(
            GatewayProcess(
                domain=DOMAIN,
                server=server.endpoint,
                secret=server.secret,
                post_url=webhook.url,
                sections={"delivery": {"max_attempts": 10}, "spool": {"kind": "memory"}},
                environment=clock.environment,
            )
        )
        peer = server.connected()
        gateway.wait_until_authenticated()
        yield Bench(clock, webhook, gateway, peer)


def test_forward(bench: Bench) -> None:
    """
    With the clock set an hour forward during a POST, neither its timeout nor the message's deadline has come.
    """
    release = threading.Event()

    def slow(request: Request) -> Answer:
        release.wait(PATIENCE)
        return reply(body=request.json["body"])

    bench.webhook.answer = slow
    bench.say("patience")
    bench.webhook.wait_for(1, settled=False)
    bench.clock.set(1)
    bench.say("hello", sender="bob")
    first, second = bench.webhook.wait_for(2, settled=False)
    release.set()
    bench.peer.wait(lambda: len(bench.peer.elements) >= 2, "two answers")
    assert [element.get("type") for element in bench.peer.elements] == ["chat", "chat"]
    assert len(bench.webhook.requests) == 2
    ahead = int(second.headers["webhook-timestamp"]) - int(first.headers["webhook-timestamp"])
    assert 3600 <= ahead < 3600 + PATIENCE, "the gateway did not see the clock that was set"
    bench.gateway.stop()


def test_back(bench: Bench) -> None:
    """
    With the clock set an hour back while an attempt waits to be made again, it is made in time.
    """

    def busy(request: Request) -> Answer:
        return Answer(status=503, content_type=None, headers={"Retry-After": "1"})

    bench.webhook.answer = busy
    bench.say("again")
    bench.gateway.wait_for_log("attempt 1 failed, the next in")
    bench.clock.set(-1)
    bench.webhook.answer = lambda request: reply(body="at last")
    bench.peer.wait_for(lambda element: element.get("type") == "chat", "the reply")
    bench.gateway.stop()


def test_answers_that_wait(tmp_path: Path) -> None:
    """
    With the clock set 25 hours forward nothing that waits for the server expires, also over a restart.
    """
    with ExitStack() as stack:
        clock = stack.enter_context(WallClock())
        server = stack.enter_context(ScriptedServer())
        webhook = stack.enter_context(ScriptedWebhook(lambda request: reply(body="hello")))

        def start() -> GatewayProcess:
            return stack.enter_context(
                GatewayProcess(
                    domain=DOMAIN,
                    server=server.endpoint,
                    secret=server.secret,
                    post_url=webhook.url,
                    sections={"spool": {"kind": "sqlite", "path": str(tmp_path / "spool")}},
                    environment=clock.environment,
                )
            )

        def answered(peer: Peer) -> None:
            peer.wait_for(lambda element: element.get("type") == "chat", "the answer")

        gateway = start()
        peer = server.connected(routes=False)
        peer.send(f"<message from='a@example.org/x' to='bot@{DOMAIN}' type='chat' id='1'><body>x</body></message>")
        answered(peer)
        clock.set(25)
        peer.close()
        peer = server.connected(PATIENCE, routes=False)
        answered(peer)
        time.sleep(2.5)  # the gateway looks at the clock once a second
        gateway.kill()
        peer.close()
        gateway = start()
        answered(server.connected(PATIENCE, routes=False))
        assert "outgoing_expired" not in gateway.log()
        gateway.stop()
