"""
Lets a user talk to a bot from the terminal: a real gateway between a server in a box and the bot.

`component-http playground` ends here. Nothing of it runs in production.
"""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Coroutine, Iterable
from contextlib import nullcontext
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import globalLogBeginner
from twisted.python.failure import Failure

from component_http.errors import SettingsError
from component_http.playground.lines import EditedLines, Lines, PlainLines, Source
from component_http.playground.screen import Screen
from component_http.playground.session import Playground
from component_http.playground.settings import playground_settings
from component_http.settings import Settings

INTERRUPTED = 130
"""Exit status: Ctrl-C while there were lines left to send (128 and the number of SIGINT)."""


async def _converse(playground: Playground, screen: Screen, lines: Source, canned: Iterable[str]) -> bool:
    """Carry out the canned lines and then those of the user; return whether all of them went well."""
    well = True
    try:
        await playground.start()
        for line in canned:
            screen.show(f"{playground.prompt()}{line}", "bold")
            well &= await playground.take(line)
            screen.show()
        while (typed := await lines.next()) is not None:
            line = typed.strip()
            if line == "/quit":
                break
            if line:
                well &= await playground.take(line)
                screen.show()
    finally:
        await playground.stop()
    return well


def _run(session: Coroutine[Any, Any, bool], reactor: Any) -> bool | Failure:
    """
    Run the reactor until a coroutine has ended; SIGINT and SIGTERM cancel it and wait for its end.

    Returns:
        The result of the coroutine, or its failure; that is a `CancelledError` if it was cancelled.
    """
    results: list[bool | Failure] = []
    ended: Deferred[None] = Deferred()
    running: Deferred[bool]

    def over(result: bool | Failure) -> None:
        results.append(result)
        ended.callback(None)
        if not stopping:
            reactor.stop()

    stopping = False

    def interrupted() -> Deferred[None]:
        nonlocal stopping
        stopping = True
        if not results:
            running.cancel()
        return ended

    def start() -> None:
        nonlocal running
        reactor.addSystemEventTrigger("before", "shutdown", interrupted)
        running = Deferred.fromCoroutine(session)
        running.addBoth(over)

    reactor.callWhenRunning(start)
    reactor.run()
    return results[0]


def play(settings: Settings, *, canned: Iterable[str] = (), about: str = "") -> int:
    """
    Let the user of this terminal talk to a bot. Installs and runs the reactor.

    Args:
        canned: Lines to carry out before the user types anything.
        about: A text about the bot to show first.

    Returns:
        The exit status: 0 if every line went well or the user typed the lines, 1 if one did not go well, 130 if lines
        from a file or a pipe were interrupted.

    Raises:
        SettingsError: No gateway can run with these settings.
    """
    from twisted.internet import reactor

    out = sys.stdout or open(os.devnull, "w")  # noqa: SIM115  (a terminal that was closed)
    is_typed = sys.stdin is not None and sys.stdin.isatty()
    descriptor = sys.stdin.fileno() if sys.stdin is not None else os.open(os.devnull, os.O_RDONLY)
    if hasattr(out, "reconfigure"):
        out.reconfigure(errors="backslashreplace")
    is_able = out.isatty() and os.environ.get("TERM") != "dumb"
    screen = Screen(out, colour=is_able and not os.environ.get("NO_COLOR"))
    playground = Playground(reactor, screen, settings)
    # Otherwise Twisted writes critical events to standard error, in its own words.
    globalLogBeginner.beginLoggingTo([], redirectStandardIO=False, discardBuffer=True)
    if about:
        screen.show(about)
    playground.introduce()
    if is_typed:
        screen.show("Type a message and press Return. /help shows what else there is, Ctrl-D leaves.")
    screen.show()
    lines: Source
    terminal: Any = nullcontext()
    if is_typed and is_able:
        lines = edited = EditedLines(descriptor, reactor, screen, playground.prompt)
        terminal = edited.in_charge()
    else:
        lines = PlainLines(Lines(descriptor, reactor), screen, playground.prompt, is_typed=is_typed)
    with terminal:
        result = _run(_converse(playground, screen, lines, canned), reactor)
    if isinstance(result, Failure):
        if isinstance(result.value, SettingsError):
            raise result.value
        if not result.check(CancelledError):
            result.printTraceback(sys.stderr)
            return 1
        screen.show()
        return 0 if is_typed else INTERRUPTED
    return 0 if is_typed or result else 1


def main(args: Namespace) -> int:
    """Run the command `component-http playground`, and return the exit status."""
    try:
        settings = playground_settings(args.post_url, config=args.config, domain=args.domain, stanzas=args.stanzas)
        return play(settings)
    except SettingsError as error:
        print(f"component-http: {error}", file=sys.stderr)
        return os.EX_CONFIG
