"""The metrics as text for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from component_http.operations.events import EVENTS
from component_http.operations.lag import Lag
from component_http.operations.metrics import Durations
from component_http.operations.view import View

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""The format that every version of Prometheus reads."""

INTERVAL = 1.0
"""Seconds for which the same text is given, so that a thousand requests per second cost one."""

_PREFIX = "component_http"


class Exposition(Collector):
    """
    Writes the metrics, in a registry of its own: an application that embeds the gateway may have others.

    Args:
        view: Gives the state of now.
        now: Seconds of a clock that is not set.
    """

    def __init__(self, view: Callable[[], View], durations: Durations, lag: Lag, now: Callable[[], float]) -> None:
        self._view = view
        self._durations = durations
        self._lag = lag
        self._now = now
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)
        self._written: tuple[float, bytes] | None = None

    def text(self) -> bytes:
        """Return the metrics, at most `INTERVAL` old."""
        now = self._now()
        if self._written is None or now - self._written[0] >= INTERVAL:
            self._written = now, generate_latest(self._registry)
        return self._written[1]

    def describe(self) -> Iterable[Metric]:
        """Name nothing in advance: nobody else has this registry."""
        return ()

    def collect(self) -> Iterator[Metric]:
        view = self._view()
        yield from self._of_now(view)
        yield from self._webhooks(view)
        events = CounterMetricFamily(f"{_PREFIX}_events", "How often each event happened.", labels=["event"])
        for event in dict.fromkeys((*EVENTS, *sorted(view.counters))):
            events.add_metric([event], view.counters[event])
        yield events
        info = GaugeMetricFamily(f"{_PREFIX}_info", "The versions, as labels.", labels=list(view.versions))
        info.add_metric(list(view.versions.values()), 1)
        yield info
        yield from self._histograms()

    def _of_now(self, view: View) -> Iterator[Metric]:
        statuses = view.statuses
        failing = [status.failing_for for status in statuses if status.failing_for is not None]
        ends = [status.certificate_ends for status in statuses if status.certificate_ends is not None]
        servers = [each.server_certificate_ends for each in view.components.values() if each.server_certificate_ends]
        oldest = [status.oldest for status in statuses if status.oldest is not None]
        gauges: list[tuple[str, str, float | None]] = [
            ("components", "Components that are configured.", len(view.components)),
            (
                "connected_components",
                "Components with a stream to their XMPP server.",
                sum(each.connected for each in view.components.values()),
            ),
            ("ready", "1 if more may be sent here, else 0.", not view.obstacles),
            ("pending_deliveries", "Deliveries accepted and not ended.", view.pending),
            ("pending_bytes", "Bytes of their request bodies.", sum(each.pending_bytes for each in statuses)),
            ("oldest_pending_seconds", "The age of the oldest of them.", max(oldest, default=0.0)),
            (
                "catch_up_seconds",
                "Seconds until all is through that is pending, by the last minute; none while nothing ends.",
                view.catch_up,
            ),
            ("running_attempts", "Requests to webhooks under way.", sum(each.running for each in statuses)),
            (
                "webhook_failing_seconds",
                "Seconds for which nothing but failures came from a webhook; the longest of them.",
                max(failing, default=0.0),
            ),
            (
                "webhook_certificate_end_timestamp_seconds",
                "The earliest end of a certificate that a webhook has shown, in seconds since 1970.",
                min(ends, default=None),
            ),
            (
                "server_certificate_end_timestamp_seconds",
                "The earliest end of a certificate that an XMPP server shows, in seconds since 1970.",
                min(servers, default=None),
            ),
            (
                "own_certificate_end_timestamp_seconds",
                "The earliest end of a certificate that the settings name as our own, in seconds since 1970.",
                min(view.certificates.values(), default=None),
            ),
            (
                "unsent_stanzas",
                "Stanzas that wait to leave, or that the XMPP server is not known to have.",
                sum(each.unsent for each in view.components.values()),
            ),
            ("spool_bytes", "Bytes of the spool's files.", view.spool_bytes),
            ("disk_free_bytes", "Bytes that are free on the spool's disk.", view.disk_free_bytes),
            ("reactor_lag_last_seconds", "How much too late the last timer was.", self._lag.last),
            (
                "unaccounted_deliveries",
                "Accepted and restored, less those that ended, are left in the spool or are pending: always 0.",
                view.unaccounted,
            ),
            ("up_seconds", "Seconds since the start.", view.up_for),
        ]
        for name, text, value in gauges:
            if value is not None:
                yield GaugeMetricFamily(f"{_PREFIX}_{name}", text, value=value)

    def _webhooks(self, view: View) -> Iterator[Metric]:
        webhooks = GaugeMetricFamily(f"{_PREFIX}_webhooks", "Webhooks in each state.", labels=["state"])
        for state, number in view.webhooks.items():
            webhooks.add_metric([state], number)
        yield webhooks

    def _histograms(self) -> Iterator[Metric]:
        durations = self._durations
        for name, text, histogram in (
            ("attempt", "Seconds that a request to a webhook took.", durations.attempt),
            ("delivery", "Seconds from the acceptance of a delivery to its end.", durations.delivery),
            ("queue_wait", "Seconds from the acceptance of a delivery to its first request.", durations.queue_wait),
            ("confirm", "Seconds until the XMPP server was known to have a stanza.", durations.confirm),
            ("spool_commit", "Seconds that a transaction of the spool took.", durations.spool_commit),
            ("reactor_lag", "Seconds that timers were late.", durations.reactor_lag),
        ):
            # Of a copy, for the spool's thread may count meanwhile.
            bounds = [*map(floatToGoString, histogram.bounds), "+Inf"]
            buckets = list(zip(bounds, accumulate(histogram.counts[:]), strict=True))
            family = HistogramMetricFamily(f"{_PREFIX}_{name}_seconds", text)
            family.add_metric([], buckets, histogram.total)
            yield family
