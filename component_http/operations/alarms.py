"""
Troubles that an operator is told of: one table of conditions over `View`.

Those with the names of `docs/monitoring/alerts.yml` have its thresholds, and its page says what to do about each. Three
of the rules need what only Prometheus has, and are not here: that the gateway is down, and two quantiles.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping

from attrs import define, frozen

from component_http.delivery.status import Status
from component_http.operations.terminal import age
from component_http.operations.view import ComponentView, View

QUIET, LONG_QUIET = 0.2, 2.0
"""
Parts of `alert_after`: the time for which a trouble must not be seen before it is over; the longer one if it came back
lately.
"""

LATELY = 1800.0
"""Seconds after the end of a trouble in which it is the same if it comes back."""

REMEMBERED = 1800.0
"""Seconds for which counters are remembered: the longest time that a condition looks back."""

_STEP = 30.0
"""Seconds between two remembered states of the counters."""

_DAY = 86_400.0

_Found = Iterator[tuple[str, str]]
"""The domain of the component that a trouble is about, "" for none, and what it is, each."""


@frozen
class Look:
    """
    One look at the gateway.

    Attributes:
        since: The counters of before, by how many seconds ago that was at least.
        wall: Seconds since the epoch.
        after: Seconds that a trouble has to last before it is told.
    """

    view: View
    since: Callable[[float], Mapping[str, int]]
    wall: float
    after: float

    def increase(self, seconds: float, *events: str) -> int:
        """Return how often events have happened in so many seconds."""
        before = self.since(seconds)
        return sum(self.view.counters[event] - before.get(event, 0) for event in events)

    @property
    def served(self) -> Iterator[tuple[str, ComponentView, Status]]:
        for domain, component in self.view.components.items():
            if component.status is not None:
                yield domain, component, component.status


def _not_connected(look: Look) -> _Found:
    for domain, component, _ in look.served:
        if not component.connected:
            yield domain, "there is no stream to its XMPP server, and the log says why"


def _stream_unsteady(look: Look) -> _Found:
    lost = look.increase(1800, "stream_lost")
    if lost > 5:
        yield "", f"a stream to an XMPP server was lost {lost} times in half an hour"


def _webhook_fails(look: Look) -> _Found:
    for domain, component, _ in look.served:
        for route, webhook in component.webhooks.items():
            if webhook.failing_for is not None and webhook.failing_for > look.after:
                whose = f"the webhook of route {route}" if route else "the webhook"
                failing = age(webhook.failing_for)
                yield domain, f"nothing but failures has come from {whose} for {failing}: {webhook.last_failure}"


def _webhook_gone(look: Look) -> _Found:
    for domain, component, _ in look.served:
        if any(webhook.state == "gone" for webhook in component.webhooks.values()):
            yield domain, "a webhook has said 410, and is not asked any more"


def _old_pending(look: Look) -> _Found:
    for domain, _, status in look.served:
        if status.oldest is not None and status.oldest > 900:
            yield domain, f"the oldest delivery has been pending for {age(status.oldest)}"


def _refuses(look: Look) -> _Found:
    refused = look.increase(600, "refused_full", "refused_conversation_full", "refused_unfair")
    if refused:
        yield "", f"there was no room for {refused} stanzas in ten minutes, and their senders were told so"


def _gives_up(look: Look) -> _Found:
    given_up = look.increase(900, "bounced", "expired", "refused_reply")
    ended = given_up + look.increase(900, "replied", "silent")
    if given_up > 0.05 * ended:
        yield "", f"{given_up} of {ended} deliveries were given up in 15 minutes; the command letters shows them"


def _spool_fails(look: Look) -> _Found:
    if look.increase(600, "spool_failed", "refused_unstored", "disk_full"):
        yield "", "the spool cannot store or read, and the log says why"


def _disk_fills(look: Look) -> _Found:
    free = look.view.disk_free_bytes
    if free is not None and free < 1e9:
        yield "", f"the spool's disk has {free // 1_000_000} MB left"


def _certificate_ends(look: Look) -> _Found:
    for domain, component, status in look.served:
        for whose, ends in (
            ("a webhook", status.certificate_ends),
            ("the XMPP server", component.server_certificate_ends),
        ):
            if ends is not None and ends - look.wall < 14 * _DAY:
                yield domain, f"the certificate of {whose} {_ends(ends - look.wall)}"


def _own_certificate_ends(look: Look) -> _Found:
    for setting, ends in look.view.certificates.items():
        if ends - look.wall < 14 * _DAY:
            yield "", f"the certificate that {setting} names {_ends(ends - look.wall)}"


def _ends(left: float) -> str:
    return "has ended" if left < 0 else f"ends in {left / _DAY:.0f} days"


def _catches_up_slowly(look: Look) -> _Found:
    if look.view.catch_up is not None and look.view.catch_up > 3600:
        yield "", f"what is pending takes {age(look.view.catch_up)} at this pace"


def _reload_refused(look: Look) -> _Found:
    if look.increase(900, "reload_refused"):
        yield "", "settings were read again and could not be used; the log has a sentence for each mistake"


def _unaccounted(look: Look) -> _Found:
    if look.view.unaccounted:
        yield "", f"{look.view.unaccounted} deliveries came in and are nowhere: please report it"


CONDITIONS: Mapping[str, tuple[Callable[[Look], _Found], bool]] = {
    "ComponentHttpNotConnected": (_not_connected, True),
    "ComponentHttpStreamUnsteady": (_stream_unsteady, False),
    "ComponentHttpWebhookFails": (_webhook_fails, False),
    "ComponentHttpWebhookGone": (_webhook_gone, False),
    "ComponentHttpOldPending": (_old_pending, True),
    "ComponentHttpRefuses": (_refuses, False),
    "ComponentHttpGivesUp": (_gives_up, True),
    "ComponentHttpSpoolFails": (_spool_fails, False),
    "ComponentHttpDiskFills": (_disk_fills, True),
    "ComponentHttpCertificateEnds": (_certificate_ends, False),
    "ComponentHttpOwnCertificateEnds": (_own_certificate_ends, False),
    "ComponentHttpCatchesUpSlowly": (_catches_up_slowly, True),
    "ComponentHttpReloadRefused": (_reload_refused, False),
    "ComponentHttpUnaccounted": (_unaccounted, True),
}
"""Each condition by the name of its alert, and whether it has to last before it is told."""


@define
class Trouble:
    """
    Something that is wrong, or was.

    Attributes:
        name: The name of the alert; `domain` is that of the component that it is about, "" for none.
        text: What is wrong.
        began: When it was seen first, and `seen` when last, in seconds of the clock.
        tell_at: When it is told.
        quiet: Seconds for which it must not be seen before it is over.
        told: The operators know of it.
        came_back: It had ended lately.
    """

    name: str
    domain: str
    text: str
    began: float
    seen: float
    tell_at: float
    quiet: float
    told: bool = False
    came_back: bool = False

    def over(self, now: float) -> bool:
        """Say whether it has not been seen for long enough."""
        return now - self.seen >= self.quiet

    def sentence(self, now: float) -> str:
        """Tell that it is there; or that it is over, and how long it was."""
        about = f"{self.name} ({self.domain})" if self.domain else self.name
        if not self.over(now):
            return f"ALERT {about}: {'again, ' if self.came_back else ''}{self.text}"
        lasted = age(self.seen - self.began)
        return f"RESOLVED {about}: it lasted {lasted}" + ("" if self.told else f", and could not be told: {self.text}")


class Alarms:
    """Knows what is wrong, and what of it is to be told."""

    def __init__(self) -> None:
        self._troubles: dict[tuple[str, str], Trouble] = {}
        self._ended: dict[tuple[str, str], float] = {}
        self._counters: deque[tuple[float, Counter[str]]] = deque()

    def look(self, view: View, now: float, wall: float, after: float) -> list[Trouble]:
        """
        Look at the gateway.

        Args:
            now: Seconds of the clock.
            wall: As in `Look`, and so is `after`.

        Returns:
            What is to be told now: each is there again at the next look until `done` is called with it.
        """
        if not self._counters or now - self._counters[-1][0] >= _STEP:
            self._counters.append((now, Counter(view.counters)))
        while len(self._counters) > 1 and now - self._counters[1][0] >= REMEMBERED:
            self._counters.popleft()
        look = Look(view, lambda seconds: self._before(now - seconds), wall, after)
        for name, (condition, lasts) in CONDITIONS.items():
            for domain, text in condition(look):
                self._see(name, domain, text, now, after, now + after if lasts else now)
        return [each for each in list(self._troubles.values()) if self._is_due(each, now)]

    def _before(self, when: float) -> Counter[str]:
        """The counters of that time; the oldest that are known, if it is longer ago."""
        found = self._counters[0][1]
        for at, counters in self._counters:
            if at > when:
                break
            found = counters
        return found

    def _see(self, name: str, domain: str, text: str, now: float, after: float, tell_at: float) -> None:
        key = name, domain
        trouble = self._troubles.get(key)
        if trouble is None:
            back = now - self._ended.get(key, now - LATELY) < LATELY
            quiet = after * (LONG_QUIET if back else QUIET)
            self._troubles[key] = Trouble(name, domain, text, now, now, tell_at, quiet, came_back=back)
        else:
            trouble.text, trouble.seen = text, now

    def _is_due(self, trouble: Trouble, now: float) -> bool:
        if trouble.over(now):
            if trouble.told or trouble.seen >= trouble.tell_at:
                return True
            self._troubles.pop((trouble.name, trouble.domain))  # too short for anybody
            return False
        return not trouble.told and trouble.seen == now >= trouble.tell_at

    def done(self, trouble: Trouble, now: float) -> None:
        """The operators were told of it as it is now."""
        trouble.told = True
        if trouble.over(now):
            key = trouble.name, trouble.domain
            self._troubles.pop(key, None)
            self._ended[key] = now
