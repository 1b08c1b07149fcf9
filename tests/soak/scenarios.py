"""
What can go wrong, one function each: in full for `make soak`, or for some seconds as a test.

Their docstrings are their names on the command line and in the table.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from typing import Any

from tests.integration.probe import Peer, ScriptedServer
from tests.integration.servers import Prosody
from tests.integration.waiting import eventually
from tests.soak.durable import DURABLE
from tests.soak.ledger import ledger
from tests.soak.limits import LIMITS
from tests.soak.plan import Plan, Sections, users
from tests.soak.report import Report
from tests.soak.rig import DOMAIN, ENDINGS, SECRET, Books, Rig, SoakGateway, account, summary_of
from tests.soak.webhook import EVIL

__all__ = ["SCENARIOS"]


def calm(plan: Plan) -> Report:
    """F1"""
    seconds = plan.pick(120.0, 1.5)
    report = Report("F1", f"300/s of 200 senders for {seconds:g} s, a webhook that takes 20 ms, no fault", plan.seed)
    with plan.rig(faults={"latency": 0.02}) as rig:
        rig.run(seconds, users(300, 200))
        rig.settle(20)
        books = rig.finish()
    _calm_books(report, books)
    return report


def calm_in_memory(plan: Plan) -> Report:
    """F1M"""
    seconds = plan.pick(60.0, 1.5)
    report = Report("F1M", f"the same for {seconds:g} s with a spool in memory", plan.seed)
    with plan.rig(faults={"latency": 0.02}, memory=True) as rig:
        rig.run(seconds, users(300, 200))
        rig.settle(20)
        books = rig.finish()
    _calm_books(report, books)
    return report


def calm_through_prosody(plan: Plan) -> Report:
    """F1P"""
    seconds = plan.pick(60.0, 1.5)
    report = Report("F1P", f"the same for {seconds:g} s through a real Prosody", plan.seed)
    secrets = {DOMAIN: SECRET, "load.localhost": "secret of the load"}
    with (
        Prosody(secrets) as prosody,
        plan.rig(faults={"latency": 0.02}, server=prosody.component_port, load_secret=secrets["load.localhost"]) as rig,
    ):
        rig.run(seconds, users(300, 200))
        rig.settle(20)
        books = rig.finish()
    _calm_books(report, books)
    return report


def _calm_books(report: Report, books: Books) -> None:
    account(report, books)
    warm, last = books.resident_mib(0.25), books.resident_mib(0.97)
    report.figures["MiB warm/end"] = f"{warm:.1f}/{last:.1f}"
    report.check("everything answered, nothing bounced", books.load["replied"] == books.load["sent"])
    report.check("one request for each stanza", books.webhook["requests"] == books.load["sent"])
    report.check("memory flat after warm-up (5 MiB)", last - warm < 5, timing=True)
    report.check("p99 under 1 s", (books.group("users")["p99"] or 0) < 1, timing=True)


def failing(plan: Plan) -> Report:
    """F2"""
    seconds = plan.pick(120.0, 3.0)
    rate = plan.pick(300, 150)
    report = Report(
        "F2",
        f"{rate}/s of 200 senders for {seconds:g} s; 10 % get a 503, 5 % a reset, 5 % 3 s of silence (timeout 1 s)",
        plan.seed,
    )
    faults = {"latency": 0.02, "busy": 0.1, "reset": 0.05, "stall": 0.05, "stall_seconds": 3.0}
    sections: Sections = {"webhook": {"timeout": 1.0}}
    if plan.short:
        sections["delivery"] = {"retry_cap": 0.5}
    with plan.rig(sections, faults=faults) as rig:
        rig.run(seconds, users(rate, 200))
        report.figures["settled after s"] = rig.settle(plan.pick(120, 20))
        books = rig.finish()
    account(report, books)
    sent, requests = books.load["sent"], books.webhook["requests"]
    report.figures["requests per stanza"] = requests / sent
    report.figures["by attempt"] = books.webhook["by_attempt"]
    _show_breaker(report, books)
    report.check("everything answered, nothing bounced", books.load["replied"] == sent)
    # One in five fails, so there are 1.25 tries on average; chance may make them a few more.
    allowed = 1.25 * 1.05 * sent + 50
    report.check(f"at most 1.25 requests per stanza, and 5 % by chance ({allowed:.0f})", requests <= allowed)
    return report


def gone(plan: Plan) -> Report:
    """F3"""
    rate = plan.pick(200, 100)
    away = plan.pick(30.0, 2.2)
    report = Report(
        "F3", f"{rate}/s; the webhook is gone for {2 * away:g} s: connections refused, then reset at once", plan.seed
    )
    with plan.rig(faults={"latency": 0.02}) as rig:
        rig.start(plan.pick(140.0, 5.0), users(rate, 200))
        time.sleep(plan.pick(20.0, 0.5))
        rig.webhook.ask("away", resetting=False)
        opened_within = plan.pick(5.0, 1.0)
        statuses = rig.watch(away)
        settled = [status for status in statuses if status["time"] >= statuses[0]["time"] + opened_within]
        refused = settled[-1]["counters"].get("attempted", 0) - settled[0]["counters"].get("attempted", 0)
        span = settled[-1]["time"] - settled[0]["time"]
        rig.webhook.ask("away", resetting=True)
        rig.webhook.ask("listen")
        rig.webhook.ask("away", resetting=True)
        since = rig.webhook.ask("report")["time"]
        rig.watch(away)
        probes = rig.webhook.ask("connections_since", since=since)
        backlog = rig.waiting()
        rig.webhook.ask("listen")
        back = time.monotonic()
        drained = None
        while time.monotonic() < back + plan.pick(60.0, 20.0):
            if rig.waiting() <= rate:
                drained = time.monotonic() - back
                break
            time.sleep(0.1)
        # Only refused ones can stay behind now.
        rig.wait_for_generator(120)
        rig.settle(plan.pick(60, 20))
        books = rig.finish()
    account(report, books)
    gaps = [round(after - before, 2) for before, after in pairwise(probes)]
    report.figures["attempts while refused"] = f"{refused} in {span:.1f} s"
    report.figures["connections while reset"] = f"{len(probes)} in {away:g} s"
    report.figures["shortest time between two probes s"] = min(gaps, default=None)
    report.figures["waiting at the return"] = backlog
    report.figures["drained after s"] = drained
    _show_breaker(report, books)
    report.check("at most one attempt per 2 s while refused", refused <= span / 2 + 1)
    report.check("at most one probe per 2 s while reset", len(probes) <= away / 2 + 1)
    report.check("drained within 60 s", drained is not None and drained < 60)
    return report


def _show_breaker(report: Report, books: Books) -> None:
    about = {name: number for name, number in sorted(books.counters.items()) if "breaker" in name or "probe" in name}
    about.update({name: books.counters[name] for name in ("reading_paused", "expired") if name in books.counters})
    if about:
        report.figures["gateway's counters"] = about


def flood(plan: Plan) -> Report:
    """F6"""
    seconds = plan.pick(60.0, 3.0)
    report = Report(
        "F6", f"one sender of 2000/s beside 50 calm ones of 1/s each for {seconds:g} s, a webhook of 20 ms", plan.seed
    )
    sections: Sections = {"delivery": {"max_per_conversation": 50}} if plan.short else {}
    with plan.rig(sections, faults={"latency": 0.02}) as rig:
        rig.run(
            seconds,
            {"name": "calm", "rate": 50, "senders": 50, "user": "calm"},
            {"name": "flood", "rate": 2000, "user": "flood", "patient": False},
        )
        report.figures["settled after s"] = rig.settle(60)
        books = rig.finish()
    account(report, books, groups=["calm"])
    gentle, rude = books.group("calm"), books.group("flood")
    report.figures["calm"] = f"{gentle['replied']} of {gentle['sent']} answered"
    report.figures["flood"] = (
        f"{rude['replied']} answered, {rude['bounced']} told, {rude['unanswered']} untold, {rude['held']} not sent"
    )
    _show_breaker(report, books)
    report.check("no calm sender refused", gentle["replied"] == gentle["sent"])
    report.check("p99 of the calm under 1 s", (gentle["p99"] or 9) < 1, timing=True)
    return report


def overload(plan: Plan) -> Report:
    """F7"""
    seconds = plan.pick(60.0, 1.0)
    report = Report("F7", f"5000/s for {seconds:g} s, a webhook of 20 ms; iqs among them", plan.seed)
    sections: Sections = {"component": {"component_post_stanzas": ["message", "iq"]}}
    if plan.short:
        sections["delivery"] = {"max_pending": 200}
    with plan.rig(sections, faults={"latency": 0.02}) as rig:
        best = 0.0
        if not plan.short:
            rate = _capacity(rig)
            cpu = rig.gateway.cpu_seconds()
            rig.run(10.0, users(rate, 200, name="at capacity"))
            best = _replies_per_second(rig, 8.0)
            rig.settle(20)
            answered = rig.load.ask("report")["groups"]["at capacity"]["replied"]
            report.figures["goodput at capacity"] = best
            report.figures["CPU s per 1000 there"] = 1000 * (rig.gateway.cpu_seconds() - cpu) / answered
        cpu, answered = rig.gateway.cpu_seconds(), rig.load.ask("state")["replied"]
        rig.run(
            seconds,
            users(4950, 200, patient=False),
            {"name": "iqs", "rate": 50, "senders": 50, "kind": "iq", "user": "q", "patient": False},
        )
        goodput = _replies_per_second(rig, seconds - 5)
        report.figures["settled after s"] = rig.settle(plan.pick(60, 20))
        answered = rig.load.ask("state")["replied"] - answered
        report.figures["CPU s per 1000 answered"] = 1000 * (rig.gateway.cpu_seconds() - cpu) / answered
        books = rig.finish()
    account(report, books, groups=["users", "iqs"])
    _show_breaker(report, books)
    report.check("peak under 256 MiB", books.peak_mib < 256, timing=True)
    if not plan.short:
        report.figures["goodput under overload"] = goodput
        report.check("goodput at least 80 % of that at capacity", goodput >= 0.8 * best, timing=True)
    return report


def _replies_per_second(rig: Rig, seconds: float) -> float:
    """The mean over the last seconds but the one under way."""
    now = int(time.monotonic())
    by_second: dict[str, int] = rig.load.ask("replies_at")
    return sum(by_second.get(str(second), 0) for second in range(now - int(seconds), now)) / max(1, int(seconds))


def _capacity(rig: Rig) -> float:
    """Raise the load until it is too much; returns the last that was not, in stanzas per second."""
    rate, best, step = 200.0, 0.0, 3.0
    while rate < 5000:
        name = f"at {rate:.0f}/s"
        rig.run(step, users(rate, 200, name=name))
        rig.settle(20)
        group = rig.load.ask("report")["groups"][name]
        if (group["p99"] or 9) > 0.5 or group["replied"] < group["sent"]:
            break
        best = rate
        rate *= 1.15
    return best


def closing(plan: Plan) -> Report:
    """F9"""
    seconds, rate = plan.pick((15.0, 50), (0.9, 100))
    counts = plan.pick((1, 2, 3, 4, 5), (1, 2, 5))
    report = Report(
        "F9",
        f"{rate}/s in bursts of 20 from 5 senders, {seconds:g} s each;"
        f" the webhook closes each connection after {', '.join(map(str, counts))} answers, or 1 ms after one",
        plan.seed,
    )
    manners: list[dict[str, Any]] = [{"close_every": every} for every in counts]
    manners.append({"close_after": 0.001})
    with plan.rig() as rig:
        for manner in manners:
            rig.webhook.ask("fault", latency=0.002, **manner)
            name = " ".join(f"{key}={value}" for key, value in manner.items())
            rig.run(seconds, users(rate, 5, name=name, burst=20))
            rig.settle(20)
        books = rig.finish()
    account(report, books)
    report.figures["requests per stanza at the webhook"] = books.webhook["by_requests"]
    report.figures["attempts by the gateway"] = books.count("attempted")
    report.check("no error reaches a user", books.load["replied"] == books.load["sent"])
    report.check("at most one extra request for each", all(int(count) <= 2 for count in books.webhook["by_requests"]))
    report.check("at most one extra attempt for each", books.count("attempted") <= 2 * books.load["sent"])
    return report


def evil_answers(plan: Plan) -> Report:
    """F10"""
    seconds, rate, timeout = plan.pick((60.0, 1, 2.0), (2.0, 5, 1.0))
    report = Report(
        "F10", f"19/s for {seconds:g} s, beside {rate}/s to answers without end; timeout {timeout:g} s", plan.seed
    )
    sections: Sections = {
        "webhook": {"timeout": 2.0},
        "delivery": {"max_attempts": 2, "message_deadline": 20.0, "retry_cap": 0.5},
    }
    with plan.rig(sections, faults={"latency": 0.005}) as rig:
        rig.run(plan.pick(5.0, 0.5), users(19, 19, name="before"))
        before = rig.gateway.resident_kib() / 1024
        rig.run(
            seconds,
            users(19, 19),
            {"name": "evil", "rate": rate, "senders": 2 * len(EVIL), "user": "evil"},
        )
        report.figures["settled after s"] = rig.settle(30)
        books = rig.finish()
    account(report, books, groups=["users", "evil"])
    others, evil = books.group("users"), books.webhook["evil"]
    growth = books.peak_mib - before
    report.figures["MiB more"] = growth
    report.figures["evil answers and the longest s"] = {
        kind: f"{one['count']}, {one['longest']}" for kind, one in evil.items()
    }
    report.figures["evil senders told"] = books.group("evil")["conditions"]
    _show_breaker(report, books)
    report.check("all five kinds met", set(evil) == set(EVIL))
    report.check("others unaffected: all answered", others["replied"] == others["sent"])
    report.check("p99 of the others under 1 s", (others["p99"] or 9) < 1, timing=True)
    report.check(
        "each over at its deadline", all(one["longest"] < timeout + plan.pick(0.5, 5.0) for one in evil.values())
    )
    report.check("20 MiB more at most", growth < 20, timing=True)
    return report


def stopping(plan: Plan) -> Report:
    """F11"""
    drain = plan.pick(20.0, 3.0)
    report = Report("F11", f"100/s; SIGTERM in the midst of it; drain_timeout {drain:g} s", plan.seed)
    sections: Sections = {"delivery": {"drain_timeout": drain}}
    with plan.rig(sections, faults={"latency": 0.3}) as rig:
        rig.start(plan.pick(20.0, 4.0), users(100, 20))
        time.sleep(plan.pick(10.0, 2.0))
        _stop_books(report, rig, _signal(rig, 1), drain + 2)
    return report


def stopping_at_once(plan: Plan) -> Report:
    """F11B"""
    report = Report("F11B", "100/s; a webhook that hangs; SIGTERM, and again after 1 s; a spool in memory", plan.seed)
    with plan.rig({"delivery": {"drain_timeout": 20.0}}, faults={"latency": 30.0}, memory=True) as rig:
        rig.start(plan.pick(10.0, 4.0), users(100, 20))
        time.sleep(plan.pick(5.0, 2.0))
        _stop_books(report, rig, _signal(rig, 2), 1 + 4)
    return report


def _signal(rig: Rig, times: int) -> float:
    """Send SIGTERM so many times, a second apart; returns how long it took to end after the first, at most 60 s."""
    since = time.monotonic()
    for turn in range(times):
        if turn:
            time.sleep(1.0)
        with suppress(ProcessLookupError):
            os.kill(rig.gateway.pid, signal.SIGTERM)
    rig.gateway.wait(60.0)
    return time.monotonic() - since


def _stop_books(report: Report, rig: Rig, took: float, allowed: float) -> None:
    """Enter what a stop has to show. What was sent and not accepted is the server's to answer, so it is not asked."""
    time.sleep(0.5)
    rig.load.ask("stop")
    books = rig.finish(stop=False)
    load, counters = books.load, summary_of(books.log)
    account(report, books)
    report.checks = [one for one in report.checks if one.what != "nothing lost"]
    answered_there, ended_here = set(rig.webhook.ask("answered")), set(rig.load.ask("ended"))
    refused = sum(
        number for name, number in counters.items() if name.startswith("refused_") and name != "refused_reply"
    )
    # What comes between our closing tag and the server's is refused, but can be told to nobody any more.
    late = counters.get("outgoing_lost", 0)
    told = counters.get("bounced", 0) + counters.get("expired", 0) + refused - books.untold - late
    report.figures["ended after s"] = took
    report.figures["refused after our closing tag"] = late
    report.figures["accepted"] = counters.get("accepted", 0)
    report.figures["ends"] = {name: counters[name] for name in ENDINGS if name in counters}
    report.figures["answered by the webhook, not to the sender"] = len(answered_there - ended_here)
    del report.figures["lost"]
    report.check("the log says how it ended", counters)
    report.check(
        "nothing lost: each 200 of the webhook reached its sender, or an error did", answered_there <= ended_here
    )
    report.check("as many replies as the gateway counted", load["replied"] == counters.get("replied", 0))
    report.check(f"as many errors as the gateway counted ({told})", load["bounced"] == told)
    report.check(f"over within {allowed:g} s", took < allowed, timing=allowed < 10)


