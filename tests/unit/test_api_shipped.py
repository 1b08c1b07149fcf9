"""The templates that come along, with what the programs post that they are for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from component_http.api.template import MAX_CHARACTERS, SHIPPED, Template, TemplateFailed, shipped
from component_http.contract.objects import read_json
from component_http.settings import HookSettings

TEMPLATES = {name: Template(shipped(name), name, lambda: 0.0) for name in SHIPPED}
"""All of them, with a clock that stands still: how long this machine takes is not what is tested here."""


class ShippedCase(SynchronousTestCase):
    """A test of one of them."""

    NAME: ClassVar[str]

    def text(self, payload: object) -> str:
        return TEMPLATES[self.NAME].render(read_json(json.dumps(payload).encode()))


class AlertmanagerTests(ShippedCase):
    """`alertmanager`, as Alertmanager's documentation of its webhook has it, version 4."""

    NAME = "alertmanager"

    def alerts(self, *alerts: Mapping[str, object], **more: object) -> str:
        return self.text({"version": "4", "status": "firing", "alerts": alerts, **more})

    def test_told_apart(self) -> None:
        """
        Alerts that differ in any label are told apart by it; what all have in common is not repeated.
        """
        alerts = [
            {
                "status": status,
                "labels": {
                    "alertname": "DiskFull",
                    "instance": "db1",
                    "job": "node",
                    "severity": severity,
                    "mount": mount,
                },
                "annotations": {"summary": "The disk is full"},
            }
            for status, severity, mount in (
                ("firing", "critical", "/var"),
                ("firing", "warning", "/home"),
                ("resolved", "warning", "/home"),
            )
        ]
        self.assertEqual(
            "CRITICAL: DiskFull on db1\nmount=/var\nThe disk is full\n\n"
            "WARNING: DiskFull on db1\nmount=/home\nThe disk is full\n\n"
            "RESOLVED: DiskFull on db1\nseverity=warning, mount=/home\nThe disk is full",
            self.alerts(*alerts, commonLabels={"alertname": "DiskFull", "instance": "db1", "job": "node"}),
        )

    def test_without_annotations(self) -> None:
        """
        An alert that says nothing is shown with all its labels, also without a name.
        """
        self.assertEqual(
            "FIRING: alert\njob=node, team=db",
            self.alerts({"labels": {"job": "node", "team": "db"}}, commonLabels={"job": "node", "team": "db"}),
        )
        self.assertEqual("FIRING: alert", self.alerts({"labels": None, "annotations": None}))

    def test_long(self) -> None:
        """
        Alerts that do not fit are counted with those that Alertmanager has left out.
        """
        alerts = [
            {"labels": {"alertname": f"A{n}", "instance": f"host{n}"}, "annotations": {"summary": "x" * 80}}
            for n in range(150)
        ]
        text = self.alerts(*alerts, truncatedAlerts=60)
        shown = text.count("FIRING")
        self.assertGreater(shown, 50)
        self.assertTrue(text.endswith(f"x\n\nand {150 - shown + 60} more"), text[-99:])
        self.assertLessEqual(len(text), MAX_CHARACTERS)

    def test_one_that_is_long(self) -> None:
        """
        A long text of one alert does not take the place of the others.
        """
        long = {"labels": {"alertname": "Long"}, "annotations": {"summary": "s" * 9999, "description": "d" * 9999}}
        self.assertIn("FIRING: Short", self.alerts(long, {"labels": {"alertname": "Short"}}))

    def test_nothing(self) -> None:
        """
        Without an alert nothing is said, unless some were left out.
        """
        self.assertEqual(("", "and 3 more"), (self.alerts(), self.alerts(truncatedAlerts=3)))


