"""A gateway between an XMPP server in a box and the bot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from attrs import define, evolve, field
from twisted.logger import LogEvent, LogLevel, formatEvent, globalLogPublisher
from twisted.words.xish.domish import Element

from component_http.contract.url import without_secrets
from component_http.gateway import Gateway
from component_http.interfaces import Webhook
from component_http.playground.narrated import NarratedWebhook
from component_http.playground.screen import Screen
from component_http.settings import LogSettings, Settings
from component_http.testing import ComponentServer
from component_http.webhooks import webhook_client


@define
class Outcome:
    """
    The events that followed from one line of the user.

    Attributes:
        counts: The events that the gateway counted.
        arrived: The number of stanzas that arrived; some of them may have been pushed.
        errors: The number of errors among these.
        note: The note in the gateway's log line about the end of the delivery.
    """

    counts: Counter[str] = field(factory=Counter)
    arrived: int = 0
    errors: int = 0
    note: str | None = None


class Box:
    """
    The server, the gateway, and the way to the bot.

    Args:
        screen: Shows the POSTs, and the gateway's log from `warn` on.
        arrived: Called with each stanza that the gateway sends.
        webhook: Takes the POSTs instead of the bot's URL.

    Attributes:
        url: The bot's URL without its credentials.

    Raises:
        SettingsError: No client can be made for the bot's URL.
    """

    def __init__(
        self,
        settings: Settings,
        reactor: Any,
        screen: Screen,
        arrived: Callable[[Element], object],
        webhook: Webhook | None = None,
    ) -> None:
        self.url = without_secrets(settings.component.component_post_url or "")
        self._client = webhook_client(settings, reactor) if webhook is None else None
        self.webhook = NarratedWebhook(webhook or self._client, self.url, screen, reactor)  # type: ignore[arg-type]
        self._settings = settings
        self._reactor = reactor
        self._screen = screen
        self._arrived = arrived
        self._server = ComponentServer(settings.component.domain, reactor, self._received)
        self._gateway: Gateway | None = None
        self._outcome = Outcome()
        self._log_observer: Any = self._logged

    async def start(self) -> None:
        """Start the server, connect the gateway to it, and show the gateway's log."""
        globalLogPublisher.addObserver(self._log_observer)
        port = self._server.listen()
        component = evolve(self._settings.component, server=f"tcp:127.0.0.1:{port}", secret=self._server.secret)
        # `_logged` takes the note about each delivery from the log, and some notes are debug lines.
        settings = evolve(self._settings, component=component, log=LogSettings(level="debug"))
        self._gateway = Gateway(settings, self._reactor, webhook=self.webhook)
        self._gateway.startService()
        await self.connected()

    async def connected(self) -> None:
        """Wait until the gateway has a stream."""
        await self._server.connected()

    async def stop(self) -> None:
        """Close everything; POSTs under way are given up."""
        self._arrived = lambda element: None
        globalLogPublisher.removeObserver(self._log_observer)
        if self._gateway is not None:
            await self._gateway.stopService()
        if self._client is not None:
            await self._client.close()
        await self._server.close()

    async def send(self, elements: list[Element]) -> Outcome:
        """Send stanzas, and wait until everything that follows is over, or raise `ConnectionLost` for a lost stream."""
        assert self._gateway is not None
        before, outcome = self._gateway.counters.copy(), Outcome()
        self._outcome = outcome
        for element in elements:
            self._server.send(element)
        await self._server.round_trip()
        await self.webhook.all_ended()
        # A POST may have ended during the first round trip: its reply is in for certain after another.
        await self._server.round_trip()
        outcome.counts = self._gateway.counters - before
        return outcome

    def _received(self, element: Element) -> None:
        self._outcome.arrived += 1
        self._outcome.errors += element.getAttribute("type") == "error"
        self._arrived(element)

    def _logged(self, event: LogEvent) -> None:
        """Show a log event, if it is one for the user."""
        if "note" in event:
            # The end of a delivery, which the playground tells after all that arrived.
            self._outcome.note = event["note"]
            return
        level = event.get("log_level", LogLevel.info)
        if level < LogLevel.warn:
            return
        text = formatEvent(event).removeprefix(f"{event.get('id')}: ")
        if "log_failure" in event:
            text += f" ({event['log_failure'].getErrorMessage()})"
        self._screen.show(text.replace("\n", " "), "warning", first=f"{level.name}: ")
