"""
The seams between the rooms: who may ask whom for what.

Every edge of the gateway (the XMPP stream, the HTTP client) is used through one of these, so that a test
or an embedding application can put something else in its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from twisted.words.xish.domish import Element

from component_http.contract.reply import Response

__all__ = ["Observer", "Outlet", "Valve", "Webhook"]


class Webhook(Protocol):
    """Somebody who answers an HTTP POST."""

    async def post(self, body: bytes, headers: Mapping[str, str]) -> Response:
        """
        Make one POST and wait for the whole response.

        Args:
            body: The JSON object, UTF-8.
            headers: What is particular to this attempt (`webhook-id` and so on).

        Returns:
            The response, whatever its status; redirects are not followed.

        Raises:
            component_http.errors.WebhookError: There was no complete response; the subclass says why.
        """
        ...  # pragma: no cover


class Outlet(Protocol):
    """Where stanzas leave for the XMPP server."""

    def send(self, element: Element) -> bool:
        """
        Send one stanza, or keep it until the stream is back.

        Returns:
            False if it was neither sent nor kept (it is counted and logged there).
        """
        ...  # pragma: no cover


class Valve(Protocol):
    """Where stanzas come in, and can be held back for a moment."""

    def pause(self) -> None:
        """Stop reading; never for longer than the server puts up with, whoever asks."""
        ...  # pragma: no cover

    def resume(self) -> None:
        """Read again."""
        ...  # pragma: no cover


class Observer(Protocol):
    """Somebody who wants to know how often things happen."""

    def count(self, event: str) -> None:
        """
        Note that something happened once.

        Args:
            event: A name of the list in `docs/architecture.md`, in the past tense: `accepted`, `refused_reply`, ...
        """
        ...  # pragma: no cover