def cut(plan: Plan, *, polite: bool = True) -> Report:
    """F11C"""
    how = "closes the stream" if polite else "drops the connection"
    times, away = plan.pick((4, 2.0), (1, 0.5))
    report = Report(
        "F11C" if polite else "F11D", f"100/s; the server {how} and is back {away:g} s later, {times} times", plan.seed
    )
    with plan.rig(faults={"latency": 0.1}) as rig:
        rig.start(plan.pick(40.0, 2.5), users(100, 20))
        for _ in range(times):
            eventually(lambda: rig.load.ask("state")["ready"], "the next stream", seconds=70, detail=rig.gateway.log)
            time.sleep(plan.pick(5.0, 1.0))
            rig.load.ask("cut", polite=polite)
            time.sleep(away)
            rig.load.ask("open")
        rig.wait_for_generator(60)
        rig.settle(70)
        answered_there, ended_here = set(rig.webhook.ask("answered")), set(rig.load.ask("ended"))
        books = rig.finish()
    account(report, books)
    report.figures["answered by the webhook, not to the sender"] = len(answered_there - ended_here)
    report.figures["streams"] = books.load["connections"]
    _show_breaker(report, books)
    # What was written since the last barrier comes twice: what there is within a second, or a hundred.
    report.checks = [one for one in report.checks if one.what != "no answer twice"]
    report.check("few answers twice", books.load["duplicates"] <= 250 * times)
    report.check("each answer of the webhook has arrived", answered_there <= ended_here)
    if not polite:
        # What the server had written and we had not read is lost: there is no acknowledgement on that way.
        report.checks = [one for one in report.checks if one.what != "nothing lost"]
        report.check("at most 2 s of stanzas lost for each drop", books.lost <= 200 * times)
    return report


