"""
What can go wrong with a gateway that keeps a spool on disk: scenarios as in `tests.soak.scenarios`.

The counters of a gateway that was killed are lost, so what became of each stanza is asked of the load, of the webhook
and of the file that the kill left.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import chain, pairwise
from random import Random

from attrs import define, field

from component_http.delivery.endings import MAX_ENDING
from component_http.sizing import FILES_BESIDE
from tests.integration.servers import Prosody
from tests.integration.waiting import eventually
from tests.integration.wall_clock import WallClock
from tests.soak.control import Child
from tests.soak.disk import SmallDisk
from tests.soak.doom import POINTS
from tests.soak.kept import Kept, left_behind, rows
from tests.soak.plan import Plan, Sections, users
from tests.soak.report import Report
from tests.soak.rig import DOMAIN, ENDINGS, SECRET, Books, Rig, Sample, account

__all__ = ["DURABLE"]

RATE = 200
"""Stanzas per second while gateways are killed and servers go away."""

CONNECTIONS = 32
"""The gateway's default of `max_connections`: POSTs under way at most."""

DRAIN = 1.0
"""Seconds of a drain that is to cut POSTs off."""

LOAD_SECRET = "secret of the load"


@define
class Kills:
    """
    Kills a rig's gateways, and looks at what each leaves.

    Attributes:
        found: In the file after each kill.
        posted: How many of the deliveries in it the killed gateway had POSTed.
        first_post: Seconds from each next start of a process to its first POST.
    """

    rig: Rig
    found: list[Kept] = field(factory=list)
    posted: list[int] = field(factory=list)
    first_post: list[float] = field(factory=list)
    _seen: dict[str, int] = field(factory=dict, init=False)

    def kill(self) -> None:
        """Kill the gateway, look, and start the next."""
        self.rig.kill_gateway()
        self.look()
        self.start()

    def look(self) -> None:
        """See what a gateway that was killed left."""
        kept = left_behind(self.rig.spool)
        seen: dict[str, int] = self.rig.webhook.ask("seen")
        self.found.append(kept)
        numbers = map(str, kept.deliveries)
        self.posted.append(sum(seen.get(number, 0) > self._seen.get(number, 0) for number in numbers))
        self._seen = seen

    def start(self, doom: str | None = None) -> None:
        """Start a gateway, and measure unless it is doomed."""
        self.rig.start_gateway(doom=doom, wait=False)
        if doom is None:
            since = self.rig.gateway.since
            posts = eventually(
                lambda: self.rig.webhook.ask("requests_since", since=since),
                "the first POST",
                detail=self.rig.gateway.log,
            )
            self.first_post.append(min(posts) - since)


def killed(plan: Plan) -> Report:
    """F4"""
    times, longest = plan.pick((20, 5.0), (3, 1.0))
    report = Report(
        "F4", f"{RATE}/s of 40 senders, a webhook that takes 50 ms; kill -9 at {times} random moments", plan.seed
    )
    random = Random(plan.seed)
    with plan.rig(faults={"latency": 0.05}) as rig:
        kills = Kills(rig)
        rig.start(3000.0, users(RATE, 40))
        for _ in range(times):
            time.sleep(random.uniform(0.0, longest))
            kills.kill()
        _after_kills(report, kills)
    return report


def killed_at_points(plan: Plan) -> Report:
    """F4N"""
    rounds = plan.pick(3, 1)
    report = Report(
        "F4N",
        f"the same; kill -9 at {len(POINTS)} points, {rounds} times each: {', '.join(POINTS)}",
        plan.seed,
    )
    random = Random(plan.seed)
    few = {"connected": (1, 1), "barrier_sent": (1, 3), "barrier_returned": (1, 3), "restored": (1, 3)}
    with plan.rig(faults={"latency": 0.05}) as rig:
        kills = Kills(rig)
        rig.start(3000.0, users(RATE, 40))
        time.sleep(0.5)
        rig.kill_gateway()
        kills.look()
        survived: Counter[str] = Counter()
        for point in list(POINTS) * rounds:
            doom = f"{point} {random.randint(*few.get(point, (20, 150)))}"
            kills.start(doom)
            survived[point] += rig.gateway.wait(30.0) != -signal.SIGKILL
            kills.look()
        kills.start()
        _after_kills(report, kills)
    for point in POINTS:
        report.check(f"a kill at {point}", not survived[point])
    return report


