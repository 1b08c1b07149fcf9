"""The alerts and the dashboard fit the gateway, its documents, and Prometheus."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from typing import Any

from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from component_http.delivery.status import STATES, Status
from component_http.operations.events import EVENTS
from component_http.operations.exposition import Exposition
from component_http.operations.lag import Lag
from component_http.operations.metrics import Counters, Durations
from component_http.operations.view import ComponentView, View, WebhookView
from tests.unit.test_docs import DOCS, table

FILES = DOCS / "monitoring"
PAGE = (DOCS / "monitoring.md").read_text("utf-8")
RULES = (FILES / "alerts.yml").read_text("utf-8")
ALERTS = re.findall(r"alert: (\w+)", RULES)
DASHBOARD: Any = json.loads((FILES / "dashboard.json").read_text("utf-8"))
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def metrics() -> str:
    """The metrics of a gateway that has all of them."""
    status = Status(1, 10, 1, "open", ("full",), 1.0, "status 500", 1.0, 1e9, 2.0)
    component = ComponentView(status, True, 0, {"": WebhookView("open", 1.0, "status 500")}, 1e9)
    view = View({"bot.example.org": component}, Counters(), 1, 1, 1.0, {"version": "1"}, 1.0, {"api.listen": 1e9})
    clock, durations = MemoryReactorClock(), Durations()
    return Exposition(lambda: view, durations, Lag(clock, durations.reactor_lag), clock.seconds).text().decode()


def names(text: str) -> set[str]:
    return set(re.findall(r"\bcomponent_http_\w+", text))


class MonitoringTests(SynchronousTestCase):
    """The files for Prometheus and Grafana."""

    def test_metrics_exist(self) -> None:
        """
        Each metric of the alerts, of the dashboard and of the page is one that the gateway has.
        """
        there = names(metrics())
        for text in (RULES, *QUERIES, (FILES / "alerts_test.yml").read_text("utf-8"), PAGE):
            self.assertEqual(set(), names(text) - there)

    def test_metrics_are_documented(self) -> None:
        """
        The page explains each metric of the gateway.
        """
        cells = " ".join(row[0] for row in table(DOCS / "monitoring.md", "metric", "what it is"))
        documented = {f"component_http_{name}" for name in re.findall(r"[a-z_]{2,}", re.sub(r"\{.*?\}", "", cells))}
        there = {re.sub("_(bucket|sum|count|created)$", "", name) for name in names(metrics())}
        self.assertEqual(documented, there - {"component_http_events"})

    def test_events_exist(self) -> None:
        """
        Each event of the alerts and of the dashboard exists, and so does each state of a webhook.
        """
        for label, known in (("event", EVENTS), ("state", STATES)):
            found = re.findall(rf'{label}=~?"([^"]+)"', "\n".join([RULES, *QUERIES]))
            self.assertTrue(found)
            for pattern in {part for each in found for part in each.split("|")}:
                self.assertTrue([name for name in known if re.fullmatch(pattern, name)], pattern)

    def test_runbook(self) -> None:
        """
        Each alert has a section that says what to do, and leads to it.
        """
        self.assertEqual(ALERTS, re.findall(r"^### (\w+)$", PAGE, re.MULTILINE))
        linked = re.findall(r"runbook: docs/monitoring\.md#(\w+)", RULES)
        self.assertEqual([alert.lower() for alert in ALERTS], linked)

    def test_panels_do_not_overlap(self) -> None:
        """
        Each panel of the dashboard has its own place.
        """
        places = [
            (panel["gridPos"]["x"] + x, panel["gridPos"]["y"] + y)
            for panel in DASHBOARD["panels"]
            for x in range(panel["gridPos"]["w"])
            for y in range(panel["gridPos"]["h"])
        ]
        self.assertEqual(len(set(places)), len(places))
        self.assertLessEqual(max(x for x, _ in places), 23)


class PromtoolTests(SynchronousTestCase):
    """Prometheus reads what is for it."""

    def promtool(self, *arguments: str, given: str | None = None) -> None:
        if shutil.which("promtool") is None:
            raise SkipTest("promtool is not installed (Debian: apt-get install prometheus), so no alert is tried")
        ran = subprocess.run(["promtool", *arguments], input=given, capture_output=True, text=True, check=False)
        self.assertEqual(0, ran.returncode, ran.stdout + ran.stderr)

    def test_rules(self) -> None:
        """
        The alerts can be read; each fires in the world of its test, and none in a calm one.
        """
        self.promtool("check", "rules", str(FILES / "alerts.yml"))
        self.promtool("test", "rules", str(FILES / "alerts_test.yml"))
        tested = re.findall(r"- name: (\w+)", (FILES / "alerts_test.yml").read_text("utf-8"))
        self.assertEqual([*(alert.removeprefix("ComponentHttp") for alert in ALERTS), "calm"], tested)

    def test_metrics(self) -> None:
        """
        Prometheus reads the metrics, and has nothing against their names.
        """
        self.promtool("check", "metrics", given=metrics())

    def test_queries(self) -> None:
        """
        Prometheus reads each query of the dashboard.
        """
        rules = [
            {"record": f"panel:{number}", "expr": query.replace("$__rate_interval", "5m").replace("$instance", ".*")}
            for number, query in enumerate(QUERIES)
        ]
        path = self.mktemp() + ".yml"
        with open(path, "w") as file:
            json.dump({"groups": [{"name": "dashboard", "rules": rules}]}, file)  # JSON is YAML
        self.promtool("check", "rules", path)