def hard_cut(plan: Plan) -> Report:
    """F11D"""
    return cut(plan, polite=False)


def bad_servers(plan: Plan) -> Report:
    """F12"""
    seconds = plan.pick(300.0, 4.0)
    behaviours: dict[str, tuple[Callable[[ScriptedServer, Peer], None], str]] = {
        "wrong secret": (_not_authorized, "the secret is not the server's"),
        "conflict": (_conflict, "conflict: the server has a session"),
        "silence": (_silence, "did not answer the handshake within"),
        "rubbish": (_rubbish, "not XML we can read"),
        "end at once": (_hang_up, "the server closed the stream"),
    }
    if plan.short:
        del behaviours["silence"]  # it costs ten seconds each time
    report = Report("F12", f"{seconds:g} s of a server each with {', '.join(behaviours)}", plan.seed)
    watches = [_Watch(name, behave, seconds) for name, (behave, _) in behaviours.items()]
    for watch in watches:
        watch.start()
    for watch in watches:
        watch.join(seconds + 60)
    for watch, (_, words) in zip(watches, behaviours.values(), strict=True):
        name, delays = watch.name, watch.delays
        report.figures[name] = f"{[round(delay, 1) for delay in delays]} s, {watch.cpu:.2f} CPU s"
        report.check(f"{name}: connects again", len(delays) >= 1)
        report.check(f"{name}: the log says so", words in watch.log)
        report.check(f"{name}: never sooner than 1 s", all(delay > 0.9 for delay in delays))
        limits = [min(60.0, 2.0 ** (number + 1)) + 1.5 for number in range(len(delays))]
        report.check(
            f"{name}: waits drawn from 1 s to 2, 4, ... 60 s",
            all(delay < limit for delay, limit in zip(delays, limits, strict=True)),
            timing=True,
        )
        report.check(f"{name}: no busy loop", watch.cpu < plan.pick(3.0, 2.0), timing=True)
        report.check(f"{name}: no bug in the log", "Traceback" not in watch.log and "Unhandled" not in watch.log)
        report.check(f"{name}: said once or twice, not each time", 0 <= watch.log.count("(still trying)") <= 2)
        if not plan.short:
            report.check(f"{name}: the waits grow", max(delays[3:], default=0) > 8, timing=True)
            report.check(f"{name}: with jitter", len({round(delay, 2) for delay in delays}) == len(delays), timing=True)
    return report


