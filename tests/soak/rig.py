"""The three processes of a run, put together, and the books they keep put side by side."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from attrs import define, field, frozen

from tests.integration.closing import Closing
from tests.integration.processes import BUGS, Process, from_checkout, gateway_folder, twistd
from tests.integration.waiting import eventually
from tests.soak.control import Child
from tests.soak.doom import DOOM
from tests.soak.kept import rows
from tests.soak.report import Report

__all__ = ["DOMAIN", "ENDINGS", "SECRET", "Books", "Rig", "Sample", "account", "summary_of"]

DOMAIN = "bot.localhost"
SECRET = "bot's <secret> & more"

ENDINGS = ("replied", "silent", "bounced", "expired", "refused_reply")
"""The counters of the ways in which an accepted stanza can end."""

SILENT = ("silent", "refused_reply")
"""Those of them that a message's sender hears nothing of."""

RSS_INTERVAL = 0.2
"""Seconds between two looks at the gateway's memory."""


class SoakGateway(Process):
    """
    The gateway of a run.

    Args:
        sections: All settings.
        plugin: Run `twistd component-http` instead of `gateway.tac`: as an operator does; without lag meter and without
            counters before its end.
        environment: Added to its own.
        prefix: What its command begins with, to start it in another way.
        secrets: Files beside the settings.

    Attributes:
        since: When it was started, by this machine's monotonic clock.
    """

    def __init__(
        self,
        sections: Mapping[str, Mapping[str, object]],
        plugin: bool = False,
        environment: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
        secrets: Mapping[str, str] | None = None,
    ) -> None:
        application = str(Path(__file__).with_name("gateway.tac"))
        what = ["component-http", "--config", "gateway.toml"] if plugin else ["-y", application]
        self.since = time.monotonic()
        super().__init__(
            [*prefix, *twistd(), "-n", "--pidfile=", *what],
            gateway_folder(SECRET, sections, secrets),
            {**from_checkout(), **(environment or {})},
        )

    def status(self) -> dict[str, Any]:
        """What the lag meter wrote last."""
        try:
            status: dict[str, Any] = json.loads((self.folder / "status.json").read_text())
        except FileNotFoundError:
            return {"time": 0.0, "lag_ms": {}, "counters": {}}
        return status

    def cpu_seconds(self) -> float:
        """Processor time it took so far, in user and system mode."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100

    def descriptors(self) -> int:
        """Files and sockets that it has open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))


@frozen
class Sample:
    """
    One look at a gateway.

    Attributes:
        at: Seconds since the start of the run.
        mib: Memory it held.
        descriptors: Files and sockets that it had open.
        log_mib: The size of its spool's write-ahead log; 0 without one.
    """

    at: float
    mib: float
    descriptors: int
    log_mib: float


@define
class Books:
    """
    All accounts at the end of a run.

    Attributes:
        load: The load's report.
        webhook: The webhook's.
        counters: The gateway's own.
        lag_ms: The gateway's lag.
        samples: Looks at it, some each second.
        peak_mib: The most it held.
        log: All it logged, with what those before it logged that were killed.
    """

    load: dict[str, Any]
    webhook: dict[str, Any]
    counters: dict[str, int]
    lag_ms: dict[str, float]
    samples: list[Sample] = field(repr=False)
    peak_mib: float = 0.0
    log: str = field(default="", repr=False)

    def count(self, *names: str) -> int:
        """The sum of some of the gateway's counters."""
        return sum(self.counters.get(name, 0) for name in names)

    @property
    def untold(self) -> int:
        """Refused stanzas whose senders were not told, for they had been told of another within the second."""
        return self.count("refusals_untold")

    @property
    def lost(self) -> int:
        """
        What was sent and neither answered, bounced, refused nor ended without a word as the contract has it (`SILENT`);
        negative if something was answered and counted among these too.
        """
        unaccounted: int = self.load["outstanding"] - self.untold - self.count(*SILENT)
        return unaccounted

    @property
    def stray(self) -> int:
        """What the gateway accepted beyond what it says became of it; 0 if its own books are right."""
        return self.count("accepted", "restored") - self.count(*ENDINGS)

    def resident_mib(self, share: float) -> float:
        """Memory held when this share of the time had gone, the mean of some looks around that moment."""
        return self.mean(share, lambda sample: sample.mib)

    def mean(self, share: float, look: Callable[[Sample], float], around: int = 5) -> float:
        """Something of the samples when this share of the time had gone, the mean of so many before and after."""
        if not self.samples:
            return 0.0
        middle = min(len(self.samples) - 1, int(share * len(self.samples)))
        near = [look(sample) for sample in self.samples[max(0, middle - around) : middle + around + 1]]
        return sum(near) / len(near)

    def group(self, name: str) -> dict[str, Any]:
        """The load's report about one of its groups."""
        group: dict[str, Any] = self.load["groups"][name]
        return group


