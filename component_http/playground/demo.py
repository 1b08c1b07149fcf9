"""
`make demo`: the playground with the example bot of this repository, from nothing, in one command.

Run as `python -m component_http.playground.demo`; no XMPP server and no bot of your own are needed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from component_http.playground.console import play
from component_http.playground.settings import playground_settings

ECHO_BOT = Path(__file__).parents[1] / "examples" / "echo_bot.py"

STOP_TIMEOUT = 2.0
"""Seconds a bot has to end when it is asked to."""


class BotDidNotStart(Exception):
    """The bot ended, or said something else, before it told its URL; the message has its last words."""


@contextmanager
def running_bot(script: Path) -> Iterator[str]:
    """
    Run a bot as long as the context lasts.

    Args:
        script: A Python program that takes a port and prints its URL in its first line.

    Raises:
        BotDidNotStart: There is no such bot, or it did not come so far.
    """
    with tempfile.TemporaryFile() as said:
        bot = subprocess.Popen(
            [sys.executable, str(script), "0"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said
        )
        assert bot.stdout is not None
        try:
            first = bot.stdout.readline().decode("utf-8", "replace")
            url = re.search(r"https?://\S+", first)
            if url is None:
                said.seek(0)
                last = (said.read().decode("utf-8", "replace").strip() or first.strip() or "nothing").splitlines()[-1]
                raise BotDidNotStart(f"{script} did not start; its last words: {last}")
            yield url[0]
        finally:
            bot.terminate()
            bot.stdout.close()
            try:
                bot.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                bot.kill()
                bot.wait()


def main() -> int:
    """Run the demo and return its exit status."""
    try:
        with running_bot(ECHO_BOT) as url:
            about = (
                "component-http turns each message for a bot into an HTTP POST, and the answer into a reply.\n"
                f"The bot is examples/{ECHO_BOT.name}, a web server of some twenty lines.\n"
            )
            return play(playground_settings(url), canned=["Hello, bot!"], about=about)
    except BotDidNotStart as error:
        print(f"component-http: {error}", file=sys.stderr)
        return os.EX_CONFIG
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