def _after_kills(report: Report, kills: Kills) -> None:
    """Let the last gateway finish, and enter what each kill must have left whole."""
    rig = kills.rig
    rig.load.ask("stop")
    report.figures["settled after s"] = rig.settle_spool(30)
    left = rows(rig.spool)
    books = rig.finish()
    _durable_books(report, rig, books, kills.found)
    report.figures["kills"] = len(kills.found)
    report.figures["not ended at a kill, most"] = max(len(kept.deliveries) for kept in kills.found)
    report.figures["of these POSTed, most"] = max(kills.posted)
    report.figures["not confirmed at a kill, most"] = max(len(kept.outbox) for kept in kills.found)
    report.figures["start to first POST s, longest"] = max(kills.first_post)
    report.check("PRAGMA integrity_check after each kill: ok", all(kept.sound for kept in kills.found))
    most = CONNECTIONS + MAX_ENDING
    report.check(f"at each kill at most {most} had been POSTed and not ended", max(kills.posted) <= most)
    report.check("start to first POST under 3 s", max(kills.first_post) < 3, timing=True)
    report.check("the spool is empty at the end", not (left["deliveries"] or left["departures"]))


def _durable_books(
    report: Report,
    rig: Rig,
    books: Books,
    found: Sequence[Kept] = (),
    *,
    is_server: bool = True,
    cuts: Sequence[tuple[float, float]] = (),
) -> None:
    """
    Enter what holds whatever was killed or cut: what was accepted is answered, in order, and seldom twice.

    Args:
        found: In the file after each kill.
        is_server: The load plays the server, so it knows what was confirmed on which stream.
        cuts: When drains were over that cut POSTs off, at the earliest, and when those gateways had ended. What the
            webhook answers in between, to nobody, is asked again.
    """
    load, webhook = rig.load, rig.webhook
    replied, ended = set(load.ask("answered")), set(load.ask("ended"))
    repeated = {int(number): times for number, times in load.ask("repeated").items()}
    seen = {int(number): times for number, times in webhook.ask("seen").items()}
    answered_there = set(webhook.ask("answered"))
    never = load.ask("never_taken")
    never_taken = set(never["numbers"])
    committed = set(chain.from_iterable(kept.deliveries for kept in found))
    not_ended = Counter(chain.from_iterable(kept.deliveries for kept in found))
    departing = Counter(chain.from_iterable(kept.outbox for kept in found))
    account(report, books)
    # Of what a killed gateway counted nothing is known, and what a lost connection held is no loss of ours.
    for name in ("lost", "untold", "ended in silence"):
        del report.figures[name]
    replaced = {"nothing lost", "no answer twice"}
    if found or cuts:
        replaced.add("an answered request is not made again")
    report.checks = [one for one in report.checks if one.what not in replaced]
    report.figures["never accepted (in a lost connection)"] = len(never_taken)
    report.figures["POSTed again"] = sum(times - 1 for times in seen.values())
    report.check("each answer of the webhook has arrived", answered_there <= replied)
    report.check(
        "what was never answered was never accepted", not never_taken & (set(seen) | committed | set(departing))
    )
    report.check("nothing but replies", replied == ended)
    missing = sorted((answered_there | committed | set(departing)) - replied)
    if missing:
        report.notes.append(f"{len(missing)} missing, such as {missing[:20]}")
    if cuts:
        in_vain = webhook.ask("answers_in_vain")
        report.figures["answered to nobody, when the drain was over"] = len(in_vain)
        report.check(
            "made again only what was answered when the drain was over",
            all(any(begin <= at <= end for begin, end in cuts) for _, at in in_vain),
        )
    if is_server:
        report.check("what was never accepted is the last of its connection", not never["overtaken"])
        report.check("on each stream in order, repeats included", not books.load["disordered"])
        report.check("no answer twice but what was written after the last barrier", not load.ask("unexplained"))
    if found:
        report.check("every committed stanza answered", committed <= replied)
        report.check("every stored reply has arrived", set(departing) <= replied)
        report.check(
            "POSTed again only what a kill had found not ended",
            all(times <= 1 + not_ended[number] for number, times in seen.items()),
        )
        report.check(
            "answered again only what a kill had found not confirmed",
            all(times <= 1 + departing[number] for number, times in repeated.items()),
        )


