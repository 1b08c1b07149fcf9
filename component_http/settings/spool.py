"""The table [spool]."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

from attrs import frozen

from component_http.errors import SettingsError
from component_http.settings.declaration import Table, setting
from component_http.settings.values.plain import choice, file_path, number, whole
from component_http.settings.values.value_type import shown

STATE_VARIABLE = "STATE_DIRECTORY"
"""The environment variable that may name the folder for an sqlite spool."""

SPOOL_FILE = "component-http.sqlite3"
"""The name of an sqlite spool's file, unless it is set."""


@frozen
class SpoolSettings(Table):
    """The spool, which keeps accepted stanzas until they are done."""

    TABLE: ClassVar[str] = "spool"

    kind: str = setting(
        choice("memory", "sqlite"),
        "the place where accepted stanzas are kept until they are done",
        default="sqlite",
        why="sqlite keeps them in a file, and waits for the disk before a stanza is accepted and before its answer is"
        " sent; memory loses them when the process dies",
    )
    path: str | None = setting(
        file_path("the spool's file"),
        f"the file of an sqlite spool; unless set it is {SPOOL_FILE} in the folder that the environment variable"
        f" {STATE_VARIABLE} names, or else in the current folder",
        default=None,
        why="systemd sets that variable for a unit with StateDirectory",
        example='"spool.sqlite3"',
    )
    synchronous: Literal["FULL", "NORMAL"] = setting(
        choice("FULL", "NORMAL"),
        "whether an sqlite spool waits until the disk has each transaction",
        default="FULL",
        why="after a loss of power NORMAL may lack the last second; a kill -9 loses nothing with either",
    )
    letter_days: float = setting(
        number(0.01, 3650, "days"),
        "the time for which an sqlite spool keeps a dead letter: a delivery that was given up, with the last response",
        default=7.0,
        why="long enough to find out on a Monday what failed on a Friday; letters hold people's words, so they are not"
        " kept for ever",
    )
    max_letters: int = setting(
        whole(0, 1_000_000, "letters"),
        "the most dead letters that an sqlite spool keeps; the oldest go first, and 0 keeps none",
        default=10_000,
        why="a webhook that fails for a day must not fill the disk",
    )
    keep_ended: str = setting(
        choice("nothing", "facts", "bodies"),
        "the log of deliveries in an sqlite spool: what is kept of a delivery that has ended",
        default="nothing",
        why="facts are who wrote to whom and when, each attempt with the first 1024 bytes of its answer, and what"
        " became of the replies; bodies also keep the request body, without which a delivery cannot be replayed; both"
        " hold people's words, so they are kept only if you ask for it",
        example='"facts"',
    )
    ended_days: float = setting(
        number(0.01, 3650, "days"),
        "the time for which the log keeps a delivery",
        default=7.0,
        why="as long as dead letters",
    )
    max_ended: int = setting(
        whole(1, 10_000_000, "deliveries"),
        "the most deliveries that the log keeps; the oldest go first",
        default=100_000,
        why="about 100 MB with short answers and no bodies",
    )
    max_ended_bytes: int = setting(
        whole(65_536, 1 << 40, "bytes"),
        "the most bytes that the log keeps of attempts, answers and bodies; the oldest deliveries go first",
        default=268_435_456,
        why="256 MiB, as for dead letters: it must leave room for what waits",
    )

    def file(self, env: Mapping[str, str] = os.environ) -> Path | None:
        """
        Return the absolute path of the spool's file; None for a spool in memory.

        Args:
            env: The environment, for `STATE_DIRECTORY`.
        """
        if self.kind == "memory":
            return None
        if self.path is not None:
            return Path(self.path).absolute()
        # systemd names several folders with colons between them.
        return Path(env.get(STATE_VARIABLE, "").partition(":")[0], SPOOL_FILE).absolute()

    def __attrs_post_init__(self) -> None:
        if self.path is not None and self.kind == "memory":
            raise SettingsError(f'spool.path is {shown(self.path)}, but spool.kind "memory" has no file: remove path')
        if self.keep_ended != "nothing" and self.kind == "memory":
            raise SettingsError(
                f'spool.keep_ended is {shown(self.keep_ended)}, but spool.kind "memory" keeps no log: set spool.kind to'
                ' "sqlite", or remove keep_ended'
            )
