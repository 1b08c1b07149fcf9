"""The table [log]."""

from __future__ import annotations

from typing import ClassVar

from attrs import frozen

from component_http.errors import SettingsError
from component_http.log import LEVELS
from component_http.settings.declaration import Table, setting
from component_http.settings.values.plain import SWITCH, choice, file_path


@frozen
class LogSettings(Table):
    """The log."""

    TABLE: ClassVar[str] = "log"

    level: str = setting(
        choice(*LEVELS),
        "the lowest level of the lines that are logged; debug adds a line for each stanza",
        default="info",
        why="a line for each stanza takes a tenth of the time that a stanza takes",
    )
    format: str = setting(
        choice("text", "json", "journald"),
        "the form of a line: text for a person, json for a program, journald for systemd's journal with the delivery's"
        " id as a field",
        default="text",
        why="in each of them a line is one line whatever others send, so nobody can write a line of his own",
    )
    file: str | None = setting(
        file_path("the log's file"),
        "the file that the log is written to; the standard output unless set",
        default=None,
        why="it is opened again on SIGUSR1, so that logrotate can move it",
        example='"component-http.log"',
    )

    hash_addresses: bool = setting(
        SWITCH,
        "whether XMPP addresses are hidden in the log, each behind a short name that stays the same",
        default=False,
        why="an address names a person; the names depend on the component's secret, so nobody else can look them up,"
        " and component-http hash tells that of an address",
    )

    def __attrs_post_init__(self) -> None:
        if self.file is not None and self.format == "journald":
            raise SettingsError('log.file does not go with log.format "journald", for the journal has its own file')