def _pending(plan: Plan) -> int:
    """Replies that wait when the server goes."""
    return plan.pick(500, 150)


def cut_with_pending(plan: Plan) -> Report:
    """F5"""
    times = plan.pick(4, 1)
    report = Report(
        "F5",
        f"{RATE}/s of 40 senders; the server reads no more, and drops the connection with {_pending(plan)} replies in"
        f" it, {times} times",
        plan.seed,
    )
    with plan.rig(faults={"latency": 0.02}) as rig:
        rig.start(3000.0, users(RATE, 40))
        pending, back = [], []
        for turn in range(times):
            time.sleep(plan.pick(5.0, 1.0))
            rig.load.ask("read", on=False)
            pending.append(_wait_for_pending(rig, _pending(plan)))
            rig.load.ask("cut", polite=False)
            rig.load.ask("read", on=True)
            time.sleep(plan.pick(2.0, 0.3))
            rig.load.ask("open")
            since = time.monotonic()
            # The waits grow, for none of these streams lasts.
            rig.gateway.wait_for_log(f"authenticated as {DOMAIN}", times=turn + 2, seconds=70.0)
            back.append(time.monotonic() - since)
        time.sleep(plan.pick(5.0, 0.5))
        rig.load.ask("stop")
        report.figures["settled after s"] = rig.settle_spool(30)
        books = rig.finish()
        _durable_books(report, rig, books)
        report.figures["replies pending at a drop, at least"] = min(pending)
        report.figures["connected again after s"] = max(back)
    return report


def _wait_for_pending(rig: Rig, number: int) -> int:
    """
    Wait until the gateway has made so many replies beyond those that arrive at the load now.

    Returns:
        How many they are then.
    """
    arrived: int = rig.load.ask("state")["replied"]

    def pending() -> int:
        made: int = rig.gateway.status()["counters"].get("replied", 0)
        return made - arrived

    eventually(lambda: pending() >= number, f"{number} replies", detail=rig.gateway.log)
    return pending()


def server_killed(plan: Plan) -> Report:
    """F5P"""
    times = plan.pick(3, 1)
    report = Report(
        "F5P",
        f"{RATE}/s of 40 senders through a real Prosody, which is killed with {_pending(plan)} replies pending,"
        f" {times} times",
        plan.seed,
    )
    with ExitStack() as stack:
        prosody, proxy, rig = _through_prosody(plan, stack)
        rig.start(3000.0, users(RATE, 40))
        pending, away = [], []
        for turn in range(times):
            time.sleep(plan.pick(5.0, 0.5))
            _fill_backlog(rig, _pending(plan))
            rig.load.ask("hold", on=True)
            prosody.kill()
            # Nobody is to come before the load is there again: what is for it would be bounced.
            proxy.ask("away")
            since = time.monotonic()
            rig.webhook.ask("fault", latency=0.005)
            pending.append(_wait_for_pending(rig, _pending(plan)))
            prosody.start()
            rig.load.ask("open")
            eventually(lambda: rig.load.ask("state")["ready"], "the load's stream", detail=prosody.log)
            proxy.ask("listen")
            rig.gateway.wait_for_log(f"authenticated as {DOMAIN}", times=turn + 2, seconds=70.0)
            away.append(time.monotonic() - since)
            rig.load.ask("hold", on=False)
        time.sleep(plan.pick(5.0, 0.5))
        rig.load.ask("stop")
        report.figures["settled after s"] = rig.settle_spool(30)
        books = rig.finish()
        _durable_books(report, rig, books, is_server=False)
        report.figures["replies pending, at least"] = min(pending)
        report.figures["away s, at most"] = max(away)
        _few_twice(report, books, times)
    return report


