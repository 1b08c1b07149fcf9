"""A real gateway whose webhook is down tells its operator why messages wait."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.integration.test_letters import DOMAIN, USER, Bench
from tests.integration.waiting import eventually


@pytest.fixture
def bench() -> Iterator[Bench]:
    with ExitStack() as stack:
        yield Bench(stack, max_attempts=100)


def test_webhook_down(bench: Bench) -> None:
    """
    `pending` names the failure, the next try and what each message waits for, and `spool status` since when; after the
    stop both say that no gateway runs.
    """
    bench.webhook.close()
    for text in ("first", "second"):
        bench.peer.send(
            f"<message from='{USER}' to='echo@{DOMAIN}' type='chat' id='{text}'><body>{text}</body></message>"
        )
    eventually(lambda: bench.status()["webhook_failing_since"], "the failure", detail=bench.first.log)

    # On a busy machine the gateway may not answer as soon as the command would have it.
    def explained() -> list[str]:
        lines: list[str] = bench.command("pending", "list").splitlines()
        return [] if "has not said why" in lines[-1] else lines

    listed = eventually(explained, "why they wait", detail=bench.first.log)
    assert re.fullmatch(
        r" {8}(it backs off before the next attempt; next try (in \d+ s|now)|its POST is under way)",
        listed[3],
    ), listed
    assert re.fullmatch("webhook failing since .*refused.*", listed[0]), listed
    assert listed[5] == "        it waits behind d1 of the same conversation"

    def shows() -> dict[str, object]:
        found: dict[str, object] = json.loads(bench.command("pending", "show", "d2", "--json"))
        return found if found["held_by"] else {}

    shown = eventually(shows, "why it waits", detail=bench.first.log)
    assert (shown["held_by"], shown["behind"], shown["last_failure"]) == ("conversation", "d1", None)
    [line] = [line for line in bench.command("spool", "status").splitlines() if line.startswith("webhook")]
    assert re.fullmatch(
        r"webhook     failing since \d\d:\d\d UTC \(\d+ (s|min)\): .*refused.*; POSTs go on",
        line,
    ), line
    bench.first.stop()
    assert "all of it: no gateway runs; it is tried at the next start" in bench.command("pending", "list")
    assert ", when a gateway ran last" in bench.command("spool", "status")