class Rig(Closing):
    """
    The gateway between a load and a webhook.

    Args:
        seed: For the webhook's faults.
        faults: How the webhook behaves at first (`tests.soak.webhook.Faults`).
        sections: More settings of the gateway.
        overrides: Settings that win over a scenario's own, to try something out.
        server: Component port of a real server with `load.localhost`; None to play the server.
        load_secret: What `load.localhost` has to know there.
        memory: Keep the spool in memory, and not on disk where it outlives the gateway (`kill` and `start_gateway`).
        disk: The folder of its file; None for that of the run.
        environment: Of the gateway, added to its own.
        prefix: What the gateway's command begins with.
        through: Gives the port that the gateway connects to, given the server's: for something between them.
        limit: Bytes of a stanza that the load, as a server, takes at most; 0 for any.
        secrets: Files beside the gateway's settings.

    Attributes:
        gateway: The one that was started last.
        gateways: All of them.
        spool: The spool's file.
    """

    def __init__(
        self,
        *,
        seed: int,
        faults: Mapping[str, Any] | None = None,
        sections: Mapping[str, Mapping[str, object]] | None = None,
        overrides: Mapping[str, Mapping[str, object]] | None = None,
        server: int | None = None,
        load_secret: str = "",
        memory: bool = False,
        disk: Path | None = None,
        environment: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
        through: Callable[[int], int] | None = None,
        limit: int = 0,
        secrets: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="component-http-soak-"))
        self._closing: list[Callable[[], None]] = [lambda: shutil.rmtree(self.folder, ignore_errors=True)]
        self._done = threading.Event()
        self._samples: list[Sample] = []
        self.peak_mib = 0.0
        self.spool = (disk or self.folder) / "spool.sqlite3"
        self.gateways: list[SoakGateway] = []
        self._environment = dict(environment or {})
        self._prefix = prefix
        self._secrets = secrets
        try:
            self.webhook = self._child("tests.soak.webhook", seed=seed, **(faults or {}))
            webhook_port = self.webhook.ask("listen")
            if server is None:
                self.load = self._child("tests.soak.load", domain=DOMAIN, secret=SECRET, limit=limit)
            else:
                self.load = self._child("tests.soak.load", domain=DOMAIN, secret=load_secret, port=server)
            port = self.load.ask("open")
            if through is not None:
                port = through(port)
            self._settings: dict[str, dict[str, object]] = {
                "component": {
                    "domain": DOMAIN,
                    "server": f"tcp:127.0.0.1:{port}",
                    "secret_file": "secret",
                    "component_post_url": f"http://127.0.0.1:{webhook_port}/",
                },
                "spool": {"kind": "memory"} if memory else {"kind": "sqlite", "path": str(self.spool)},
            }
            for given in (sections or {}, overrides or {}):
                for section, values in given.items():
                    self._settings.setdefault(section, {}).update(values)
            self.start_gateway()
            eventually(lambda: self.load.ask("state")["ready"], "the load's stream", detail=self.gateway.log)
        except BaseException:
            self.close()
            raise
        self._started = time.monotonic()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        self._closing.append(self._stop_watching)

    def _child(self, module: str, **arguments: Any) -> Child:
        child = Child(module, self.folder / "errors.log", **arguments)
        self._closing.append(child.close)
        return child

    def start_gateway(self, *, doom: str | None = None, wait: bool = True) -> None:
        """
        Start a gateway, on the same spool as the one before it.

        Args:
            doom: Where it is to kill itself (`tests.soak.doom`).
            wait: Until it has its stream.
        """
        order = {} if doom is None else {DOOM: doom}
        gateway = SoakGateway(
            self._settings,
            environment={**self._environment, **order},
            prefix=self._prefix,
            secrets=self._secrets,
        )
        self._closing.append(gateway.remove)
        self.gateway = gateway
        self.gateways.append(gateway)
        if wait:
            gateway.wait_for_log(f"authenticated as {DOMAIN}")

    def kill_gateway(self) -> None:
        """End it at once, as by kill -9."""
        self.peak_mib = max(self.peak_mib, self.gateway.peak_kib() / 1024)
        self.gateway.kill()

    def _sample(self) -> None:
        while not self._done.wait(RSS_INTERVAL):
            gateway = self.gateway
            log = Path(f"{self.spool}-wal")
            # It may have ended, or end while it is looked at.
            with suppress(OSError, AssertionError):
                self._samples.append(
                    Sample(
                        time.monotonic() - self._started,
                        gateway.resident_kib() / 1024,
                        gateway.descriptors(),
                        log.stat().st_size / 1048576 if log.exists() else 0.0,
                    )
                )
                self.peak_mib = max(self.peak_mib, gateway.peak_kib() / 1024)

    def _stop_watching(self) -> None:
        self._done.set()
        self._thread.join(5.0)

    def start(self, seconds: float, *groups: Mapping[str, Any]) -> None:
        """Begin to send."""
        self.load.ask("start", groups=groups, seconds=seconds)

    def run(self, seconds: float, *groups: Mapping[str, Any]) -> None:
        """Send for a time."""
        self.start(seconds, *groups)
        self.wait_for_generator(seconds + 30)

    def wait_for_generator(self, seconds: float) -> None:
        """Wait until all that is due was made."""
        eventually(lambda: not self.load.ask("state")["generating"], "the end of the load", seconds=seconds)

    def waiting(self) -> int:
        """How many stanzas were sent, or are about to be, and are not accounted for yet."""
        counters: dict[str, int] = self.gateway.status()["counters"]
        state: dict[str, int] = self.load.ask("state")
        accounted = sum(counters.get(name, 0) for name in ("refusals_untold", *SILENT))
        return state["outstanding"] + state["queued"] - accounted

    def settle(self, seconds: float) -> float:
        """
        Wait until everything sent is accounted for, or the time is over.

        Returns:
            How long that took.
        """
        since = time.monotonic()
        while time.monotonic() < since + seconds:
            state = self.load.ask("state")
            if not state["generating"] and self.waiting() <= 0:
                time.sleep(0.3)  # for what must not come: second answers
                return time.monotonic() - since
            time.sleep(0.1)
        return time.monotonic() - since

    def settle_spool(self, seconds: float) -> float:
        """
        Wait until nothing is sent and the spool keeps nothing any more, or the time is over.

        Returns:
            How long that took.
        """
        since = time.monotonic()
        while time.monotonic() < since + seconds:
            state, kept = self.load.ask("state"), rows(self.spool)
            if not (state["generating"] or state["queued"] or kept["deliveries"] or kept["departures"]):
                time.sleep(0.3)  # for what must not come: second answers
                break
            time.sleep(0.1)
        return time.monotonic() - since

    def watch(self, seconds: float) -> list[dict[str, Any]]:
        """
        Let time pass.

        Returns:
            The gateway's status about twice a second.
        """
        seen = []
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(min(0.5, max(0.0, until - time.monotonic())))
            seen.append(self.gateway.status())
        return seen

    def finish(self, *, stop: bool = True) -> Books:
        """
        Stop the gateway, if it was not stopped before, and close the books.
        """
        if stop and self.gateway.running:
            self.peak_mib = max(self.peak_mib, self.gateway.peak_kib() / 1024)
            self.gateway.terminate(60.0)
        status = self.gateway.status()
        log = "".join(gateway.log() for gateway in self.gateways)
        return Books(
            load=self.load.ask("report"),
            webhook=self.webhook.ask("report"),
            counters=status["counters"] or summary_of(log),
            lag_ms=status["lag_ms"],
            samples=self._samples,
            peak_mib=self.peak_mib,
            log=log,
        )

    def close(self) -> None:
        """End all three."""
        while self._closing:
            self._closing.pop()()