def black_hole(plan: Plan) -> Report:
    """F5H"""
    report = Report(
        "F5H",
        f"{RATE}/s of 40 senders through a real Prosody that kicks old sessions; the connection to it swallows all,"
        f" with {_pending(plan)} replies pending" + plan.pick("", ", and is reset after 1 s"),
        plan.seed,
    )
    with ExitStack() as stack:
        _, proxy, rig = _through_prosody(plan, stack)
        rig.start(3000.0, users(RATE, 40))
        time.sleep(plan.pick(5.0, 0.5))
        _fill_backlog(rig, _pending(plan))
        rig.load.ask("hold", on=True)
        proxy.ask("swallow")
        since = time.monotonic()
        rig.webhook.ask("fault", latency=0.005)
        pending = _wait_for_pending(rig, _pending(plan))
        if plan.short:
            time.sleep(1.0)
            proxy.ask("cut")
        else:
            rig.gateway.wait_for_log("the server has been silent", seconds=60.0)
        noticed = time.monotonic() - since
        rig.gateway.wait_for_log(f"authenticated as {DOMAIN}", times=2, seconds=70.0)
        back = time.monotonic() - since
        rig.load.ask("hold", on=False)
        time.sleep(plan.pick(5.0, 0.5))
        rig.load.ask("stop")
        report.figures["settled after s"] = rig.settle_spool(30)
        books = rig.finish()
        _durable_books(report, rig, books, is_server=False)
        report.figures["replies pending"] = pending
        report.figures["noticed after s"] = noticed
        report.figures["connected again after s"] = back
        _few_twice(report, books, 1)
        report.check("noticed within 45 s, and a second for us to see it", noticed < 46)
        report.check("the new session was not refused", "conflict" not in books.log)
    return report


def _through_prosody(plan: Plan, stack: ExitStack) -> tuple[Prosody, Child, Rig]:
    """A gateway, its connection to a Prosody that can be broken, and a load that is another component there."""
    secrets = {DOMAIN: SECRET, "load.localhost": LOAD_SECRET}
    prosody = stack.enter_context(Prosody(secrets, "kick_old"))
    proxy = stack.enter_context(
        Child("tests.soak.proxy", prosody.folder / "proxy-errors.txt", port=prosody.component_port)
    )
    rig = plan.rig(
        faults={"latency": 0.02},
        server=prosody.component_port,
        load_secret=LOAD_SECRET,
        through=lambda port: proxy.ask("listen"),
    )
    return prosody, proxy, stack.enter_context(rig)


def _fill_backlog(rig: Rig, number: int) -> None:
    """Let the webhook think until so many deliveries are pending, and all it can have answered by then."""
    rig.webhook.ask("fault", latency=2.0)

    def pending() -> int:
        counters: dict[str, int] = rig.gateway.status()["counters"]
        return counters.get("accepted", 0) - sum(counters.get(name, 0) for name in ENDINGS)

    eventually(lambda: pending() > number + 2 * CONNECTIONS, "a backlog", seconds=60.0, detail=rig.gateway.log)


def _few_twice(report: Report, books: Books, times: int) -> None:
    """What was written since the last barrier comes twice: what there is within a second, or a hundred."""
    report.check("few answers twice: a second of them for each time", books.load["duplicates"] <= RATE * times)


def disk_full(plan: Plan) -> Report:
    """F8"""
    rate, full = 50, plan.pick(15.0, 8.0)
    times = plan.pick(3, 1)
    report = Report(
        "F8",
        f"{rate}/s of 40 senders; a disk of 16 MiB is filled for {full:g} s and freed, {times} times; the webhook is"
        " slow meanwhile",
        plan.seed,
    )
    with SmallDisk(16) as disk, plan.rig(disk=disk.path, faults={"latency": 0.02}) as rig:
        rig.start(3000.0, users(rate, 40))
        resumed: list[float] = []
        refused = 0
        for _ in range(times):
            time.sleep(plan.pick(5.0, 0.5))
            # What waits meanwhile needs more of the file than there is, else nothing would be refused.
            rig.webhook.ask("fault", latency=8.0)
            disk.fill()
            before = _refused(rig)
            time.sleep(full)
            refused += _refused(rig) - before
            rig.webhook.ask("fault", latency=0.02)
            disk.free()
            freed = time.monotonic()
            _wait_for_later(rig, rig.load.ask("state")["sent"])
            resumed.append(time.monotonic() - freed)
        time.sleep(plan.pick(5.0, 0.5))
        rig.load.ask("stop")
        report.figures["settled after s"] = rig.settle(60)
        answered_there, ended = set(rig.webhook.ask("answered")), set(rig.load.ask("ended"))
        seen = {int(number) for number in rig.webhook.ask("seen")}
        running = rig.gateway.running
        books = rig.finish()
    account(report, books)
    group = books.group("users")
    report.figures["refused"] = books.count("refused_unstored")
    report.figures["spool_failed"] = books.count("spool_failed")
    report.figures["accepting again after s"] = max(resumed)
    report.check("the disk was full: stanzas were refused", refused)
    report.check("it ran to the end", running)
    report.check("refusals are wait errors", set(group["error_types"]) <= {"wait"})
    report.check("accepting again within 10 s", max(resumed) < 10)
    report.check("what was accepted has ended", seen <= ended)
    report.check("each answer of the webhook has arrived", answered_there <= ended)
    report.check("every refusal for want of room", books.count("bounced", "expired", "reply_lost") == 0)
    return report


