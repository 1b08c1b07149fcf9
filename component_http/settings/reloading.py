"""New settings for a gateway that runs: what of it they change, and when."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from attrs import evolve, frozen

from component_http.settings.catalog import Setting, reference

if TYPE_CHECKING:
    from component_http.settings import Settings


@frozen
class Changes:
    """
    The difference that new settings make.

    Attributes:
        settings: Those that a gateway which runs goes by from now on.
        removed: Domains of components that are not served any more.
        added: Domains of those that were not served before.
        replaced: By the domains of components whose stream has to be another one, the names of the settings that
            differ.
        left: The names of settings that differ, and that only another gateway can apply.
    """

    settings: Settings
    removed: Sequence[str]
    added: Sequence[str]
    replaced: Mapping[str, Sequence[str]]
    left: Sequence[str]

    @classmethod
    def between(cls, running: Settings, given: Settings) -> Changes:
        """Compare the settings of a gateway that runs with those that it is given."""
        before, after = ({each.component.domain: each for each in settings.each} for settings in (running, given))
        replaced = {
            domain: names
            for domain in before.keys() & after.keys()
            if (names := list(_differing(before[domain], after[domain], "reconnect")))
        }
        return cls(
            evolve(
                given,
                spool=running.spool,
                api=evolve(running.api, token=given.api.token, hook=given.api.hook),
                operations=evolve(
                    running.operations,
                    admin_jids=given.operations.admin_jids,
                    alert_after=given.operations.alert_after,
                ),
            ),
            [domain for domain in before if domain not in after],
            [domain for domain in after if domain not in before],
            replaced,
            list(_differing(running, given, "restart")),
        )


def _differing(running: Settings, given: Settings, applies: str) -> Iterator[str]:
    """Name each setting that differs and that applies in one of the ways of `Setting.applies`."""
    for row in reference():
        if "." not in row.table and row.applies == applies and _value(running, row) != _value(given, row):
            yield row.name
    if applies == "reconnect":
        if running.component.secret != given.component.secret:
            yield "the secret of the component"
        if (running.component.component_post_url is None) != (given.component.component_post_url is None):
            yield "component.component_post_url"
        if (running.delivery.max_attempts == 1) != (given.delivery.max_attempts == 1):
            yield "delivery.max_attempts"


def _value(settings: Settings, row: Setting) -> object:
    return getattr(getattr(settings, row.table), row.key)