class _Watch(threading.Thread):
    """
    One gateway, idle but for a server that behaves in one way.

    Attributes:
        delays: Seconds from the end of a connection to the next.
        cpu: Seconds of processor time after the first connection.
        log: All the gateway logged.
    """

    def __init__(self, name: str, behave: Callable[[ScriptedServer, Peer], None], seconds: float) -> None:
        super().__init__(name=name, daemon=True)
        self._behave = behave
        self._seconds = seconds
        self.delays: list[float] = []
        self.cpu = 0.0
        self.log = ""

    def run(self) -> None:
        with ScriptedServer(SECRET) as server:
            component: dict[str, object] = {
                "domain": DOMAIN,
                "server": f"tcp:127.0.0.1:{server.port}",
                "secret_file": "secret",
                "component_post_url": "http://127.0.0.1:9/",
            }
            with SoakGateway({"component": component}, plugin=True) as gateway:
                ended: float | None = None
                until = time.monotonic() + 60
                first_cpu = 0.0
                while True:
                    try:
                        peer = server.accept(max(0.1, until - time.monotonic()))
                    except AssertionError:
                        break
                    if ended is None:
                        until = time.monotonic() + self._seconds
                        first_cpu = gateway.cpu_seconds()
                    else:
                        self.delays.append(time.monotonic() - ended)
                    with suppress(AssertionError, OSError):
                        self._behave(server, peer)
                    peer.close()
                    ended = time.monotonic()
                    if ended > until:
                        break
                self.cpu = gateway.cpu_seconds() - first_cpu
                self.log = gateway.log()
                gateway.terminate()