def _wait_for_later(rig: Rig, number: int) -> None:
    """Wait until the webhook is asked about a stanza that was sent as this one or later."""
    eventually(
        lambda: any(int(one) >= number for one in rig.webhook.ask("seen")),
        "a stanza that is accepted again",
        seconds=30.0,
        detail=rig.gateway.log,
    )


def _refused(rig: Rig) -> int:
    refused: int = rig.gateway.status()["counters"].get("refused_unstored", 0)
    return refused


def clock_set(plan: Plan) -> Report:
    """F13"""
    stay = plan.pick(30.0, 1.2)
    report = Report(
        "F13",
        f"50/s, iqs among them; 10 % get a 503; the machine's clock is set an hour forward, two back, one forward,"
        f" {stay:g} s each",
        plan.seed,
    )
    sections: Sections = {
        "component": {"component_post_stanzas": ["message", "iq"]},
        "delivery": {"retry_cap": 2.0},
    }
    faults = {"latency": 0.1, "busy": 0.1}
    with (
        WallClock() as clock,
        plan.rig(sections, faults=faults, environment=clock.environment) as rig,
    ):
        rig.start(4 * stay, users(45, 40), {"name": "iqs", "rate": 5, "senders": 5, "kind": "iq", "user": "q"})
        barriers = []
        for hours in (1, -1, 0):
            time.sleep(stay)
            before = rig.gateway.status()["counters"]
            barriers.append(before.get("barrier_returned", 0))
            clock.set(hours)
        rig.wait_for_generator(60)
        report.figures["settled after s"] = rig.settle(60)
        barriers.append(rig.gateway.status()["counters"].get("barrier_returned", 0))
        books = rig.finish()
    account(report, books, groups=["users", "iqs"])
    # libfaketime reads its file at each look at a clock.
    report.checks = [one for one in report.checks if not one.what.startswith("F15")]
    least, most = books.webhook["clock_ahead"]
    longest = max(books.group(name)["longest"] or 0 for name in ("users", "iqs"))
    report.figures["the gateway's clock was ahead by s"] = f"{least:.0f} to {most:.0f}"
    report.figures["barriers returned by each time"] = barriers
    report.check("its clock was set", least < -3590 and most > 3590)
    report.check("everything answered, nothing bounced, nothing expired", books.load["replied"] == books.load["sent"])
    report.check("attempts were made again", books.count("retried") > 0)
    report.check("barriers go on", all(after > before for before, after in pairwise(barriers)))
    report.check("nobody waited for a clock: the longest under 15 s", longest < 15)
    report.check("one stream all the time", books.load["connections"] == 1)
    return report


def few_descriptors(plan: Plan) -> Report:
    """F13D"""
    seconds = plan.pick(30.0, 1.0)
    report = Report(
        "F13D",
        f"{RATE}/s of 200 senders for {seconds:g} s, a webhook that takes 0.5 s, max_connections 100, and at most 64"
        " file descriptors",
        plan.seed,
    )
    with plan.rig(
        {"webhook": {"max_connections": 100}},
        faults={"latency": 0.5},
        prefix=["sh", "-c", 'ulimit -n 64 && exec "$@"', "sh"],
    ) as rig:
        rig.run(seconds, users(RATE, 200))
        report.figures["settled after s"] = rig.settle(60)
        books = rig.finish()
    account(report, books, connections=64 - FILES_BESIDE)
    report.figures["descriptors, most"] = max(sample.descriptors for sample in books.samples)
    for name in ("attempt_failed", "retried", "breaker_opened", "stream_lost", "spool_failed"):
        report.figures[name] = books.count(name)
    report.figures["warnings"] = len({line for line in books.log.splitlines() if "#warn" in line or "#error" in line})
    report.check("everything answered, nothing bounced", books.load["replied"] == books.load["sent"])
    report.check("the log names the limit, once", books.log.count("may have 64 files open") == 1)
    report.check("no attempt failed for want of a descriptor", books.count("attempt_failed") == 0)
    report.check("one stream all the time", books.load["connections"] == 1)
    return report


