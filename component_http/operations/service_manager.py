"""The service manager that has started the process, such as systemd: how it is told the state of the gateway."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall

from component_http.operations.terminal import on_one_line
from component_http.operations.view import ComponentView

LOOK = 1.0
"""Seconds between two looks at the state."""

PATIENCE = 0.1
"""Seconds to wait for a service manager that does not read; then it is not told."""

MAX_CHARACTERS = 300
"""Characters of a state's sentence: `systemctl status` shows it on one line."""


def notify(state: str) -> None:
    """
    Tell the service manager a state, if it wants to hear of any (`Type=notify`).

    Source: sd_notify(3): the socket is named by NOTIFY_SOCKET, and one whose name begins with @ is abstract.
    """
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(PATIENCE)
        manager.sendto(state.encode(errors="replace"), "\0" + path[1:] if path.startswith("@") else path)


def watchdog_interval(environment: Mapping[str, str], process: int) -> float | None:
    """
    Find the seconds between two signs of life that the service manager waits for; None if it waits for none.

    Args:
        environment: The variables that it has set.
        process: The number of this process; another one may be meant.

    Source: sd_watchdog_enabled(3), which recommends half of the time after which the process is ended.
    """
    microseconds, meant = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", str(process))
    if re.fullmatch("[1-9][0-9]{0,18}", microseconds) is None or meant != str(process):
        return None
    return int(microseconds) / 2e6


def sentence(components: Mapping[str, ComponentView]) -> str:
    """Describe the state of all components, by their domains, in one sentence."""
    is_one = len(components) == 1
    parts = [f"serving {next(iter(components))}" if is_one else f"serving {len(components)} components"]
    for domain, component in components.items():
        troubles = "; ".join(_troubles(component))
        if troubles:
            parts.append(troubles if is_one else f"{domain}: {troubles}")
    text = on_one_line("; ".join(parts))
    return text if len(text) <= MAX_CHARACTERS else f"{text[: MAX_CHARACTERS - 1]}…"


def _troubles(component: ComponentView) -> Iterator[str]:
    status = component.status
    if not component.connected:
        yield "there is no stream to the XMPP server"
    if status is not None and status.webhook in ("open", "half_open"):
        yield f"the webhook fails ({status.last_failure})"
    yield from component.obstacles


class ServiceManager:
    """
    Tells the service manager the state in a sentence when that has changed, and gives its watchdog signs of life.

    A sign of life says that the reactor turns and that the spool's thread answers. It says nothing of a full disk, nor
    of a webhook or a server that is away: a restart mends none of them.

    Args:
        clock: A clock that nobody can set, else whoever sets the machine's clock would have the process ended.
        state: Describes the state.
        answer: Asks the spool's thread for an answer; what it returns fires when that has come.
        interval: Seconds between two signs of life; None if nobody waits for them.
        tell: Tells the service manager something, as `notify` does.
    """

    def __init__(
        self,
        clock: IReactorTime,
        state: Callable[[], str],
        answer: Callable[[], Deferred[None]],
        interval: float | None,
        tell: Callable[[str], None] = notify,
    ) -> None:
        self._state = state
        self._answer = answer
        self._tell = tell
        self._told = ""
        loops = [(LoopingCall(self._look), LOOK)]
        if interval is not None:
            loops.append((LoopingCall(self._sign_of_life), interval))
        for loop, seconds in loops:
            loop.clock = clock
            loop.start(seconds)

    def _look(self) -> None:
        state = self._state()
        if state != self._told:
            self._told = state
            self._tell(f"STATUS={state}")

    def _sign_of_life(self) -> Deferred[None]:
        """While no answer comes, no more are asked for."""
        return self._answer().addCallback(lambda _: self._tell("WATCHDOG=1"))
