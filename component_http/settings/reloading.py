"""New settings for a gateway that runs: those that apply at once, and those that wait for a restart."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from attrs import evolve

from component_http.settings.catalog import reference

if TYPE_CHECKING:
    from component_http.settings import Settings


def taken_over(running: Settings, given: Settings) -> Settings:
    """Make the settings of a running gateway that was given new ones."""
    component = running.component
    if _has_webhook(running) == _has_webhook(given):
        component = component.with_post_url(given.component.component_post_url)
    return evolve(
        running,
        component=component,
        webhook=given.webhook,
        api=evolve(running.api, token=given.api.token, hook=given.api.hook),
        conditions=given.conditions,
        log=given.log,
    )


def left_for_start(running: Settings, given: Settings) -> Iterator[str]:
    """Name each setting that differs and that only a start takes over."""
    for row in reference():
        if "." in row.table or row.reloads:
            continue
        before, after = (getattr(getattr(each, row.table), row.key) for each in (running, given))
        if before != after:
            yield row.name
    if running.component.secret != given.component.secret:
        yield "the secret of the component"
    if _has_webhook(running) != _has_webhook(given):
        yield "component.component_post_url"


def _has_webhook(settings: Settings) -> bool:
    return settings.component.component_post_url is not None
