"""All that lets people see what a gateway does, and steer it: the port for operations, and operators in the chat."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from component_http.contract.explanation import Explanation
from component_http.interfaces.tracer import Tracers
from component_http.log import hide_addresses, set_level
from component_http.lookout import Lookout
from component_http.operations.metrics import Counters, Durations
from component_http.operations.view import ComponentView
from component_http.operators import Operators
from component_http.settings import Settings
from component_http.wiring import Lasting

if TYPE_CHECKING:
    from component_http.operations_service import Operations


class Oversight:
    """
    Works from `start` to `stop`, by the settings of its last `use`.

    Args:
        components: What outlasts a stop of each component, by its domain; it changes when they come and go.
        counters: Those of the gateway.
        look: Shows each component, by its domain.
        explain: Says why a delivery has not ended; None if it is not here.

    Attributes:
        durations: The histograms; None where nobody wants them.
        tracers: Those who follow deliveries.
        operators: Those in the chat.
    """

    def __init__(
        self,
        settings: Settings,
        reactor: Any,
        components: Mapping[str, Lasting],
        counters: Counters,
        look: Callable[[], Mapping[str, ComponentView]],
        explain: Callable[[str], Explanation | None],
    ) -> None:
        self._settings = settings
        self._reactor = reactor
        self._counters = counters
        self._explain = explain
        self._lookout = Lookout(
            settings.spool.file(), reactor, look, counters, lambda: self._settings.own_certificates()
        )
        self._operations: Operations | None = None
        self.durations = None if settings.operations.listen is None else Durations()
        self.tracers = Tracers()
        self.operators = Operators(settings, reactor, components, self._lookout.view, counters)

    def use(self, settings: Settings) -> None:
        """Go by these settings from now on; the log, too."""
        self._settings = settings
        set_level(settings.log.level)
        hide_addresses(settings.pseudonyms() if settings.log.hash_addresses else None)
        self.operators.use(settings)

    def start(self) -> None:
        self._lookout.start()
        self.operators.start()
        if self.durations is not None:
            from component_http.operations_service import Operations

            self._operations = Operations(
                self._settings,
                self._reactor,
                self._lookout.view,
                self._counters,
                self.durations,
                self.tracers,
                self._explain,
                lambda: self._settings.pseudonyms(),
            )
            self._operations.start()

    async def stop(self) -> None:
        if self._operations is not None:
            await self._operations.stop()
        self._lookout.stop()