def summary_of(log: str) -> dict[str, int]:
    """The counters in the line with which the gateway ends."""
    found = re.findall(r"stopped; in all: (.*)", log)
    return {name: int(number) for name, number in re.findall(r"(\w+) (\d+)", found[-1])} if found else {}


def account(
    report: Report, books: Books, *, groups: Sequence[str] = (), retried: bool = True, connections: int = 32
) -> None:
    """
    Enter what every run has to show: nothing lost, nothing twice, nothing out of order, and the books agree.

    Args:
        report: Where to.
        books: At the end of the run.
        groups: Whose latencies to show; all if there are none.
        connections: At most so many to the webhook.
        retried: The webhook must never be asked again what it has answered.
    """
    load, webhook = books.load, books.webhook
    report.figures.update(
        sent=load["sent"],
        answered=load["replied"],
        bounced=load["bounced"],
        untold=books.untold,
        **{"ended in silence": books.count(*SILENT)},
        lost=books.lost,
        duplicates=load["duplicates"],
        **{"out of order": load["out_of_order"]},
        requests=webhook.get("requests", 0),
        **{"connections at once": webhook["most"].get("connections", 0)},
        **{"peak MiB": round(books.peak_mib, 1)},
    )
    if load["held"]:
        report.figures["not sent for want of reading"] = load["held"]
    conditions: dict[str, int] = {}
    for name, group in load["groups"].items():
        for condition, count in group["conditions"].items():
            conditions[condition] = conditions.get(condition, 0) + count
        if (not groups or name in groups) and group["p50"] is not None:
            label = f" of {name}" if len(load["groups"]) > 1 else ""
            report.figures[f"p50/p99/max s{label}"] = f"{group['p50']:.3f}/{group['p99']:.3f}/{group['longest']:.3f}"
    if conditions:
        report.figures["errors"] = conditions
    if books.lag_ms:
        lag = books.lag_ms
        report.figures["lag ms p50/p99/p99.9/max"] = f"{lag['p50']}/{lag['p99']}/{lag['p999']}/{lag['max']}"
        report.check("F15: p99.9 of the reactor's lag under 100 ms", lag["p999"] < 100, timing=True)
    report.check("nothing lost", books.lost == 0)
    report.check("no answer twice", load["duplicates"] == 0)
    report.check("replies in order", load["out_of_order"] == 0)
    report.check("requests in order", webhook.get("out_of_order", 0) == 0)
    report.check("one stanza at a time in a conversation", webhook["most"].get("in_a_conversation", 0) <= 1)
    report.check("the same bytes on each attempt", webhook.get("changed_bodies", 0) == 0)
    report.check("no attempt numbers backwards", webhook.get("attempts_backwards", 0) == 0)
    report.check("no stanza but answers", not load["strange"])
    report.check(f"at most {connections} connections", webhook["most"].get("connections", 0) <= connections)
    report.check("every accepted stanza ended once, by the gateway's own counters", books.stray == 0)
    if retried:
        report.check("an answered request is not made again", webhook.get("asked_again_after_200", 0) == 0)
    for name, group in load["groups"].items():
        if group["kind"] == "iq":
            report.check(f"every iq of {name} answered", group["unanswered"] == 0)
    bug = BUGS.search(books.log)
    report.check("no bug in the log", bug is None)
    if bug is not None:
        report.notes.append(books.log[max(0, bug.start() - 200) : bug.start() + 1500])
    if books.stray:
        report.notes.append(f"the gateway's counters: {books.counters}")
    if webhook["overlaps"]:
        report.figures["attempts at once in a conversation"] = webhook["most"]["attempts_at_once"]
        report.notes.append(f"at once in a conversation: {webhook['overlaps']}")
    if load["strange"]:
        report.notes.append(f"strange: {load['strange']}")
