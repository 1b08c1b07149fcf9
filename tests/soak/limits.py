"""Limits that must hold whatever is in the file, whoever has it, and however the gateway ends: scenarios likewise."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

from tests.integration.waiting import eventually
from tests.soak.kept import rows
from tests.soak.plan import Plan, Sections, users
from tests.soak.report import Report
from tests.soak.rig import Rig, account

__all__ = ["LIMITS"]


def odd_rows(plan: Plan) -> Report:
    """F16"""
    report = Report("F16", "kill -9, and a row of a wrong type among the deliveries and the answers", plan.seed)
    with plan.rig(faults={"latency": 1.0}) as rig:
        rig.run(1.0, users(plan.pick(100, 50), 40))
        eventually(lambda: rows(rig.spool)["departures"] > 5, "answers in the file", detail=rig.gateway.log)
        rig.load.ask("read", on=False)
        rig.kill_gateway()
        with _writing(rig) as file:
            for table, column in (("deliveries", "deadline"), ("departures", "expires")):
                file.execute(f"UPDATE {table} SET {column} = 'odd' WHERE number = (SELECT max(number) FROM {table})")
            odd = file.execute("SELECT count(*) FROM deliveries WHERE deadline = 'odd'").fetchone()[0]
        rig.load.ask("read", on=True)
        rig.start_gateway()
        report.figures["settled after s"] = rig.settle_spool(30)
        with closing(sqlite3.connect(rig.spool)) as file:
            aside = dict(file.execute("SELECT source, count(*) FROM set_aside GROUP BY source").fetchall())
        lost = set(rig.webhook.ask("seen")) - set(map(str, rig.load.ask("ended")))
        books = rig.finish()
    report.figures["sent"], report.figures["answered"] = books.load["sent"], books.load["replied"]
    report.figures["set aside"] = aside
    report.check("the odd rows are set aside", aside == {"deliveries": odd, "departures": 1})
    report.check("all others are answered", len(lost) <= 2 and books.load["replied"] >= books.load["sent"] - 2)
    report.check("one error line each", books.log.count("#error") == len(aside))
    return report


def once(plan: Plan) -> Report:
    """F17"""
    times = plan.pick(6, 2)
    report = Report(
        "F17", f"100/s with max_attempts = 1, a webhook of 0.2 s; kill -9 and SIGTERM, {times} times each", plan.seed
    )
    sections: Sections = {"delivery": {"max_attempts": 1, "drain_timeout": 0.1}}
    with plan.rig(sections, faults={"latency": 0.2}) as rig:
        rig.start(3600.0, users(100, 40))
        for _ in range(times):
            for end in (rig.kill_gateway, lambda: rig.gateway.terminate(30.0)):
                time.sleep(1.0)
                end()
                rig.start_gateway()
        time.sleep(1.0)
        rig.load.ask("stop")
        report.figures["settled after s"] = rig.settle_spool(30)
        posts = rig.webhook.ask("seen")
        ended = set(map(str, rig.load.ask("ended")))
        letters = rows(rig.spool)["letters"]
        books = rig.finish()
    unanswered = set(posts) - ended
    report.figures.update(sent=books.load["sent"], answered=books.load["replied"], errors=books.load["bounced"])
    report.figures["dead letters"], report.figures["POSTed and not answered"] = letters, len(unanswered)
    report.check("at most one POST of each", max(posts.values()) == 1)
    report.check("an end came in the middle of POSTs", letters > 0)
    report.check("each that was POSTed is answered, told, or a dead letter", len(unanswered) <= letters)
    return report


def long_queue(plan: Plan) -> Report:
    """F18"""
    number = plan.pick(100_000, 5_000)
    report = Report("F18", f"a start with {number} deliveries in the file", plan.seed)
    with plan.rig({"delivery": {"max_pending": 200_000}}, faults={"latency": 0.02}) as rig:
        rig.webhook.ask("away", resetting=False)
        rig.run(0.5, users(20, 10))
        eventually(lambda: rows(rig.spool)["deliveries"] > 5, "deliveries in the file", detail=rig.gateway.log)
        rig.kill_gateway()
        with _writing(rig) as file:
            columns = [row[1] for row in file.execute("PRAGMA table_info(deliveries)")]
            made = {"number": "NULL", "id": "'x' || n", "sender": "'s' || (n % 1000) || '@load.localhost/r'"}
            values = ", ".join(made.get(column, column) for column in columns)
            file.execute(
                f"WITH RECURSIVE counter(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM counter WHERE n < {number})"
                f" INSERT INTO deliveries SELECT {values} FROM counter, (SELECT * FROM deliveries LIMIT 1)"
            )
        rig.webhook.ask("listen")
        rig.start_gateway(wait=False)
        since = rig.gateway.since
        first = min(eventually(lambda: rig.webhook.ask("requests_since", since=since), "the first POST", seconds=60.0))
        rig.gateway.wait_for_log("authenticated as", seconds=120.0)
        report.figures["authenticated after s"] = time.monotonic() - since
        report.figures["start to first POST s"] = first - since
        report.figures["peak MiB"] = rig.gateway.peak_kib() / 1024
        report.figures["lag ms"] = rig.gateway.status()["lag_ms"]
        rig.kill_gateway()
    report.check("start to first POST under 2 s", first - since < 2, timing=True)
    report.check("peak under 200 MiB", report.figures["peak MiB"] < 200)
    return report


def locked(plan: Plan) -> Report:
    """F19"""
    seconds = plan.pick(4.5, 1.5)
    rate = plan.pick(3000, 500)
    report = Report("F19", f"{rate}/s, while another program keeps the file for {seconds:g} s", plan.seed)
    with plan.rig(faults={"latency": 0.005}) as rig:
        rig.start(seconds + 2.0, users(rate, 400, patient=False))
        time.sleep(0.5)
        with _writing(rig):
            time.sleep(seconds)
        rig.wait_for_generator(60)
        report.figures["settled after s"] = rig.settle(60)
        books = rig.finish()
    account(report, books)
    report.check("peak under 128 MiB", books.peak_mib < 128)
    return report


@contextmanager
def _writing(rig: Rig) -> Iterator[sqlite3.Connection]:
    """Another program's connection, with the file to itself; what it writes is committed at the end."""
    with closing(sqlite3.connect(rig.spool, timeout=10.0, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield connection
        connection.execute("COMMIT")


def reloaded(plan: Plan) -> Report:
    """F20"""
    times = plan.pick(50, 12)
    report = Report("F20", f"100/s of 40 senders; {times} SIGHUPs, every tenth with a broken file", plan.seed)
    with plan.rig(faults={"latency": 0.05}) as rig:
        file = rig.gateway.folder / "gateway.toml"
        good = file.read_text()
        rig.start(times * 0.2 + 2.0, users(100, 40))
        for number in range(times):
            time.sleep(0.2)
            # Each makes a new client for the webhook, with connections of its own.
            text = good + f"\n[webhook]\nmax_connections = {8 + number % 3}\n"
            file.write_text(text + "nonsense = 1\n" if number % 10 == 9 else text)
            os.kill(rig.gateway.pid, signal.SIGHUP)
        rig.wait_for_generator(60)
        report.figures["settled after s"] = rig.settle(30)
        books = rig.finish()
    account(report, books)
    counted = {name: books.counters.get(name, 0) for name in ("reloaded", "reload_refused", "connected", "stream_lost")}
    report.figures.update(counted)
    report.check("everything answered", books.load["replied"] == books.load["sent"])
    report.check("each broken file is refused", counted["reload_refused"] == times // 10)
    # Two signals that come close together are one.
    report.check("the others are taken", 0 < counted["reloaded"] <= times - times // 10)
    report.check("one stream", (counted["connected"], counted["stream_lost"]) == (1, 0))
    return report


LIMITS: dict[str, Callable[[Plan], Report]] = {
    "F16": odd_rows,
    "F17": once,
    "F18": long_queue,
    "F19": locked,
    "F20": reloaded,
}