def long_run(plan: Plan) -> Report:
    """F14"""
    seconds = plan.pick(1800.0, 4.0)
    report = Report(
        "F14",
        f"20/s of 40 senders for {seconds:g} s; 10 % get a 503, 5 % a reset, 5 % 3 s of silence (timeout 1 s)",
        plan.seed,
    )
    faults = {"latency": 0.02, "busy": 0.1, "reset": 0.05, "stall": 0.05, "stall_seconds": 3.0}
    sections: Sections = {"webhook": {"timeout": 1.0}}
    if plan.short:
        sections["delivery"] = {"retry_cap": 0.5}
    with plan.rig(sections, faults=faults) as rig:
        rig.start(seconds, users(20, 40))
        rig.wait_for_generator(seconds + 60)
        report.figures["settled after s"] = rig.settle(plan.pick(120, 20))
        books = rig.finish()
    account(report, books)
    around = max(5, len(books.samples) // 20)
    looks: dict[str, tuple[Callable[[Sample], float], float]] = {
        "MiB": (lambda sample: sample.mib, 5.0),
        "descriptors": (lambda sample: sample.descriptors, 10.0),
        "write-ahead log MiB": (lambda sample: sample.log_mib, 1.0),
    }
    for name, (look, allowed) in looks.items():
        warm, last = books.mean(0.25, look, around), books.mean(0.95, look, around)
        most = max(map(look, books.samples))
        report.figures[f"{name} warm/end/most"] = f"{warm:.1f}/{last:.1f}/{most:.1f}"
        report.check(f"{name}: flat after warm-up (at most {allowed:g} more)", last - warm < allowed, timing=True)
    report.check("everything answered, nothing bounced", books.load["replied"] == books.load["sent"])
    return report


def stopped_before_departure(plan: Plan) -> Report:
    """F11R"""
    report = Report(
        "F11R",
        "100/s of 20 senders; SIGTERM after the webhook's 200 and before the reply has left: first the server is gone,"
        " then it does not read; and a start",
        plan.seed,
    )
    with plan.rig({"delivery": {"drain_timeout": DRAIN}}, faults={"latency": 0.1}) as rig:
        rig.start(3000.0, users(100, 20))
        cuts, caught = [], []
        for gone in (True, False):
            time.sleep(plan.pick(5.0, 1.0))
            if gone:
                rig.load.ask("cut", polite=False)
            else:
                rig.load.ask("read", on=False)
            time.sleep(0.5)
            os.kill(rig.gateway.pid, signal.SIGTERM)
            since = time.monotonic()
            rig.gateway.wait(30.0)
            cuts.append((since + DRAIN, time.monotonic()))
            caught.append(len(set(rig.webhook.ask("answered")) - set(rig.load.ask("ended"))))
            if gone:
                rig.load.ask("open")
            else:
                rig.load.ask("read", on=True)
            rig.start_gateway()
        time.sleep(plan.pick(5.0, 0.5))
        rig.load.ask("stop")
        report.figures["settled after s"] = rig.settle_spool(30)
        books = rig.finish()
        _durable_books(report, rig, books, cuts=cuts)
        report.figures["answered by the webhook, not to the sender, at the stops"] = caught
        report.figures["ended after s"] = max(end - begin for begin, end in cuts) + DRAIN
        report.check("replies were caught between", all(caught))
    return report


DURABLE: dict[str, Callable[[Plan], Report]] = {
    "F4": killed,
    "F4N": killed_at_points,
    "F5": cut_with_pending,
    "F5P": server_killed,
    "F5H": black_hole,
    "F8": disk_full,
    "F11R": stopped_before_departure,
    "F13": clock_set,
    "F13D": few_descriptors,
    "F14": long_run,
}