class GrafanaTests(ShippedCase):
    """`grafana`, as its documentation of the webhook notifier has it, and as it was before version 9."""

    NAME = "grafana"

    def test_alert(self) -> None:
        """
        An alert is shown with its values and the link to its panel.
        """
        alert = {
            "status": "firing",
            "labels": {"alertname": "High memory usage", "team": "blue", "zone": "us-1"},
            "annotations": {"summary": "High memory in us-1", "runbook_url": "https://runbook.example"},
            "startsAt": "2021-10-12T09:51:03.157076+02:00",
            "generatorURL": "https://grafana.example/alerting/1afz29v7z/edit",
            "silenceURL": "https://grafana.example/alerting/silence/new",
            "dashboardURL": "https://grafana.example/d/abc",
            "panelURL": "https://grafana.example/d/abc?viewPanel=1",
            "values": {"B": 44.23943737541908, "C": 1, "D": None},
        }
        payload = {
            "receiver": "xmpp",
            "status": "firing",
            "orgId": 1,
            "alerts": [alert, {**alert, "status": "resolved"}],
            "commonLabels": {"team": "blue"},
            "title": "[FIRING:1]  (blue)",
            "state": "alerting",
            "message": "**Firing**\n\nLabels:\n - alertname = T2",
        }
        self.assertEqual(
            "FIRING: High memory usage\nzone=us-1\nHigh memory in us-1\nB=44.239, C=1\n"
            "https://grafana.example/d/abc?viewPanel=1\n\n"
            "RESOLVED: High memory usage\nzone=us-1\nHigh memory in us-1",
            self.text(payload),
        )

    def test_old_alert(self) -> None:
        """
        An alert of an old Grafana is shown with what it has.
        """
        payload = {
            "evalMatches": [{"value": 100, "metric": "High value", "tags": None}],
            "imageUrl": "https://grafana.example/i.png",
            "message": "Someone is testing",
            "ruleId": 0,
            "ruleName": "Test notification",
            "ruleUrl": "https://grafana.example/r",
            "state": "alerting",
            "title": "[Alerting] Test notification",
        }
        self.assertEqual(
            "[Alerting] Test notification\nSomeone is testing\nHigh value: 100\nhttps://grafana.example/r\n"
            "https://grafana.example/i.png",
            self.text(payload),
        )


class ForgeCase(ShippedCase):
    """A forge, whose payloads all name a repository and a sender."""

    REPOSITORY: ClassVar[Mapping[str, object]] = {"id": 1, "name": "hello", "full_name": "octo/hello"}
    SENDER: ClassVar[Mapping[str, object]] = {"login": "alice", "id": 2}

    def event(self, **payload: object) -> str:
        return self.text({**payload, "repository": self.REPOSITORY, "sender": self.SENDER})


ISSUE = {"number": 1, "title": "Spelling error", "html_url": "https://f.example/i/1", "state": "open", "body": "It is."}
PULL = {"number": 2, "title": "Mend it", "html_url": "https://f.example/p/2", "merged": False, "head": {"ref": "fix"}}


