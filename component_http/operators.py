"""The operators in the chat: they are told what is wrong, and use commands at the component's own domain."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import LoopingCall
from twisted.internet.threads import deferToThreadPool
from twisted.words.xish.domish import Element

from component_http.contract.xml import NS_COMPONENT
from component_http.errors import SpoolError
from component_http.ids import new_id
from component_http.interfaces import Observer
from component_http.log import LEVELS, Logger, set_level
from component_http.operations.alarms import Alarms
from component_http.operations.reasons import Reason
from component_http.operations.terminal import age, on_one_line, size
from component_http.operations.view import ComponentView, View
from component_http.serving import Serving
from component_http.settings import Settings
from component_http.wiring import Lasting
from component_http.xmpp.ad_hoc import AdHoc, Ask, BadValue, Command, Field, Form, Option, Told

LOOK = 5.0
"""Seconds between two looks for troubles."""

SHOWN = 30
"""Deliveries, and dead letters, that one answer shows."""

LEVEL_FOR = 600.0
"""Seconds for which another level of the log is kept."""

MOST_MINUTES = 7 * 24 * 60
"""The longest pause that has an end."""

_TEXT = 100
"""Characters of what a stranger wrote in one line."""


class Operators:
    """
    Tells operators, and does as they say, from `start` to `stop`.

    Args:
        settings: Names them, in [operations].
        components: What outlasts a stop of each component, by its domain; it changes when they come and go.
        view: Looks at the gateway.
        observer: Told `operator_told` for each message; more in `AdHoc`.
    """

    _log = Logger()

    def __init__(
        self,
        settings: Settings,
        reactor: Any,
        components: Mapping[str, Lasting],
        view: Callable[[], View],
        observer: Observer,
    ) -> None:
        self._settings = settings
        self._reactor = reactor
        self._components = components
        self._view = view
        self._observer = observer
        self._alarms = Alarms()
        self._looking = LoopingCall(self._look)
        self._looking.clock = reactor
        self._level_call: IDelayedCall | None = None
        self._on = False

    def start(self) -> None:
        self._on = True
        if self._settings.operations.admin_jids and not self._looking.running:
            self._looking.start(LOOK)

    def stop(self) -> None:
        self._on = False
        if self._looking.running:
            self._looking.stop()
        self._end_level()

    def use(self, settings: Settings) -> None:
        """Go by other settings from now on; the log has their level."""
        self._settings = settings
        if self._level_call is not None:
            self._level_call.cancel()
            self._level_call = None
        if not settings.operations.admin_jids and self._looking.running:
            self._looking.stop()
        elif self._on:
            self.start()

    # -- what is wrong --

    def _look(self) -> None:
        try:
            now, view = self._reactor.seconds(), self._view()
            for trouble in self._alarms.look(view, now, time.time(), self._settings.operations.alert_after):
                if self._tell(trouble.domain, trouble.sentence(now)):
                    self._alarms.done(trouble, now)
        except Exception:
            # The next look may go well.
            self._log.failure("cannot look for troubles")

    def _tell(self, domain: str, sentence: str) -> bool:
        """Send a message to each operator, from the component that it is about if that can; False if none is sent."""
        there = [each for each in self._components.values() if each.outlet.connected]
        there.sort(key=lambda each: each.domain != domain)
        sent = 0
        for admin in self._settings.operations.admin_jids if there else ():
            message = Element((NS_COMPONENT, "message"))
            message["from"], message["to"] = there[0].settings.component.default_sender, admin
            message["type"], message["id"] = "chat", new_id()
            message.addElement("body", content=sentence)
            if there[0].outlet.send(message):
                self._observer.count("operator_told")
                sent += 1
        return sent > 0

    # -- commands --

    def _may(self, user: str) -> bool:
        return user in self._settings.operations.admin_jids

    def handler(self, serving: Serving) -> AdHoc:
        """Make the handler for the commands of one component."""
        commands = (
            Command("component-http#status", "Status of the gateway", self._status),
            Command("component-http#pending", "What waits for the webhook", partial(self._pending, serving)),
            Command("component-http#letters", "Dead letters", self._letters),
            Command("component-http#pause", "Pause the webhook", partial(self._pause, serving)),
            Command("component-http#wake", "Ask the webhook at once", partial(self._wake, serving)),
            Command("component-http#log", "Level of the log, for ten minutes", self._level),
        )
        return AdHoc(serving.domain, commands, self._may, self._observer, self._reactor, new_id)

    async def _status(self) -> Told:
        view = self._view()
        lines = [f"component-http {view.versions['version']}, up for {age(view.up_for)}"]
        for domain, component in view.components.items():
            lines += _component(domain, component)
        if view.catch_up:
            lines.append(f"all that is pending is through in about {age(view.catch_up)}")
        if view.spool_bytes is not None and view.disk_free_bytes is not None:
            lines.append(f"the spool has {size(view.spool_bytes)}, and its disk {size(view.disk_free_bytes)} left")
        return Told(lines)

    async def _pending(self, serving: Serving) -> Told:
        now, wall = self._reactor.seconds(), time.time()
        lines = []
        for delivery, why in serving.relay.oldest(SHOWN):
            at = None if why.next_attempt is None else wall + why.next_attempt
            reason = Reason(why.held_by, why.behind, at, why.last_failure)
            since = "" if delivery.accepted is None else f"{age(now - delivery.accepted)} "
            stanza = delivery.stanza
            lines.append(_line(f"{since}{stanza.sender} to {stanza.recipient}: {reason.in_a_list(wall, None)}"))
        more = serving.relay.pending - len(lines)
        if not lines:
            return Told(["nothing is pending"])
        return Told([*lines, f"and {more} more"] if more > 0 else lines)

    async def _pause(self, serving: Serving) -> Ask:
        minutes = Field("text-single", "minutes", label="Minutes; until somebody wakes it if there are none")
        instructions = ["Nothing is POSTed meanwhile. What comes waits, and ends with an error at its deadline."]
        return Ask(Form("form", "Pause the webhook", instructions, fields=[minutes]), partial(self._paused, serving))

    async def _paused(self, serving: Serving, values: Mapping[str, Sequence[str]]) -> Told:
        text = "".join(values.get("minutes", ())).strip()
        if not text:
            seconds, until = math.inf, "until somebody wakes it"
        elif text.isascii() and text.isdigit() and len(text) < 9 and 0 < int(text) <= MOST_MINUTES:
            seconds, until = int(text) * 60.0, f"for {int(text)} minutes"
        else:
            raise BadValue(f"minutes must be a number from 1 to {MOST_MINUTES}, or nothing")
        serving.relay.hold(seconds)
        self._log.warn("an operator has paused the webhook of {domain} {until}", domain=serving.domain, until=until)
        return Told([f"the webhook of {serving.domain} is paused {until}; a restart of the gateway ends that too"])

    async def _wake(self, serving: Serving) -> Told:
        self._log.info("an operator has the webhook of {domain} asked at once", domain=serving.domain)
        return Told([f"the webhook of {serving.domain} is asked at once; its state is {serving.wake()}"])

    async def _level(self) -> Ask:
        levels = Field("list-single", "level", self._settings.log.level, options=[Option(each) for each in LEVELS])
        return Ask(Form("form", "Level of the log, for ten minutes", fields=[levels]), self._leveled)

    async def _leveled(self, values: Mapping[str, Sequence[str]]) -> Told:
        level = "".join(values.get("level", ()))
        if level not in LEVELS:
            raise BadValue(f"level must be one of {', '.join(LEVELS)}")
        if self._level_call is not None:
            self._level_call.cancel()
        self._level_call = self._reactor.callLater(LEVEL_FOR, self._end_level)
        self._log.warn("an operator sets the level of the log to {wanted} for ten minutes", wanted=level)
        set_level(level)
        return Told([f"the level of the log is {level} for ten minutes, and then {self._settings.log.level} again"])

    def _end_level(self) -> None:
        if self._level_call is not None:
            if self._level_call.active():
                self._level_call.cancel()
            self._level_call = None
            set_level(self._settings.log.level)

    # -- dead letters --

    async def _letters(self) -> Told | Ask:
        path = self._settings.spool.file()
        if path is None:
            return Told(['there are no dead letters, because spool.kind is "memory"'])
        try:
            total, labels = await self._in_thread(_newest_letters, path, time.time())
        except SpoolError as error:
            return Told([f"they cannot be read now: {error}"])
        if not labels:
            return Told(["there are no dead letters"])
        options = [Option(one, label) for one, label in labels.items()]
        fields = [
            Field("list-multi", "letters", options=options, label="Dead letters", required=True),
            Field("list-single", "do", "retry", options=[Option("retry", "Retry"), Option("drop", "Drop")], label="Do"),
        ]
        about = f"The newest {len(labels)} of {total}." if total > len(labels) else "All of them, the newest first."
        return Ask(Form("form", "Dead letters", [about], fields=fields), partial(self._move, path))

    async def _move(self, path: Path, values: Mapping[str, Sequence[str]]) -> Told:
        chosen, verb = values.get("letters", ()), "".join(values.get("do", ()))
        if verb not in ("retry", "drop") or not 0 < len(chosen) <= SHOWN:
            raise BadValue(f"choose 1 to {SHOWN} dead letters, and whether to retry or to drop them")
        try:
            moved = await self._in_thread(_move_letters, path, verb, chosen)
        except SpoolError as error:
            return Told([f"nothing is done, for the spool cannot be written now: {error}"])
        done = sum(why is None for why in moved.values())
        self._log.info("an operator: {verb} dead letters, {number}", verb=verb, number=done)
        left = [_line(f"{one} is left alone: {why}") for one, why in moved.items() if why is not None]
        return Told([f"{'retried' if verb == 'retry' else 'dropped'}: {done}", *left])

    def _in_thread(self, read: Callable[..., Any], *args: object) -> Any:
        """Use the spool's file as the command line does, which may wait for the spool's own thread, in another one."""
        return deferToThreadPool(self._reactor, self._reactor.getThreadPool(), read, *args)


def _component(domain: str, component: ComponentView) -> Iterable[str]:
    status = component.status
    stream = "is connected" if component.connected else "has no stream to its XMPP server"
    yield f"{domain} {stream}; {component.unsent} stanzas wait to leave"
    if status is not None:
        oldest = "" if status.oldest is None else f", the oldest since {age(status.oldest)}"
        yield f"  pending: {status.pending}{oldest}; {status.running} requests are under way"
    for route, webhook in component.webhooks.items():
        failing = "" if webhook.failing_for is None else f", fails since {age(webhook.failing_for)}"
        last = "" if webhook.last_failure is None else f"; last failure: {webhook.last_failure}"
        yield _line(f"  webhook{f' of route {route}' if route else ''}: {webhook.state}{failing}{last}")
    for obstacle in component.obstacles:
        yield _line(f"  not ready: {obstacle}")


def _line(text: str) -> str:
    """Make one line of what others may have written, so that it cannot pretend to be another one."""
    indent = len(text) - len(text.lstrip(" "))
    return " " * indent + on_one_line(text)[: 3 * _TEXT]


def _newest_letters(path: Path, now: float) -> tuple[int, dict[str, str]]:
    """Read how many dead letters there are, and a label for each of the newest, by its id."""
    from component_http.spool.dead_letters import Letters

    with Letters(path) as letters:
        ids = letters.ids()
        labels = {
            one.id: _line(f"{age(now - one.ended)}, {one.outcome} {one.status or ''}, {one.sender}: {one.note}")
            for one in letters.read(ids[: -SHOWN - 1 : -1])
        }
    return len(ids), labels


def _move_letters(path: Path, verb: str, ids: Sequence[str]) -> Mapping[str, str | None]:
    from component_http.spool.dead_letters import Letters

    with Letters(path) as letters:
        return letters.retry(ids) if verb == "retry" else letters.drop(ids)
