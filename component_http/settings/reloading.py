"""The settings that a running gateway takes over when its settings are read again, and those that wait for a start."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from attrs import evolve

from component_http.settings.catalog import Setting, reference

if TYPE_CHECKING:
    from component_http.settings import Settings

_TABLES = ("webhook", "log", "api.token", "api.hook", "")
"""The tables of which all settings are taken over at once; "" is [conditions]."""

_URL = "component.component_post_url"


def is_taken_over(setting: Setting) -> bool:
    """Tell whether a new value applies to a running gateway; else it does from the next start on."""
    return setting.table in _TABLES or setting.name == _URL


def taken_over(running: Settings, given: Settings) -> Settings:
    """Make the settings of a running gateway that was given new ones."""
    component = running.component.with_post_url(given.component.component_post_url)
    return evolve(
        given,
        component=running.component if _has_webhook(running) != _has_webhook(given) else component,
        api=given.api if running.api.listen == given.api.listen else running.api,
    )


def left_for_start(running: Settings, given: Settings) -> Iterator[str]:
    """Name each setting that differs and that only a start takes over."""
    for row in reference():
        # Tables within [api] belong to the port, which stays as it is.
        if "." in row.table or is_taken_over(row):
            continue
        before, after = (getattr(getattr(each, row.table), row.key) for each in (running, given))
        if before != after:
            yield row.name
    if running.component.secret != given.component.secret:
        yield "the secret of the component"
    if _has_webhook(running) != _has_webhook(given):
        yield _URL


def _has_webhook(settings: Settings) -> bool:
    return settings.component.component_post_url is not None
