"""The command `component-http run`: the gateway in the foreground."""

from __future__ import annotations

from collections.abc import Sequence

from component_http.tap import RunOptions


def main(arguments: Sequence[str]) -> int:
    """
    Run the gateway as `twistd -n --pidfile=` does: with the same log, signals and exit statuses.

    Args:
        arguments: The command line behind `run`.
    """
    from twisted.scripts.twistd import ServerOptions, runApp  # type: ignore[attr-defined]

    options = RunOptions()
    options.parseOptions(arguments)
    twistd = ServerOptions()
    twistd.parseOptions(["-n", "--pidfile=", "component-http", *options.for_twistd()])
    runApp(twistd)
    return 0