def _not_authorized(server: ScriptedServer, peer: Peer) -> None:
    server.open_stream(peer)
    peer.wait(lambda: bool(peer.elements), "the handshake")
    server.refuse(peer, "not-authorized")


def _conflict(server: ScriptedServer, peer: Peer) -> None:
    server.open_stream(peer)
    peer.wait(lambda: bool(peer.elements), "the handshake")
    server.refuse(peer, "conflict")


def _silence(server: ScriptedServer, peer: Peer) -> None:
    peer.wait_until_gone(30)


def _rubbish(server: ScriptedServer, peer: Peer) -> None:
    server.open_stream(peer)
    peer.send(b"\xff\xfe<<<&%$ \x00 </nothing>")
    peer.wait_until_gone(15)


def _hang_up(server: ScriptedServer, peer: Peer) -> None:
    peer.close()


SCENARIOS: dict[str, Callable[[Plan], Report]] = {
    "F1": calm,
    "F1M": calm_in_memory,
    "F1P": calm_through_prosody,
    "F2": failing,
    "F3": gone,
    "F6": flood,
    "F7": overload,
    "F9": closing,
    "F10": evil_answers,
    "F11": stopping,
    "F11B": stopping_at_once,
    "F11C": cut,
    "F11D": hard_cut,
    "F12": bad_servers,
    **DURABLE,
    **LIMITS,
    "LEDGER": ledger,
}
