"""
A ledger of everything that was asked of a gateway at which everything is thrown at once.

Users, iqs and clients of the API go on all the time, while `tests.soak.chaos` does its worst. At the end each stanza
and each push is looked up in the books of all sides, and must have come to what is promised for it.
"""

from __future__ import annotations

import sqlite3
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping
from contextlib import ExitStack, closing
from random import Random
from typing import Any

import pytest
from attrs import define, field

from tests.integration.api_gateway import TOKEN
from tests.integration.processes import BUGS
from tests.integration.servers import free_port
from tests.soak.chaos import Chaos
from tests.soak.disk import SmallDisk
from tests.soak.load import ERROR, NOTHING, REPLY
from tests.soak.plan import Plan, Sections, users
from tests.soak.pushes import Pushers
from tests.soak.report import Report
from tests.soak.rig import Rig
from tests.soak.webhook import POISONED

__all__ = ["ledger"]

SERVER_LIMIT = 32_768
"""Bytes of a stanza over which the server closes the stream; replies to the senders `big` are larger."""

MAX_ATTEMPTS = 10

UNCERTAIN = 1.0
"""Seconds around a fault in which what was written may not have been read."""

UNTOLD = 10.0
"""Seconds around a refusal that was told, in which others of the same sender may be refused and not told."""


def ledger(plan: Plan) -> Report:
    """LEDGER"""
    seconds = plan.pick(200.0, 12.0)
    report = Report(
        "LEDGER", f"65 messages, 8 iqs and 8 pushes per second for {seconds:g} s, and everything goes wrong", plan.seed
    )
    port, iq_deadline = free_port(), plan.pick(25.0, 10.0)
    sections: Sections = {
        "component": {"component_post_stanzas": ["message", "iq"]},
        "webhook": {"timeout": plan.pick(6.0, 3.0)},
        "delivery": {
            "max_attempts": MAX_ATTEMPTS,
            "iq_deadline": iq_deadline,
            "drain_timeout": plan.pick(5.0, 1.0),
            "retry_cap": plan.pick(1.0, 0.5),
        },
        "api": {
            "listen": f"tcp:{port}:interface=127.0.0.1",
            "token": [{"name": "ops", "token_file": "ops-token", "rate": "10000/1s"}],
        },
    }
    with ExitStack() as stack:
        disk = None
        try:
            disk = stack.enter_context(SmallDisk(48))
        except pytest.skip.Exception:
            report.notes.append("the disk is never full: no small file system can be mounted here")
        rig = stack.enter_context(
            plan.rig(
                sections,
                faults={"latency": 0.02},
                disk=None if disk is None else disk.path,
                limit=SERVER_LIMIT,
                secrets={"ops-token": TOKEN},
            )
        )
        chaos = Chaos(rig, Random(plan.seed), plan.pick(1.0, 0.25), disk)
        pushers = Pushers(port, clients=4, rate=8.0)
        rig.start(
            3600.0,
            users(60, 60),
            users(2, 4, name="poison", user="poison"),
            users(2, 4, name="bad", user="bad"),
            users(plan.pick(0.1, 0.2), 2, name="big", user="big"),
            users(8, 8, name="iqs", user="q", kind="iq"),
        )
        chaos.run(seconds)
        rig.gateway.wait_for_log("authenticated as", seconds=90.0)
        time.sleep(1.0)
        rig.load.ask("stop")
        report.check("each push was taken, when all was well again", pushers.stop(60.0))
        report.figures["settled after s"] = rig.settle_spool(plan.pick(120, 40))
        _Ledger(report, rig, chaos, pushers, iq_deadline).check()
    return report