class GithubTests(ForgeCase):
    """`github`, by the examples of GitHub's documentation of events."""

    NAME = "github"

    def push(self, count: int = 1, **more: object) -> str:
        commits = [
            {"id": f"{n:07d}aaaaaaaa", "message": f"Change {n}\n\nat length", "author": {"name": "Mona"}}
            for n in range(count)
        ]
        return self.event(
            **{
                "ref": "refs/heads/main",
                "before": "6113728f27ae82c7b1a177c8d03f9e96e0adf246",
                "after": "59b20b8d5c6ff8d09518216e87fc0d41dcb6ad30",
                "created": False,
                "deleted": False,
                "forced": False,
                "compare": "https://f.example/compare",
                "commits": commits,
                "head_commit": commits[-1] if commits else None,
                "pusher": {"name": "alice"},
                **more,
            }
        )

    def test_push(self) -> None:
        """
        A push is told with the first lines of its commits, and how many more there are.
        """
        self.assertEqual(
            "[octo/hello] alice pushed 1 commit to main\n0000000 Change 0 (Mona)\nhttps://f.example/compare",
            self.push(),
        )
        lines = self.push(12, forced=True).split("\n")
        self.assertEqual("[octo/hello] alice force-pushed 12 commits to main", lines[0])
        self.assertEqual(["0000009 Change 9 (Mona)", "and 2 more", "https://f.example/compare"], lines[10:])

    def test_branches_and_tags(self) -> None:
        """
        What is created or deleted is told, by a push and by an event of its own.
        """
        zeros = "0" * 40
        for text, told in (
            ("created branch main\nhttps://f.example/compare", self.push(0, created=True, before=zeros)),
            ("moved branch main\nhttps://f.example/compare", self.push(0, forced=True)),
            ("deleted branch main", self.push(0, deleted=True, after=zeros)),
            ("created tag v1\nhttps://f.example/compare", self.push(0, ref="refs/tags/v1", created=True)),
            ("created branch fix", self.event(ref="fix", ref_type="branch", master_branch="main", pusher_type="user")),
            ("deleted tag v1", self.event(ref="v1", ref_type="tag", pusher_type="user")),
        ):
            self.assertEqual(f"[octo/hello] alice {text}", told)

    def test_ping(self) -> None:
        """
        The ping by which GitHub tries a new webhook is told.
        """
        self.assertEqual(
            "[octo/hello] the webhook works: Keep it logically awesome.",
            self.event(zen="Keep it logically awesome.", hook_id=1, hook={"type": "Repository", "active": True}),
        )

    def test_issues_and_pull_requests(self) -> None:
        """
        Issues and pull requests are told with what happened to them, who did it, and their title.
        """
        for text, told in (
            (
                "issue #1 opened by alice: Spelling error\nhttps://f.example/i/1",
                self.event(action="opened", issue=ISSUE),
            ),
            (
                "issue #1 labeled bug by alice: Spelling error\nhttps://f.example/i/1",
                self.event(action="labeled", issue=ISSUE, label={"name": "bug"}),
            ),
            (
                "issue #1 assigned bob by alice: Spelling error\nhttps://f.example/i/1",
                self.event(action="assigned", issue=ISSUE, assignee={"login": "bob"}),
            ),
            (
                "pull request #2 opened by alice: Mend it\nhttps://f.example/p/2",
                self.event(action="opened", number=2, pull_request=PULL),
            ),
            (
                "pull request #2 closed by alice: Mend it\nhttps://f.example/p/2",
                self.event(action="closed", number=2, pull_request=PULL),
            ),
            (
                "pull request #2 merged by alice: Mend it\nhttps://f.example/p/2",
                self.event(action="closed", number=2, pull_request={**PULL, "merged": True}),
            ),
            (
                "pull request #2 updated by alice: Mend it\nhttps://f.example/p/2",
                self.event(action="synchronize", number=2, pull_request=PULL, before="a", after="b"),
            ),
        ):
            self.assertEqual(f"[octo/hello] {text}", told)

    def test_comments_and_reviews(self) -> None:
        """
        What somebody says is told, and what it is about.
        """
        comment = {"body": "I think so.", "html_url": "https://f.example/c/3", "commit_id": "abcdef0123456789"}
        review = {"state": "changes_requested", "body": "Not yet.", "html_url": "https://f.example/r/4"}
        said = "\nI think so.\nhttps://f.example/c/3"
        for text, told in (
            (
                f"commented on issue #1: Spelling error{said}",
                self.event(action="created", issue=ISSUE, comment=comment),
            ),
            (
                f"commented on pull request #1: Spelling error{said}",
                self.event(action="created", issue={**ISSUE, "pull_request": {"url": "u"}}, comment=comment),
            ),
            (
                f"commented on pull request #2: Mend it{said}",
                self.event(action="created", pull_request=PULL, comment=comment),
            ),
            (
                "deleted a comment on issue #1: Spelling error",
                self.event(action="deleted", issue=ISSUE, comment=comment),
            ),
            (f"commented on commit abcdef0{said}", self.event(action="created", comment=comment)),
            (
                "requested changes on pull request #2: Mend it\nNot yet.\nhttps://f.example/r/4",
                self.event(action="submitted", pull_request=PULL, review=review),
            ),
            (
                "approved pull request #2: Mend it\nhttps://f.example/r/4",
                self.event(action="submitted", pull_request=PULL, review={**review, "state": "approved", "body": None}),
            ),
        ):
            self.assertEqual(f"[octo/hello] alice {text}", told)

    def test_release(self) -> None:
        """
        A release is told once, though GitHub posts it three times.
        """
        release = {"tag_name": "v1.0", "name": "The first", "html_url": "https://f.example/v1.0", "draft": False}
        self.assertEqual(
            ["", "[octo/hello] release v1.0 published by alice: The first\nhttps://f.example/v1.0", ""],
            [self.event(action=action, release=release) for action in ("created", "published", "released")],
        )

    def test_workflows(self) -> None:
        """
        Workflows, jobs and checks are told when they have ended, and how.
        """
        run = {
            "name": "CI",
            "head_branch": "main",
            "display_title": "Mend it",
            "html_url": "https://f.example/w/5",
            "status": "completed",
            "conclusion": "failure",
        }
        self.assertEqual(
            "[octo/hello] workflow CI failed on main: Mend it\nhttps://f.example/w/5",
            self.event(action="completed", workflow_run=run, workflow={"name": "CI"}),
        )
        self.assertEqual(
            "[octo/hello] job CI was cancelled on main: Mend it\nhttps://f.example/w/5",
            self.event(action="completed", workflow_job={**run, "conclusion": "cancelled"}),
        )
        check = {
            "name": "lint",
            "conclusion": "success",
            "html_url": "https://f.example/k",
            "check_suite": {"head_branch": "x"},
        }
        self.assertEqual(
            "[octo/hello] check lint succeeded on x\nhttps://f.example/k",
            self.event(action="completed", check_run=check),
        )
        for action in ("requested", "in_progress", "queued"):
            self.assertEqual("", self.event(action=action, workflow_run={**run, "conclusion": None}))

    def test_statuses(self) -> None:
        """
        The status of a commit, and of a deployment, is told once it is known.
        """
        status = {"sha": "abcdef0123", "context": "ci/x", "description": "Broken", "target_url": "https://ci.example/7"}
        self.assertEqual(
            "[octo/hello] ci/x of abcdef0: failure, Broken\nhttps://ci.example/7", self.event(state="failure", **status)
        )
        self.assertEqual("", self.event(state="pending", **status))
        self.assertEqual(
            "[octo/hello] deployment to production: success\nhttps://x.example",
            self.event(
                action="created",
                deployment={"environment": "production"},
                deployment_status={"state": "success", "environment_url": "https://x.example"},
            ),
        )

    def test_other_events(self) -> None:
        """
        An event that is not known better is told by what it is about.
        """
        for text, payload in (
            ("alice starred it", {"action": "created", "starred_at": "2024-05-01T10:00:00Z"}),
            (
                "alice forked it to bob/hello\nhttps://f.example/b",
                {"forkee": {"full_name": "bob/hello", "html_url": "https://f.example/b"}},
            ),
            (
                "alice created the wiki page Home\nhttps://f.example/h",
                {"pages": [{"action": "created", "title": "Home", "html_url": "https://f.example/h"}]},
            ),
            (
                "discussion answered by alice: How?\nhttps://f.example/d",
                {"action": "answered", "discussion": {"title": "How?", "html_url": "https://f.example/d"}},
            ),
            (
                "alert created by alice: A hole\nhttps://f.example/a",
                {
                    "action": "created",
                    "alert": {"security_advisory": {"summary": "A hole"}, "html_url": "https://f.example/a"},
                },
            ),
            ("repository publicized by alice", {"action": "publicized"}),
        ):
            self.assertEqual(f"[octo/hello] {text}", self.event(**payload))


