"""The log of deliveries of a real gateway process: looked at, followed, and replayed by other processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from io import StringIO
from typing import Any

import pytest

from component_http.cli import main
from tests.integration.processes import Answer
from tests.integration.test_doors import environment
from tests.integration.test_letters import COMMAND, DOMAIN, USER, Bench, echo, said
from tests.integration.waiting import eventually


@pytest.fixture
def bench() -> Iterator[Bench]:
    with ExitStack() as stack:
        yield Bench(stack, {"keep_ended": "bodies"}, max_attempts=3)


def write(bench: Bench, stanza_id: str, text: str) -> None:
    bench.peer.send(
        f"<message from='{USER}' to='echo@{DOMAIN}' type='chat' id='{stanza_id}'><body>{text}</body></message>"
    )


def listed(bench: Bench, *filters: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(bench.command("deliveries", "list", "--json", "--limit", "0", *filters))
    return found


def test_life_and_replays(bench: Bench) -> None:
    """
    The log tells the whole life of a delivery, also after a kill -9; a replay has the same id and a new signature, is
    recorded, and sends its answer only if that is asked for.
    """
    hostile = "\x1b[31mred\x1b[0m\nit ended: replied"
    answers = [Answer(status=503, content_type="text/plain", body=hostile)]
    bench.webhook.answer = lambda request: answers.pop() if answers else echo(request)
    follower = subprocess.Popen(
        [*COMMAND, "deliveries", "tail", "--json", "--spool", str(bench.path)],
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        bench.command("deliveries", "list", status=1)
        write(bench, "m1", "hello")
        said(bench.peer, "hello")
        first, _ = bench.webhook.wait_for(2)
        assert follower.stdout is not None
        assert json.loads(follower.stdout.readline())["id"] == first.headers["webhook-id"]
    finally:
        follower.send_signal(signal.SIGINT)
        assert follower.wait(20) == 0
        assert follower.stdout is not None
        follower.stdout.close()
    delivery_id = first.headers["webhook-id"]

    def confirmed() -> bool:
        [life] = json.loads(bench.command("deliveries", "show", delivery_id[:14], "--json"))
        return bool(life["stanzas"][0]["fate"] == "confirmed")

    eventually(confirmed, "the confirmation", detail=bench.first.log)
    [life] = json.loads(bench.command("deliveries", "show", delivery_id, "--json"))
    assert (life["outcome"], life["tries"], life["from"], life["request"]) == ("replied", 2, USER, first.json)
    failed, answered = life["attempts"]
    assert (failed["status"], failed["answer"], failed["follows"]) == (503, hostile, "retry")
    assert failed["connecting_milliseconds"] > 0 and failed["again_seconds"] > 0
    assert answered["connecting_milliseconds"] is None and answered["first_byte_milliseconds"] > 0
    shown = bench.command("deliveries", "show", delivery_id).split("\nrequest,")[0]
    assert "\x1b" not in shown and len(shown.splitlines()) == 6, shown

    os.kill(bench.first.pid, signal.SIGKILL)
    bench.first.wait()
    status, _, complaint = replayed(bench, delivery_id)
    assert (status, "no gateway has this spool now" in complaint) == (1, True)
    gateway, bench.peer = bench.running(str(bench.path))
    assert [each["id"] for each in listed(bench)] == [delivery_id]

    bench.webhook.take()
    write(bench, "m2", "second")
    said(bench.peer, "second")
    bench.webhook.take()
    status, _, complaint = replayed(bench, "--from", USER, "--since", "1h", "--json")
    assert status == 0, complaint
    again, other = bench.webhook.wait_for(2)
    assert (again.headers["webhook-id"], again.body, again.json["id"]) == (delivery_id, first.body, "m1")
    assert other.json["id"] == "m2"
    status, _, complaint = replayed(bench, delivery_id, "--send")
    assert status == 0, complaint
    said(bench.peer, "hello")
    assert [(each["id"] == delivery_id, each["replay"]) for each in listed(bench)] == [
        (True, False),
        (False, False),
        (True, True),
        (False, True),
        (True, True),
    ]

    bench.webhook.answer = lambda request: Answer(status=410, content_type="text/plain", body="gone")
    status, gone, _ = replayed(bench, delivery_id)
    assert (status, "status 410" in gone) == (1, True), gone
    assert bench.status()["webhook"] == "closed"
    bench.webhook.close()
    status, down, _ = replayed(bench, delivery_id)
    assert (status, "failed: " in down) == (1, True), down
    gateway.assert_sound()


def replayed(bench: Bench, *arguments: str) -> tuple[int, str, str]:
    """Replay deliveries from this process; the exit status, and what was printed."""
    printed, complaints = StringIO(), StringIO()
    with redirect_stdout(printed), redirect_stderr(complaints):
        status = main(["deliveries", "replay", *arguments, "--spool", str(bench.path)])
    return status, printed.getvalue(), complaints.getvalue()
