"""The state of a gateway at one moment, for those who watch it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from attrs import asdict, field, frozen

from component_http.delivery.status import STATES, Status
from component_http.operations.events import OUTCOMES


def ended(counters: Counter[str]) -> int:
    """Return how many deliveries have ended."""
    return sum(counters[outcome] for outcome in OUTCOMES)


@frozen
class WebhookView:
    """
    One webhook.

    Attributes:
        state: As in `Status.webhook`; `failing_for` and `last_failure` are as there, too.
    """

    state: str
    failing_for: float | None
    last_failure: str | None


@frozen
class ComponentView:
    """
    One component.

    Attributes:
        status: Its state; None while it is not served.
        connected: There is a stream to its XMPP server.
        unsent: Stanzas that wait to leave, or that its server is not known to have.
        webhooks: By the names of its routes; "" is the component's own.
        server_certificate_ends: The end of the certificate that its server shows, in seconds since the epoch; None
            without TLS.
    """

    status: Status | None
    connected: bool
    unsent: int
    webhooks: Mapping[str, WebhookView]
    server_certificate_ends: float | None = None

    @property
    def obstacles(self) -> tuple[str, ...]:
        """Say why no more should be sent here now, a phrase each."""
        return ("the gateway is not running",) if self.status is None else self.status.obstacles


@frozen
class View:
    """
    All of the gateway.

    Attributes:
        components: By their domains.
        counters: How often each event happened.
        spool_bytes: Bytes of the spool's files, and `disk_free_bytes` those that are free beside them; None for a spool
            in memory, or if they cannot be found out.
        up_for: Seconds since the start.
        versions: Of the gateway and of what it runs on, by name.
        catch_up: Seconds until all is through that is pending, estimated; None while nothing ends.
        certificates: The end of each certificate of ours, in seconds since the epoch, by the setting that names it.
    """

    components: Mapping[str, ComponentView]
    counters: Counter[str]
    spool_bytes: int | None
    disk_free_bytes: int | None
    up_for: float
    versions: Mapping[str, str]
    catch_up: float | None = None
    certificates: Mapping[str, float] = field(factory=dict)

    @property
    def statuses(self) -> list[Status]:
        """The state of each component that is served."""
        return [each.status for each in self.components.values() if each.status is not None]

    @property
    def obstacles(self) -> list[str]:
        """Say why no more should be sent here now: a line each, with the domain in front where there are several."""
        return [
            f"{domain}: {obstacle}" if len(self.components) > 1 else obstacle
            for domain, component in self.components.items()
            for obstacle in component.obstacles
        ]

    @property
    def pending(self) -> int:
        return sum(status.pending for status in self.statuses)

    @property
    def unaccounted(self) -> int:
        """Deliveries that came in and are nowhere: 0, or there is a mistake in the gateway."""
        counters = self.counters
        return counters["accepted"] + counters["restored"] - ended(counters) - counters["left"] - self.pending

    @property
    def webhooks(self) -> dict[str, int]:
        """How many webhooks there are in each state."""
        found = dict.fromkeys(STATES, 0)
        for component in self.components.values():
            for webhook in component.webhooks.values():
                found[webhook.state] += 1
        return found

    def as_json(self) -> dict[str, object]:
        """Describe all of it, for JSON."""
        return {
            "ready": not self.obstacles,
            "obstacles": self.obstacles,
            "versions": dict(self.versions),
            "up_for": round(self.up_for, 3),
            "reloads": self.counters["reloaded"],
            "unaccounted": self.unaccounted,
            "catch_up": self.catch_up if self.catch_up is None else round(self.catch_up, 1),
            "certificates": dict(self.certificates),
            "spool": {"bytes": self.spool_bytes, "disk_free_bytes": self.disk_free_bytes},
            "components": dict(self._components()),
            "counters": dict(sorted(self.counters.items())),
        }

    def _components(self) -> Iterator[tuple[str, dict[str, object]]]:
        for domain, component in self.components.items():
            status = {} if component.status is None else asdict(component.status)
            webhooks = {name: asdict(webhook) for name, webhook in component.webhooks.items()}
            yield (
                domain,
                {
                    "connected": component.connected,
                    "unsent": component.unsent,
                    "server_certificate_ends": component.server_certificate_ends,
                    **status,
                    "obstacles": component.obstacles,
                    "webhooks": webhooks,
                },
            )