class GiteaTests(ForgeCase):
    """`gitea`, by the payloads of Gitea and Forgejo."""

    NAME = "gitea"

    def test_push(self) -> None:
        """
        A push is told with all its commits counted, of which Gitea posts the first.
        """
        commits = [{"id": "abcdef0123", "message": "Mend it\n", "author": {"name": "Bob", "username": "bob"}}]
        self.assertEqual(
            "[octo/hello] alice pushed 7 commits to main\nabcdef0 Mend it (Bob)\nand 6 more\nhttps://f.example/compare",
            self.event(
                ref="refs/heads/main",
                before="28e1879d029cb852e4844d9c718537df08844e03",
                after="bffeb74224043ba2feb48d137756c8a9331c449a",
                compare_url="https://f.example/compare",
                commits=commits,
                total_commits=7,
                pusher={"login": "alice"},
            ),
        )

    def test_others(self) -> None:
        """
        What differs from GitHub is read, too.
        """
        comment = {"body": "Yes.", "html_url": "https://f.example/c"}
        run = {
            "conclusion": "failure",
            "head_branch": "main",
            "display_title": "Mend it",
            "html_url": "https://f.example/w",
        }
        for text, payload in (
            ("alice created branch fix", {"sha": "abcdef0123", "ref": "fix", "ref_type": "branch"}),
            ("alice deleted branch fix", {"ref": "fix", "ref_type": "branch", "pusher_type": "user"}),
            (
                "issue #1 label updated by alice: Spelling error\nhttps://f.example/i/1",
                {"action": "label_updated", "number": 1, "issue": ISSUE},
            ),
            (
                "alice commented on pull request #1: Spelling error\nYes.\nhttps://f.example/c",
                {"action": "created", "issue": ISSUE, "comment": comment, "is_pull": True},
            ),
            (
                "pull request #2 updated by alice: Mend it\nhttps://f.example/p/2",
                {"action": "synchronized", "number": 2, "pull_request": PULL},
            ),
            (
                "alice approved pull request #2: Mend it\nFine.\nhttps://f.example/p/2",
                {
                    "action": "reviewed",
                    "pull_request": PULL,
                    "review": {"type": "pull_request_review_approved", "content": "Fine."},
                },
            ),
            (
                "alice requested changes on pull request #2: Mend it\nNo.\nhttps://f.example/p/2",
                {
                    "action": "reviewed",
                    "pull_request": PULL,
                    "review": {"type": "pull_request_review_rejected", "content": "No."},
                },
            ),
            (
                "release v1 published by alice\nhttps://f.example/v1",
                {
                    "action": "published",
                    "release": {"tag_name": "v1", "name": "v1", "html_url": "https://f.example/v1"},
                },
            ),
            (
                "workflow ci.yml failed on main: Mend it\nhttps://f.example/w",
                {"action": "completed", "workflow": {"name": "ci.yml"}, "workflow_run": run},
            ),
            (
                "workflow ci.yml failed: Mend it\nhttps://f.example/w",
                {
                    "action": "failure",
                    "run": {"workflow_id": "ci.yml", "title": "Mend it", "html_url": "https://f.example/w"},
                },
            ),
            ("alice edited the wiki page Home", {"action": "edited", "page": "Home", "comment": "a comment"}),
            (
                "package created by alice: hello\nhttps://f.example/k",
                {"action": "created", "package": {"name": "hello", "html_url": "https://f.example/k"}},
            ),
        ):
            self.assertEqual(f"[octo/hello] {text}", self.event(**payload))


