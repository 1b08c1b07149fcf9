"""The looks of `component-http doctor`: at the machine, at each XMPP server, and at each webhook."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from statistics import median
from typing import Any

from twisted.words.xish.domish import Element

from component_http.commands.finding import CLOCKS_APART, NAME, Finding, Level
from component_http.commands.server_examination import ServerExamination
from component_http.contract import reply
from component_http.contract.http import JSON
from component_http.contract.request import request_body
from component_http.contract.stanza import Stanza
from component_http.contract.xml import NS_COMPONENT, Limits
from component_http.errors import WebhookError
from component_http.ids import new_id
from component_http.settings import Settings
from component_http.sizing import too_few_files
from component_http.spool.visit import holder

SLOW_DISK = 0.05
"""Seconds for which one write may wait for the disk: each stanza waits so long at least."""

LITTLE_ROOM = 1_000_000_000
"""Free bytes on the spool's disk below which somebody should look."""


class Examination:
    """Looks at everything that a gateway with these settings needs."""

    def __init__(self, settings: Settings, reactor: Any) -> None:
        self._settings = settings
        self._reactor = reactor

    async def all(self, *, connect: str, post: bool) -> list[Finding]:
        """
        Look at all of it.

        Args:
            connect: `always`, `never`, or `unless it runs`: unless a gateway may have the stream.
            post: POST a message to each webhook.
        """
        found = [*self._settings_and_machine(), *self._disk()]
        reason = self._not_connected(connect)
        for each in self._settings.each:
            domain = each.component.domain
            if reason is None:
                found += [finding async for finding in ServerExamination(each, self._reactor).all()]
            else:
                found.append(Finding("note", f"the XMPP server of {domain}", reason))
            for name, one in ((None, each), *each.of_routes.items()):
                if post and one.component.component_post_url is not None:
                    found += [finding async for finding in self._webhook(one, name)]
        return found

    # -- here --

    def _settings_and_machine(self) -> Iterator[Finding]:
        warnings = [*self._settings.warnings(), *too_few_files(self._settings, has_webhook=True)]
        for warning in warnings:
            yield Finding("warning", "the settings", warning)
        if not warnings:
            yield Finding("ok", "the settings", "they can be used")

    def _disk(self) -> Iterator[Finding]:
        file = self._settings.spool.file()
        if file is None:
            yield Finding("note", "the spool", "it is in memory, so what is pending is lost with the process")
            return
        about, folder = f"the spool {file}", file.parent
        try:
            free = shutil.disk_usage(folder).free
            seconds = _time_to_write(folder)
        except OSError as error:
            yield Finding("error", about, f"its folder cannot be written to: {error.strerror}; make it, or chown it")
            return
        if free < LITTLE_ROOM:
            yield Finding("warning", about, f"its disk has only {free // 1_000_000} MB left: make room")
        if seconds > SLOW_DISK:
            yield Finding(
                "warning",
                about,
                f"its disk takes {seconds * 1000:.0f} ms for a write, and each stanza waits for two: take a faster one,"
                ' or spool.synchronous = "NORMAL"',
            )
        else:
            yield Finding("ok", about, f"its disk takes {seconds * 1000:.1f} ms for a write")

    # -- the XMPP servers --

    def _not_connected(self, connect: str) -> str | None:
        """Say why no server is tried; None if each is."""
        if connect == "never":
            return "not tried, as --no-connect says"
        if connect == "always":
            return None
        file = self._settings.spool.file()
        running = None if file is None else holder(file.resolve()).running
        if running is None:
            return "not tried, for a gateway may be running: stop it, and say --connect"
        return "not tried, for a gateway is running, and has the stream: its log says how that is" if running else None

    # -- the webhooks --

    async def _webhook(self, settings: Settings, route: str | None) -> AsyncIterator[Finding]:
        from component_http.webhooks import webhook_client

        component = settings.component
        about = f"the webhook {component.post_origin} of {component.domain}" + (f", route {route}" if route else "")
        client = webhook_client(settings, self._reactor)
        assert client is not None
        stanza = _sample(component.domain)
        now, began = time.time(), self._reactor.seconds()
        headers = {"webhook-id": new_id(), "webhook-timestamp": str(int(now)), "webhook-attempt": "1"}
        try:
            response = await client.post(request_body(stanza), headers)
        except WebhookError as error:
            yield Finding("error", about, f"{error}")
            return
        finally:
            await client.close()
        took = (self._reactor.seconds() - began) * 1000
        verdict = reply.judge(
            stanza,
            response,
            domain=component.domain,
            limits=Limits(max_bytes=component.max_stanza_bytes),
            new_id=new_id,
            status_errors=settings.conditions,
        )
        if verdict.outcome in ("replied", "silent"):
            said = "answers" if verdict.outcome == "replied" else "has no reply"
            signed = " to a signed request" if settings.webhook.signing_secrets else ""
            yield Finding("ok", about, f"it {said}{signed}, after {took:.0f} ms")
        elif response.status in (401, 403):
            yield Finding("error", about, f"{verdict.note}: {_admission(settings)}")
        else:
            yield Finding("error", about, f"{verdict.note}; a {JSON} object, or 204 for no reply, is an answer")
        if verdict.ignored_body:
            yield Finding("warning", about, f"{verdict.note}")
        apart = _apart(response.headers.get("date", ""), now)
        if apart is not None and abs(apart) > CLOCKS_APART:
            yield Finding(
                "warning",
                about,
                f"its clock is {abs(apart):.0f} s {'ahead' if apart > 0 else 'behind'}: set both by NTP",
            )
        if client.certificate_ends is not None:
            days = (client.certificate_ends - now) / 86_400
            level: Level = "ok" if days > 14 else "warning"
            yield Finding(level, about, f"its certificate ends in {days:.0f} days{'' if days > 14 else ': renew it'}")


def _sample(domain: str) -> Stanza:
    message = Element((NS_COMPONENT, "message"))
    message["type"], message["id"] = "chat", new_id()
    message["from"], message["to"] = f"{NAME}@{domain}", domain
    message.addElement("body", content="a test of component-http doctor: the answer is sent to nobody")
    return Stanza.from_element(message)


def _admission(settings: Settings) -> str:
    """Say what to do about a webhook that lets the gateway not in."""
    if settings.webhook.signing_secrets:
        return (
            "the request was signed; the webhook needs the secret in webhook.signing_secret_files, or the public key of"
            " it, and a clock that is right"
        )
    if settings.webhook.bearer_token is not None:
        return "the webhook needs the token in webhook.bearer_token_file"
    return (
        "if it wants a token, name its file in webhook.bearer_token_file; if it wants signed requests, name that of the"
        " secret in webhook.signing_secret_files"
    )


def _apart(date: str, now: float) -> float | None:
    try:
        return parsedate_to_datetime(date).timestamp() - now
    except ValueError:
        return None


def _time_to_write(folder: Path) -> float:
    """Measure how long a write waits for the disk, half of the time."""
    taken = []
    with tempfile.NamedTemporaryFile(dir=folder, prefix=f".{NAME}-") as file:
        for _ in range(9):
            file.write(bytes(4096))
            file.flush()
            began = time.monotonic()
            os.fsync(file.fileno())
            taken.append(time.monotonic() - began)
    return median(taken)