@define
class _Ledger:
    """The books of all sides, put side by side."""

    report: Report
    rig: Rig
    chaos: Chaos
    pushers: Pushers
    iq_deadline: float
    stanzas: dict[int, dict[str, Any]] = field(init=False)
    posted: dict[int, int] = field(init=False)
    letters: dict[int, str] = field(init=False)
    kept: frozenset[int] = field(init=False)

    def check(self) -> None:
        """Read the books, end the gateway, and enter what must hold."""
        load, webhook = self.rig.load, self.rig.webhook
        self.stanzas = {one["number"]: one for one in load.ask("ledger")}
        self.posted = {int(number): times for number, times in webhook.ask("seen").items()}
        with closing(sqlite3.connect(self.rig.spool, timeout=10.0)) as connection:
            rows = connection.execute("SELECT stanza_id, outcome FROM letters").fetchall()
            left = [connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in _TABLES]
        self.letters = {int(id[1:]): outcome for id, outcome in rows if id and id.startswith("L")}
        self.kept = frozenset().union(*(kept.deliveries for _, kept in self.chaos.found))
        answered_there = set(webhook.ask("answered"))
        pushes = load.ask("pushes")
        unexplained = load.ask("unexplained")
        in_vain = webhook.ask("answers_in_vain")
        failures = {int(number): times for number, times in webhook.ask("failures").items()}
        books = self.rig.finish()
        self._figures(books.load, books.webhook, pushes)

        self._holds("the spool is empty at the end", [] if not any(left) else [left])
        self._holds("every stanza ended, or was never accepted", self._lost())
        self._holds(
            "each answer of the webhook has arrived, or is a dead letter",
            [one for one in answered_there if not self._ended(one)],
        )
        self._holds("nothing POSTed again after its answer but around a kill or a cut", self._again(in_vain))
        again = set(unexplained) - self._kept_at_an_end()
        self._holds(
            "no answer twice but what may not have been confirmed", [self._story(number) for number in sorted(again)]
        )
        self._holds("requests in order", books.webhook.get("out_of_order", 0))
        self._holds("one stanza at a time in a conversation", books.webhook["most"]["in_a_conversation"] - 1)
        self._holds("the same bytes on each attempt", books.webhook.get("changed_bodies", 0))
        self._holds(
            "replies and pushes in order on each stream, repeats included",
            [f"{number} came after {last}" for number, last in books.load["disorder"] if not self._was_unkept(number)],
        )
        self._holds("iqs answered in time", self._late())
        self._poison(failures)
        self._holds("everybody else is answered", self._not_answered())
        arrived = {int(number): times for number, times in pushes["arrived"].items()}
        self._holds("each push that was taken has arrived", sorted(set(self.pushers.taken) - set(arrived)))
        pushed_again = set(pushes["unexplained"]) - {-1 - one for one in self._kept_at_an_end() if one < 0}
        self._holds("no push twice but what may not have been confirmed", sorted(pushed_again))
        self._holds("no status of the API without reason", Pushers.strange(self.pushers.told))
        self._holds("no stanza but answers and pushes", books.load["strange"])
        self._holds("the file sound at each end", [at for at, kept in self.chaos.found if not kept.sound])
        self._holds("no bug in the log", [match[0] for match in BUGS.finditer(books.log)])
        if self.report.missed():
            with tempfile.NamedTemporaryFile("w", prefix="ledger-", suffix=".log", delete=False) as file:
                file.write("\n".join([books.log, *map(str, self.chaos.done)]))
            self.report.notes.append(f"the log, and what was done: {file.name}")

    def _holds(self, what: str, violations: Any) -> None:
        """Enter something that must hold, and the first violations."""
        self.report.check(what, not violations)
        if violations:
            shown = violations[:10] if isinstance(violations, list) else violations
            number = len(violations) if isinstance(violations, list) else violations
            self.report.notes.append(f"{what}: {number}, such as {shown}")

    def _figures(self, load: Mapping[str, Any], webhook: Mapping[str, Any], pushes: Mapping[str, Any]) -> None:
        figures, groups = self.report.figures, load["groups"]
        figures["messages"] = sum(group["sent"] for group in groups.values() if group["kind"] == "message")
        figures["iqs"] = groups["iqs"]["sent"]
        figures["pushes"] = len(self.pushers.taken)
        figures["told to the pushers"] = dict(sorted(self.pushers.told.items()))
        figures["answered"], figures["errors"] = load["replied"], load["bounced"]
        figures["conditions"] = {name: dict(group["conditions"]) for name, group in groups.items()}
        figures["never accepted (in a lost connection, or refused)"] = sum(
            not self._ended(number) for number in self.stanzas
        )
        figures["dead letters"] = len(self.letters)
        figures["requests"] = webhook["requests"]
        figures["POSTed again after an answer"] = webhook.get("asked_again_after_200", 0)
        figures["answers twice"], figures["pushes twice"] = (
            load["duplicates"],
            sum(times - 1 for times in pushes["arrived"].values()),
        )
        figures["streams"], figures["refused by the server"] = load["connections"], load["refused"]
        figures["faults"] = self.chaos.kinds()

    def _ended(self, number: int) -> bool:
        return bool(self.stanzas[number]["fate"]) or number in self.letters

    def _kept_at_an_end(self) -> set[int]:
        """What a gateway that ended may have given away already."""
        return {number for _, kept in self.chaos.found for number in (*kept.deliveries, *kept.outbox)}

    def _story(self, number: int) -> str:
        """All that is known of a stanza."""
        one = self.stanzas[number]
        ends = [round(at - one["written"], 2) for at, kept in self.chaos.found if number in kept.deliveries]
        fate = ("no end", "a reply", "a result", f"an error {one['condition']}")[one["fate"]]
        return (
            f"{number} of {one['group']} on stream {one['stream']}, written at {one['written']:.2f}:"
            f" POSTed {self.posted.get(number, 0)} times,"
            f" {fate} after {one['ended'] - one['written']:.2f} s, kept at ends of a gateway after {ends} s,"
            f" dead letter: {self.letters.get(number)}"
        )

    def _lost(self) -> list[str]:
        """
        Stanzas that have no end, and that were accepted or should have been.

        What a lost connection held was never accepted; it can only be the last that was written on it. A sender who was
        told of one refusal is not told of others in the same moment, also where they came on another stream: what a
        file that is locked does not take is refused all at once.
        """
        last: dict[int, int] = defaultdict(lambda: -1)
        refusals: dict[int, list[float]] = defaultdict(list)
        for number, one in self.stanzas.items():
            if number in self.posted or number in self.kept or one["fate"] not in (NOTHING, ERROR):
                last[one["stream"]] = max(last[one["stream"]], number)
            if one["fate"] == ERROR and one["condition"] in _REFUSALS:
                refusals[one["conversation"]].append(one["written"])
        lost, untold = [], 0
        for number, one in self.stanzas.items():
            if self._ended(number):
                continue
            accepted = number in self.posted or number in self.kept
            told = refusals[one["conversation"]]
            if not accepted and any(abs(at - one["written"]) < UNTOLD for at in told):
                untold += 1
            elif accepted or number < last[one["stream"]]:
                lost.append(number)
        self.report.figures["refused, and not told again"] = untold
        return [self._story(number) for number in lost]

    def _was_unkept(self, number: int) -> bool:
        """
        The file could not take its answer, and the gateway ended before the server had it, so it is delivered again.

        Then its answer comes after those to later stanzas that the file could take.
        """
        busy = [fault.began for fault in self.chaos.done if fault.kind in _BUSY]
        ends = [at for at, kept in self.chaos.found if number in kept.deliveries]
        return any(end - 60.0 < began < end for end in ends for began in busy)

    def _again(self, in_vain: list[tuple[int, float]]) -> list[str]:
        """
        Requests that were made again after their answer, and need not have been.

        It is explained if a gateway ended later with the stanza not ended in its file, or if connections to the webhook
        were reset at the moment of the answer.
        """

        def is_explained(number: int, at: float) -> bool:
            if any(ended >= at and number in kept.deliveries for ended, kept in self.chaos.found):
                return True
            return any(abs(at - fault.began) < UNCERTAIN for fault in self.chaos.done if fault.kind in _RESETS)

        return [
            f"answered at {at:.2f}: {self._story(number)}" for number, at in in_vain if not is_explained(number, at)
        ]

    def _late(self) -> list[tuple[int, float]]:
        """Iqs whose answer took longer than allowed; where the gateway or the server was away, so much longer."""
        late = []
        for number, one in self.stanzas.items():
            if one["group"] == "iqs" and one["fate"]:
                took = one["ended"] - one["written"]
                away = sum(fault.overlap(one["written"], one["ended"]) for fault in self._away())
                if took > self.iq_deadline + away + 2.0:
                    late.append((number, took))
        return late

    def _away(self) -> list[Any]:
        return [fault for fault in self.chaos.done if fault.kind in _AWAY]

    def _poison(self, failures: Mapping[int, int]) -> None:
        """A stanza that always fails is given up, and those behind it come."""
        poisoned = {
            number for number, one in self.stanzas.items() if one["group"] == "poison" and not number % POISONED
        }
        ends = len(self.chaos.found)
        self._holds(
            "a poison message has its attempts and no more, but for those that a kill forgot",
            [number for number in poisoned if failures.get(number, 0) > MAX_ATTEMPTS + ends],
        )
        others = [number for number, one in self.stanzas.items() if one["group"] == "poison" and number not in poisoned]
        self._holds(
            "the good messages of their senders are answered",
            [number for number in others if number in self.posted and self.stanzas[number]["fate"] != REPLY],
        )

    def _not_answered(self) -> list[int]:
        """Messages of ordinary users that were POSTed, and got an error."""
        return [
            number
            for number, one in self.stanzas.items()
            if one["group"] == "users" and number in self.posted and one["fate"] != REPLY
        ]


_TABLES = ("deliveries", "departures")
_REFUSALS = ("resource-constraint", "service-unavailable", "policy-violation")
_RESETS = ("away", "resetting")
_BUSY = ("lock", "fill")
_AWAY = ("kill", "terminate", "cut", "close", "deaf", "stop", "lock", "fill")