class GenericTests(ShippedCase):
    """`generic`, which is for all others."""

    NAME = "generic"

    def test_texts(self) -> None:
        """
        The text is found under the names that programs give it, with its title and its link.
        """
        for text, payload in (
            ("hello", {"username": "bot", "content": "hello", "embeds": []}),
            ("[web] Down", {"heartbeat": {"status": 0, "msg": "x"}, "msg": "[web] Down"}),
            (
                "My First Message\nHello world!",
                {"Type": "Notification", "Subject": "My First Message", "Message": "Hello world!"},
            ),
            (
                "confirm\nhttps://sns.example/",
                {
                    "Type": "SubscriptionConfirmation",
                    "Token": "x" * 99,
                    "Message": "confirm",
                    "SubscribeURL": "https://sns.example/",
                },
            ),
            ("said", {"message": {"nested": 1}, "text": "", "description": "said"}),
        ):
            self.assertEqual(text, self.text(payload))

    def test_no_text(self) -> None:
        """
        Where there is none, each property is told in a line, an object by its name.
        """
        payload = {
            "action": "opened",
            "issue": {"id": 9, "title": "Spelling error", "user": {"login": "x"}},
            "commits": [{"id": "a", "message": "one"}, {"id": "b", "message": "two"}],
            "hosts": ["a", "b", "c", "d", "e", "f"],
            "sender": {"login": "alice", "id": 7},
            "count": 0,
            "odd": {"x": [1]},
            "lists": [[1, 2], {}],
            "none": None,
            "empty": "",
        }
        self.assertEqual(
            "action: opened\nissue: Spelling error\ncommits: one, two\nhosts: a, b, c, d, e, and 1 more\n"
            'sender: alice\ncount: 0\nodd: {"x": [1]}\nlists: [1, 2], {}',
            self.text(payload),
        )

    def test_lists(self) -> None:
        """
        A list is told in lines, and what does not fit is counted.
        """
        self.assertEqual("first\nsecond\n3", self.text([{"message": "first"}, "second", 3]))
        self.assertTrue(self.text([{"message": "x"}] * 60).endswith("x\nand 10 more"))
        self.assertTrue(self.text({f"k{n}": n for n in range(60)}).endswith("k49: 49\nand 10 more"))


_WORDS = (
    *("action", "alerts", "annotations", "assignee", "commits", "comment", "commonLabels", "evalMatches", "issue"),
    *("labels", "message", "pull_request", "ref", "ref_type", "release", "repository", "review", "run", "sender"),
    *("state", "title", "truncatedAlerts", "values", "workflow_run", "full_name", "body", "name", "pages", "sha"),
)
_JSON: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.sampled_from(["", "completed", "refs/heads/x"])),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(_WORDS), inner, max_size=5)),
    max_leaves=15,
)


class ShippedTests(SynchronousTestCase):
    """All of them."""

    def test_settings(self) -> None:
        """
        Each can be named in the settings.
        """
        for name in SHIPPED:
            hook = HookSettings(name="x", secret="0123456789abcdef", to="a@example.org", template=name)
            self.assertEqual(name, hook.template)

    @given(st.sampled_from(sorted(SHIPPED)), _JSON)
    def test_whatever_comes(self, name: str, payload: Any) -> None:
        """
        Whatever comes makes a text, or is told to be nothing for the template.
        """
        try:
            text = TEMPLATES[name].render(read_json(json.dumps(payload).encode()))
        except TemplateFailed as failed:
            self.assertIn("the template cannot do with this", str(failed))
        else:
            self.assertLessEqual(len(text), MAX_CHARACTERS)
