"""Carry out the commands that use a spool's file: `deliveries`, `letters`, `pending`, `spool` and `wake`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

from component_http.commands.printing import TRY_AGAIN, complain, say, say_json, some
from component_http.errors import SettingsError, SpoolError
from component_http.operations.terminal import on_one_line
from component_http.settings import SpoolSettings, spool_from_toml
from component_http.spool.dead_letters import AT_ONCE, Moved
from component_http.spool.private import located
from component_http.tap import exit_on_settings_error

BREATH = 0.02
"""Seconds between two transactions, so that a gateway gets its turn."""


@frozen
class Site:
    """
    The spool that a command works on.

    Attributes:
        now: The wall clock.
        pause: Waits so many seconds.
        options: Arguments for everything of `component_http.spool` that opens the file.
    """

    path: Path
    now: Callable[[], float]
    pause: Callable[[float], None]
    options: dict[str, Any]


def main(
    chosen: argparse.Namespace,
    *,
    now: Callable[[], float] = time.time,
    pause: Callable[[float], None] = time.sleep,
    patience: float | None = None,
) -> int:
    """
    Run one of the commands; returns the exit status.

    Args:
        chosen: The command line; its `carry_out` is given a `Site` and the command line.
        patience: Seconds to wait for another program that writes to the spool; None for the default.

    Raises:
        SystemExit: The settings or the file cannot be used (78), or the command line is wrong (2).
    """
    options: dict[str, Any] = {"warn": complain} if patience is None else {"warn": complain, "patience": patience}
    try:
        with exit_on_settings_error():
            path = located(_place(chosen))
            _check_that_there_is_one(path, chosen)
            status: int = chosen.carry_out(Site(path, now, pause, options), chosen)
            return status
    except SpoolError as error:
        complain(str(error))
        return TRY_AGAIN


def _place(chosen: argparse.Namespace) -> Path:
    if chosen.spool is not None:
        return Path(chosen.spool).absolute()
    spool = SpoolSettings(kind="sqlite") if chosen.config is None else spool_from_toml(chosen.config)
    path = spool.file()
    if path is None and chosen.command == "wake":
        raise SettingsError(
            f'{chosen.config}: spool.kind is "memory", so a gateway cannot be told by its file: POST /v1/webhook/wake'
            " to its API, with a token that has admin = true"
        )
    if path is None:
        raise SettingsError(f'{chosen.config}: spool.kind is "memory", so there is no file, and no dead letter is kept')
    return path


def _check_that_there_is_one(path: Path, chosen: argparse.Namespace) -> None:
    """Raise SettingsError if there is no file; one that cannot be looked at is explained when it is opened."""
    if getattr(chosen, "may_be_missing", False):
        return
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        if chosen.spool is not None:
            remedy = "--spool has to name the file of a spool"
        elif chosen.config is not None:
            remedy = f"set spool.path in {chosen.config}, or run the command in the gateway's folder"
        else:
            remedy = "name the gateway's settings file with --config, or the spool's own file with --spool"
        raise SettingsError(f"there is no spool {path}: {remedy}") from None
    except OSError:
        pass


def move(
    ids: Sequence[str],
    change: Callable[[Sequence[str]], Moved],
    past: str,
    site: Site,
    *,
    key: str,
    shown: dict[str, str],
    as_json: bool,
) -> tuple[bool, bool]:
    """
    Change many entries, a few in each transaction, and say what came of it, also where it ends with an error.

    Args:
        past: The verb for what was done, such as "dropped".
        key: The name of the ids in JSON.
        shown: Shorter forms of the ids, for people.

    Returns:
        Whether some were changed, and whether all were.
    """
    found: dict[str, str | None] = {}
    try:
        for begin in range(0, len(ids), AT_ONCE):
            if begin:
                site.pause(BREATH)
            found |= change(ids[begin : begin + AT_ONCE])
    finally:
        done = [one for one, reason in found.items() if reason is None]
        refused = {one: reason for one, reason in found.items() if reason is not None}
        if as_json:
            say_json({past: done, "refused": [{key: one, "reason": reason} for one, reason in refused.items()]})
        else:
            for one, reason in refused.items():
                complain(f"{shown.get(one, one)} is not {past}: {reason}")
            if done:
                say(f"{past} {len(done)}: {on_one_line(some(done, shown))}\n")
    return bool(done), not refused
