"""Shows POSTs to the bot."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from http import HTTPStatus
from io import StringIO
from typing import Any

from component_http.contract.link import HEADER as REPLY_URL
from component_http.contract.reply import Response
from component_http.errors import WebhookError
from component_http.interfaces import Webhook
from component_http.operations.terminal import cut
from component_http.playground.screen import Screen
from component_http.waiters import Waiters

MAX_INDENTED = 100_000
"""The most characters of JSON over several lines; longer JSON, such as thousands of nested lists, stays as it is."""

UNREMARKABLE = ("webhook-timestamp", "webhook-attempt")
"""Headers of a POST that are not shown, because they only serve signatures and retries."""

MAX_HEADER = 48
"""The most columns of a header's value that are shown: a link to reply by is several times as long."""


class NarratedWebhook:
    """
    A `Webhook` that shows each POST and its answer.

    Args:
        clock: Measures the time that an answer took.

    Attributes:
        under_way: The number of POSTs without an answer yet.
        last: The response to the latest POST, or its error; None before the first.
        reply_url: The link by which the bot can reply to the latest POST later; None before the first.
    """

    def __init__(self, webhook: Webhook, url: str, screen: Screen, clock: Any) -> None:
        self._webhook = webhook
        self._url = url
        self._screen = screen
        self._clock = clock
        self._waiting = Waiters()
        self.under_way = 0
        self.last: Response | WebhookError | None = None
        self.reply_url: str | None = None

    async def all_ended(self) -> None:
        """Wait until no POST is under way."""
        while self.under_way:
            await self._waiting.one_more()

    async def post(self, body: bytes, headers: Mapping[str, str], *, fresh: bool = False) -> Response:
        """See `component_http.interfaces.Webhook.post`."""
        lines = [f"POST {self._url}", "Content-Type: application/json"]
        lines += [f"{name}: {cut(value, MAX_HEADER)}" for name, value in headers.items() if name not in UNREMARKABLE]
        self.reply_url = headers.get(REPLY_URL)
        self._screen.show("\n".join([*lines, _pretty(body)]), "quiet", first="  --> ")
        self.under_way += 1
        started = self._clock.seconds()
        try:
            response = await self._webhook.post(body, headers, fresh=fresh)
            self._show_end(response, started, _status_line(response))
        except WebhookError as error:
            self._show_end(error, started, f"no answer: {error}")
            raise
        finally:
            self.under_way -= 1
            self._waiting.tell()
        return response

    def _show_end(self, how: Response | WebhookError, started: float, words: str) -> None:
        milliseconds = (self._clock.seconds() - started) * 1000
        lines = [f"{words} (after {milliseconds:.0f} ms)"]
        if isinstance(how, Response):
            lines += [
                f"{name.title()}: {how.headers[name]}" for name in ("location", "content-type") if name in how.headers
            ]
            lines.append("(the body is larger than the gateway reads)" if how.body is None else _pretty(how.body))
        self._screen.show("\n".join(lines), "quiet", first="  <-- ")
        self.last = how


def _status_line(response: Response) -> str:
    try:
        return f"{response.status} {HTTPStatus(response.status).phrase}"
    except ValueError:
        return str(response.status)


def _pretty(body: bytes) -> str:
    """Write a body for reading: JSON over several lines, anything else as it is."""
    text = body.decode("utf-8-sig", "replace")
    indented = StringIO()
    with suppress(ValueError, RecursionError):
        for part in json.JSONEncoder(indent=2, ensure_ascii=False).iterencode(json.loads(text)):
            if indented.tell() + len(part) > MAX_INDENTED:
                return text
            indented.write(part)
        return indented.getvalue()
    return text
