"""The commands `component-http letters`, `component-http pending` and `component-http spool`."""

from __future__ import annotations

import argparse
import io
import json
import os
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from component_http.cli import command_line
from component_http.commands import on_spool
from component_http.commands.arguments import seconds
from component_http.commands.letters import shortest
from component_http.commands.on_spool import BREATH
from component_http.contract.explanation import Explanation, HeldBy
from component_http.spool.database import lock
from component_http.spool.dead_letters import AT_ONCE
from component_http.spool.facts import Answer, answer, facts_of_each
from component_http.spool.pending import ANSWER_WITHIN, LOOK_AGAIN, Pending
from component_http.spool.schema import SCHEMA
from tests.unit.dead_letters import REPLY, add, changing, look, new_spool
from tests.unit.test_cli import Ended, run


class CommandCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.enterContext(TemporaryDirectory()))
        self.path = new_spool(self.folder / "spool.sqlite3")

    def add(self, letter_id: str, *, age: float = 200.0, **columns: Any) -> None:
        """A letter of so many seconds ago."""
        add(self.path, letter_id, ended=time.time() - age, **columns)

    def letters(self, *arguments: str) -> Ended:
        return run("letters", *arguments, "--spool", str(self.path))

    def left(self) -> list[str]:
        return [row[0] for row in look(self.path, "SELECT id FROM letters ORDER BY number")]


class ListTests(CommandCase):
    """`component-http letters list`."""

    def test_table(self) -> None:
        """
        A line for each letter, oldest first, with what it is about, and nothing that drives the terminal.
        """
        self.add("5f1c09aa5f1c", age=7300)
        self.add("5f1c09ab5f1c", outcome="expired", status=None, body=b'{"body": "\\u001b[2J\\nbye \xe6\x97\xa5"}')
        self.add("i1", kind="iq", type="get", body=b"{}", sender="bob@example.org/a-very-long-resource")
        self.assertEqual(
            Ended(
                0,
                "ID        AGE    OUTCOME  HTTP  FROM                    TO              TEXT\n"
                "5f1c09aa  2 h    bounced  404   alice@example.org/x     bot@bot.examp…  hello\n"
                "5f1c09ab  3 min  expired        alice@example.org/x     bot@bot.examp…  \\x1b[2J bye 日\n"
                "i1        3 min  bounced  404   bob@example.org/a-ver…  bot@bot.examp…  <iq get/>\n",
                "",
            ),
            self.letters("list"),
        )

    def test_limit(self) -> None:
        """
        Of many the newest are listed, and it is said that there are more.
        """
        for number in range(4):
            self.add(f"d{number}")
        ended = self.letters("list", "--limit", "2")
        self.assertEqual(["ID", "d2", "d3"], [line.split()[0] for line in ended.output.splitlines()])
        self.assertEqual((0, "the newest 2 of 4; --limit 0 for all\n"), (ended.status, ended.error))
        self.assertEqual("", self.letters("list").error)

    def test_json(self) -> None:
        """
        For another program there is a JSON array, without requests and responses.
        """
        add(self.path, "d1")
        ended = self.letters("list", "--json")
        self.assertEqual(
            [
                {
                    "id": "d1",
                    "outcome": "bounced",
                    "note": "the webhook said 404",
                    "kind": "message",
                    "type": "chat",
                    "stanza_id": "m1",
                    "from": "alice@example.org/x",
                    "to": "bot@bot.example.org",
                    "accepted": "1970-01-01T00:16:40Z",
                    "ended": "1970-01-01T00:31:40Z",
                    "tries": 3,
                    "bytes": 20,
                    "status": 404,
                    "media_type": "text/plain",
                }
            ],
            json.loads(ended.output),
        )

    def test_none(self) -> None:
        """
        Where there is none the status is 1, and it is said whether that is because of what was asked for.
        """
        self.assertEqual(Ended(1, "", "component-http: there are no dead letters\n"), self.letters("list"))
        self.add("d1")
        expected = "component-http: there is no such letter\n"
        self.assertEqual(Ended(1, "", expected), self.letters("list", "--outcome", "expired"))
        self.assertEqual(Ended(1, "[]\n", expected), self.letters("list", "--older-than", "1h", "--json"))

    def test_filters(self) -> None:
        """
        Filters are by outcome, kind, address and age, and letters are named by the beginnings of their ids.
        """
        self.add("aa1", age=7000)
        self.add("aa2", outcome="expired", sender="bob@example.org/y")
        self.add("bb1", outcome="refused_reply", kind="presence", recipient="other@bot.example.org")
        for arguments, expected in (
            (["--outcome", "expired,refused_reply"], ["aa2", "bb1"]),
            (["--kind", "presence"], ["bb1"]),
            (["--from", "bob@example.org"], ["aa2"]),
            (["--to", "other@bot.example.org"], ["bb1"]),
            (["--newer-than", "1h"], ["aa2", "bb1"]),
            (["--older-than", "1h"], ["aa1"]),
            (["b", "aa1"], ["aa1", "bb1"]),
            (["b", "aa1", "--kind", "presence"], ["bb1"]),
        ):
            with self.subTest(arguments=arguments):
                found = json.loads(self.letters("list", "--json", *arguments).output)
                self.assertEqual(expected, [one["id"] for one in found])

    def test_unclear(self) -> None:
        """
        The beginning of several ids, and that of none, are told; the others are listed.
        """
        for letter_id in ("aa1", "aa2", "bb1"):
            self.add(letter_id)
        ended = self.letters("list", "a", "b", "c\x1b")
        self.assertEqual(1, ended.status)
        self.assertEqual(2, len(ended.output.splitlines()))
        self.assertEqual(
            "component-http: a may mean 2 letters: aa1, aa2\ncomponent-http: there is no letter c\\x1b\n", ended.error
        )


class ShowTests(CommandCase):
    """`component-http letters show`."""

    def test_show(self) -> None:
        """
        One letter is shown with its request, its last response and its times.
        """
        self.add("5f1c09aa5f1c", age=7300, response=b"no such bot\x07\xff")
        ended = self.letters("show", "5f")
        self.assertEqual((0, ""), (ended.status, ended.error))
        self.assertRegex(
            ended.output,
            r"""\Aid        5f1c09aa5f1c
outcome   bounced: the webhook said 404
stanza    message of type chat with id m1
from      alice@example\.org/x
to        bot@bot\.example\.org
accepted  1970-01-01 00:16:40 UTC, \d+ d ago
given up  \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC, 2 h ago
POSTs     3 reached the webhook

request, 48 B:
\{
  "from": "alice@example\.org/x",
  "body": "hello"
\}

response, 404 text/plain, 13 B:
no such bot\\x07�
\Z""",
        )

    def test_stanza_that_did_not_leave(self) -> None:
        """
        Of what did not leave the stanza is shown.
        """
        self.add("d1.7", unsent=True, outcome="reply_expired", note="it could not leave in time")
        ended = self.letters("show", "d1")
        self.assertTrue(ended.output.endswith(f"\n\nstanza, {len(REPLY)} B:\n{REPLY.decode()}\n"), ended.output)
        self.assertNotIn("POSTs", ended.output)

    def test_not_one(self) -> None:
        """
        Without exactly one that is meant, the status is 1.
        """
        self.add("aa1")
        self.add("aa2")
        self.assertEqual(Ended(1, "", "component-http: there is no letter b\n"), self.letters("show", "b"))
        self.assertEqual(
            Ended(1, "", "component-http: a may mean 2 letters: aa1, aa2\n"), self.letters("show", "a", "--json")
        )

    def test_json(self) -> None:
        """
        For another program everything is there; a response that is no text is in base64.
        """
        self.add("d1", response=b"\xff\x00")
        shown = json.loads(self.letters("show", "d1", "--json").output)
        self.assertEqual({"from": "alice@example.org/x", "body": "hello"}, shown["request"])
        self.assertEqual((None, "/wA=", None), (shown["response"], shown["response_base64"], shown["reply"]))


class ExportTests(CommandCase):
    """`component-http letters export`."""

    def test_export(self) -> None:
        """
        Each letter is one line of JSON with everything that was kept, oldest first.
        """
        self.add("d2", body=b"no\nJSON")
        self.add("d1.1", unsent=True)
        ended = self.letters("export")
        self.assertEqual((0, ""), (ended.status, ended.error))
        first, second = (json.loads(line) for line in ended.output.splitlines())
        self.assertEqual(("d2", "no\nJSON", "no such bot"), (first["id"], first["request"], first["response"]))
        self.assertEqual(("d1.1", None, REPLY.decode()), (second["id"], second["request"], second["reply"]))
        self.assertEqual(["d2", "d1.1"], self.left())

    def test_none(self) -> None:
        """
        Nothing is written where there is none, and the status is 1.
        """
        self.assertEqual(Ended(1, "", "component-http: there are no dead letters\n"), self.letters("export"))


class MoveTests(CommandCase):
    """`component-http letters retry` and `drop`."""

    def test_retry(self) -> None:
        """
        It is said how many are retried, which, and that a gateway has yet to start; an iq is refused in a sentence.
        """
        self.add("5f1c09aa5f1c")
        self.add("5f1c09ab5f1c")
        self.add("i1", kind="iq")
        self.assertEqual(
            Ended(
                1,
                "retried 2: 5f1c09aa, 5f1c09ab\nno gateway has this spool now; the next one that starts takes them\n",
                "component-http: i1 is not retried: an iq has one answer, and who asked has had it or waits no more\n",
            ),
            self.letters("retry", "--all"),
        )
        self.assertEqual(["i1"], self.left())

    def test_retry_while_a_gateway_runs(self) -> None:
        """
        Where a gateway runs, it takes them, and no more is said.
        """
        self.add("d1")
        self.addCleanup(lock(self.path).release)
        self.assertEqual(Ended(0, "retried 1: d1\n", ""), self.letters("retry", "d"))

    def test_drop(self) -> None:
        """
        What is dropped is gone, by id or by filters.
        """
        for letter_id in ("aa1", "aa2", "bb1"):
            self.add(letter_id, kind="iq" if letter_id == "aa1" else "message")
        self.assertEqual(Ended(0, "dropped 1: bb1\n", ""), self.letters("drop", "b"))
        self.assertEqual(Ended(0, "dropped 1: aa1\n", ""), self.letters("drop", "--all", "--kind", "iq"))
        self.assertEqual(["aa2"], self.left())

    def test_json(self) -> None:
        """
        For another program there are whole ids and reasons.
        """
        self.add("5f1c09aa5f1c")
        self.add("i1", kind="iq")
        ended = self.letters("retry", "--all", "--json")
        self.assertEqual((1, ""), (ended.status, ended.error))
        result = json.loads(ended.output)
        self.assertEqual((["5f1c09aa5f1c"], "i1"), (result["retried"], result["refused"][0]["id"]))
        result = json.loads(self.letters("drop", "--all", "--json").output)
        self.assertEqual({"dropped": ["i1"], "refused": []}, result)
        ended = self.letters("drop", "--all", "--json")
        self.assertEqual((1, {"dropped": [], "refused": []}), (ended.status, json.loads(ended.output)))

    def test_nothing_by_mistake(self) -> None:
        """
        Without an id it takes --all; an empty id, as of an empty variable, and both at once are refused.
        """
        self.add("d1")
        for arguments in ([], ["--kind", "message"], [""], ["d1", "--all"]):
            for verb in ("drop", "retry"):
                ended = self.letters(verb, *arguments)
                self.assertEqual((2, ""), (ended.status, ended.output), arguments)
        self.assertEqual(["d1"], self.left())

    def test_many(self) -> None:
        """
        Many are moved in several steps, between which the gateway gets its turn; not all of them are named.
        """
        count = 2 * AT_ONCE + 1
        with changing(self.path) as other:
            add(self.path, "000")
            for number in range(1, count):
                other.execute(
                    "INSERT INTO letters SELECT NULL, ?, outcome, kind, type, stanza_id, sender, recipient,"
                    " through_room, uri, accepted, ended, tries, size, body, note, status, media_type, response, reply"
                    " FROM letters WHERE id = '000'",
                    (f"{number:03}",),
                )
        chosen = command_line().parse_args(["letters", "retry", "--all", "--spool", str(self.path)])
        pauses: list[float] = []
        output = io.StringIO()
        with redirect_stdout(output):
            self.assertEqual(0, on_spool.main(chosen, pause=pauses.append))
        self.assertEqual([BREATH] * 2, pauses)
        self.assertIn(
            f"retried {count}: 000, 001, 002, 003, 004, 005, 006, 007, 008, 009 and 191 more\n", output.getvalue()
        )
        self.assertEqual([(f"{number:03}",) for number in range(count)], look(self.path, "SELECT id FROM deliveries"))

    def test_busy(self) -> None:
        """
        While another program writes without end, one sentence says so, with a status of its own.
        """
        self.add("d1")
        chosen = command_line().parse_args(["letters", "drop", "d1", "--spool", str(self.path)])
        error = io.StringIO()
        with changing(self.path) as other, redirect_stderr(error):
            other.execute("BEGIN IMMEDIATE")
            self.assertEqual(os.EX_TEMPFAIL, on_spool.main(chosen, patience=0.01))
        self.assertRegex(error.getvalue(), r"\Acomponent-http: the spool .* is busy: .*; try again\n\Z")


class StatusTests(CommandCase):
    """`component-http spool status`."""

    def status(self, *arguments: str) -> Ended:
        return run("spool", "status", "--spool", str(self.path), *arguments)

    def test_empty(self) -> None:
        """
        A spool that nobody has and that holds nothing.
        """
        ended = self.status()
        self.assertEqual((0, ""), (ended.status, ended.error))
        self.assertRegex(
            ended.output,
            rf"""\Aspool       {self.path}, schema {max(SCHEMA)}
gateway     none is running
deliveries  0
departures  0
letters     0
disk        file [\d.]+ KiB, log 0 B, ballast none
\Z""",
        )

    def test_running(self) -> None:
        """
        Who has it, how the webhook is, how much there is and how old.
        """
        self.add("d1", accepted=time.time() - 100)
        self.letters("retry", "d1")
        self.add("d2", age=7300)
        with changing(self.path) as other:
            other.execute("INSERT INTO facts VALUES ('webhook', 'open')")
        Path(f"{self.path}.ballast").write_bytes(b"x" * 2048)
        self.assertIn("webhook     failing, so deliveries wait, when a gateway ran last\n", self.status().output)
        self.addCleanup(lock(self.path).release)
        lines = self.status().output.splitlines()
        self.assertEqual(
            [
                f"gateway     running, process {os.getpid()}",
                "webhook     failing, so deliveries wait",
                "deliveries  1, 20 B, the oldest 1 min ago",
                "departures  0",
                "letters     1, 59 B, the oldest 2 h ago",
            ],
            lines[1:6],
        )
        self.assertTrue(lines[6].endswith(", ballast 2.0 KiB"))

    def trouble(self, state: str, **trouble: float | str | None) -> str:
        """How the webhook is said to be."""
        with changing(self.path) as other:
            facts = [("webhook", state), ("webhook_trouble", json.dumps(trouble))]
            other.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", facts)
        [line] = [line for line in self.status().output.splitlines() if line.startswith("webhook ")]
        return line.removeprefix("webhook     ")

    def test_failing(self) -> None:
        """
        Since when the webhook fails, why, and when it is asked next; without a gateway that runs only what was.
        """
        now = time.time()
        since = time.strftime("%H:%M UTC", time.gmtime(now - 725))
        trouble = {"since": now - 725, "reason": "connection refused", "next_attempt": now + 2.9}
        failing = f"failing since {since} (12 min): connection refused"
        self.assertEqual(f"{failing}, when a gateway ran last", self.trouble("open", **trouble))
        self.addCleanup(lock(self.path).release)
        self.assertEqual(f"{failing}; next try in 2 s", self.trouble("open", **trouble))
        self.assertEqual(f"{failing}; next try now", self.trouble("open", **{**trouble, "next_attempt": 0.0}))
        self.assertEqual(f"{failing}; it is probed now", self.trouble("half_open", **{**trouble, "next_attempt": None}))
        self.assertEqual(f"{failing}; POSTs go on", self.trouble("closed", **{**trouble, "next_attempt": 0.0}))
        self.assertEqual(f"{failing}; it has asked for a pause, next try in 2 s", self.trouble("closed", **trouble))
        self.assertEqual(
            "healthy; it has asked for a pause, next try in 2 s",
            self.trouble("closed", **{**trouble, "since": None}),
        )
        self.assertRegex(
            self.trouble("open", **{**trouble, "since": 0.0}), r"since 1970-01-01 00:00:00 UTC \(\d+ d\): "
        )
        found = json.loads(self.status("--json").output)
        self.assertEqual("connection refused", found["webhook_last_failure"])
        self.assertEqual("1970-01-01T00:00:00Z", found["webhook_failing_since"])
        self.assertRegex(found["webhook_next_try"], r"\A\d{4}-.*Z\Z")

    def test_several_webhooks(self) -> None:
        """
        Of several components there is a line for each.
        """
        facts = facts_of_each(
            {"red.example.org": {"webhook": "closed"}, "blue.example.org": {"webhook": "open", "webhook_trouble": ""}}
        )
        with changing(self.path) as other:
            other.executemany("INSERT INTO facts VALUES (?, ?)", [*facts.items(), ("webhook", "open")])
        lines = [line for line in self.status().output.splitlines() if line.startswith("webhook ")]
        self.assertEqual(
            [
                "webhook     red.example.org: healthy, when a gateway ran last",
                "webhook     blue.example.org: failing, so deliveries wait, when a gateway ran last",
            ],
            lines,
        )
        webhooks = json.loads(self.status("--json").output)["webhooks"]
        self.assertEqual({"red.example.org": "closed", "blue.example.org": "open"}, webhooks)

    def test_no_webhook(self) -> None:
        """
        Of a gateway that only sends it says that there is no webhook.
        """
        with changing(self.path) as other:
            other.execute("INSERT INTO facts VALUES ('webhook', 'none')")
        self.assertIn("webhook     no webhook, when a gateway ran last\n", self.status().output)
        self.assertEqual("none", json.loads(self.status("--json").output)["webhook"])

    def test_json(self) -> None:
        """
        The same for another program.
        """
        self.add("d2", age=7300)
        self.addCleanup(lock(self.path).release)
        found = json.loads(self.status("--json").output)
        self.assertEqual(
            (str(self.path), max(SCHEMA), True, os.getpid()),
            tuple(found[one] for one in ("path", "schema", "running", "process")),
        )
        self.assertEqual({"count": 0, "bytes": 0, "oldest": None, "oldest_age": None}, found["departures"])
        self.assertEqual((1, 59, 7300), tuple(int(found["letters"][one]) for one in ("count", "bytes", "oldest_age")))
        self.assertEqual((None, None), (found["webhook"], found["ballast_bytes"]))
        for name in ("webhook_failing_since", "webhook_last_failure", "webhook_next_try"):
            self.assertIsNone(found[name])


class PendingTests(CommandCase):
    """`component-http pending`."""

    def pending(self, *arguments: str) -> Ended:
        return run("pending", *arguments, "--spool", str(self.path))

    def wait(self) -> None:
        """A delivery and two stanzas wait."""
        with changing(self.path) as other:
            other.execute(
                "INSERT INTO deliveries VALUES (12, 'abc', 'message', 'chat', 'm1', 'alice@example.org/x',"
                " 'bot@bot.example.org', 0, 'jabber:component:accept', ?, ?, 2, 2, 2, x'7b7d', NULL)",
                (time.time() - 100, time.time() + 100),
            )
            for number, suspect in ((7, 1), (8, 0)):
                other.execute(
                    "INSERT INTO departures (number, delivery_id, kind, stored, expires, verbatim, xml, suspect)"
                    " VALUES (?, ?, 'message', ?, ?, 0, ?, ?)",
                    (number, "abd" if suspect else None, time.time() - 200, time.time() + 100, REPLY, suspect),
                )

    def waiting(self) -> list[str]:
        return [
            row[0]
            for row in look(
                self.path, "SELECT 'd' || number FROM deliveries UNION ALL SELECT 's' || number FROM departures"
            )
        ]

    def test_list(self) -> None:
        """
        A line for each delivery, and then for each stanza, oldest first.
        """
        self.assertEqual(Ended(0, "", "nothing waits\n"), self.pending("list"))
        self.wait()
        self.assertEqual(
            Ended(
                0,
                "NUMBER  AGE    STATE    SIZE  FROM                 TO                   KIND\n"
                "d12     1 min  2 POSTs  2 B   alice@example.org/x  bot@bot.example.org  <message chat/>\n"
                "s7      3 min  suspect  98 B  bot@bot.example.org  alice@example.org/x  <message chat/>\n"
                "s8      3 min  waits    98 B  bot@bot.example.org  alice@example.org/x  <message chat/>\n"
                "all of it: no gateway runs; it is tried at the next start\n",
                "",
            ),
            self.pending("list"),
        )
        some = self.pending("list", "--limit", "1")
        self.assertEqual(["NUMBER", "d12", "s7"], [line.split()[0] for line in some.output.splitlines()][:-1])
        self.assertEqual("2 of 3; --limit 0 for all\n", some.error)
        found = json.loads(self.pending("list", "--json").output)
        self.assertEqual(
            [("d12", "webhook"), ("s7", "server"), ("s8", "server")],
            [(one["number"], one["waits_for"]) for one in found],
        )

    def test_show(self) -> None:
        """
        One is shown with its content; what does not wait is said to.
        """
        self.wait()
        self.assertIn("<body>hi</body>", self.pending("show", "s7").output)
        self.assertIn("POSTs     2 reached the webhook", self.pending("show", "D12").output)
        self.assertEqual("{}", json.loads(self.pending("show", "d12", "--json").output)["content"])
        self.assertEqual(
            Ended(1, "", "component-http: there is nothing pending with the number s9\n"), self.pending("show", "s9")
        )
        self.assertEqual(2, self.pending("show", "7").status)

    def test_drop(self) -> None:
        """
        What is dropped is deleted where no gateway runs; the rest stays.
        """
        self.wait()
        self.assertEqual(
            Ended(1, "dropped 2: d12, s7\n", "component-http: s9 is not dropped: it is gone\n"),
            self.pending("drop", "d12", "s7", "s9", "s7"),
        )
        self.assertEqual(["s8"], self.waiting())

    def test_drop_while_it_runs(self) -> None:
        """
        A gateway that runs is asked to drop it, for it has it in memory.
        """
        self.wait()
        self.addCleanup(lock(self.path).release)
        self.assertEqual(0, self.pending("drop", "d12", "s7").status)
        self.assertEqual(
            [("drop_delivery", "abc"), ("drop_departure", "7")], look(self.path, "SELECT verb, argument FROM commands")
        )
        self.assertEqual(["d12", "s7", "s8"], self.waiting())

    def asking(self, *arguments: str, answers: dict[str, Any] | None = None, connected: bool = True) -> Ended:
        """
        How `pending` ends beside a gateway that runs.

        Args:
            arguments: The command line.
            answers: Explanations by delivery id; None for a gateway that does not answer.
            connected: The gateway has a stream.
        """
        self.addCleanup((taken := lock(self.path)).release)
        self.pauses = 0

        def pause(seconds: float) -> None:
            self.pauses += 1
            with changing(self.path) as other:
                asked = other.execute("SELECT number, argument FROM commands WHERE verb = 'explain'").fetchall()
                if answers is not None and asked:
                    said = answer(asked, answers.get, connected=connected, now=time.time())
                    other.execute("DELETE FROM commands")
                    other.execute("INSERT OR REPLACE INTO facts VALUES ('pending', ?)", (said,))

        chosen = command_line().parse_args(["pending", *arguments, "--spool", str(self.path)])
        output, error = io.StringIO(), io.StringIO()
        with redirect_stdout(output), redirect_stderr(error):
            status = on_spool.main(chosen, pause=pause)
        taken.release()
        self.assertEqual([], look(self.path, "SELECT * FROM commands"))
        self.assertEqual([], look(self.path, "SELECT * FROM facts WHERE name = 'pending'"))
        return Ended(status, output.getvalue(), error.getvalue())

    def test_why(self) -> None:
        """
        A gateway that runs is asked why each waits, when it is tried next, and why its last attempt failed.
        """
        self.wait()
        answers = {"abc": Explanation("backing_off", None, 5.9, "connection refused")}
        ended = self.asking("list", answers=answers)
        self.assertEqual(
            [
                "        it backs off before the next attempt; next try in 5 s; last failure: connection refused",
                "        the server may have closed the stream because of it, so it is written alone",
                "        it waits until it is written and the XMPP server has confirmed it",
            ],
            ended.output.splitlines()[2::2],
        )
        self.assertEqual(1, self.pauses)
        [shown] = [json.loads(self.asking("show", "d12", "--json", answers=answers).output)]
        self.assertEqual(
            ("backing_off", None, "connection refused"), (shown["held_by"], shown["behind"], shown["last_failure"])
        )
        self.assertRegex(shown["next_try"], r"\A\d{4}-.*Z\Z")
        words = self.asking("show", "d12", answers=answers).output
        self.assertIn("why       it backs off before the next attempt; next try in 5 s\n", words)
        self.assertIn("failure   connection refused\n", words)

    def test_known_failure(self) -> None:
        """
        A list names the failure of the webhook once, above, and in a row only a failure that is another one.
        """
        self.wait()
        with changing(self.path) as other:
            trouble = json.dumps({"since": time.time() - 5, "reason": "connection refused", "next_attempt": 0.0})
            other.execute("INSERT OR REPLACE INTO facts VALUES ('webhook_trouble', ?)", (trouble,))
        for failure, expected in (("connection refused", ""), ("HTTP status 500", "; last failure: HTTP status 500")):
            ended = self.asking("list", answers={"abc": Explanation("backing_off", None, None, failure)})
            above, _, _, reason, *_ = ended.output.splitlines()
            self.assertRegex(above, r"^webhook failing since \d\d:\d\d UTC \(\d s\): connection refused$")
            self.assertEqual(f"        it backs off before the next attempt{expected}", reason)

    def test_behind(self) -> None:
        """
        What waits behind another delivery names that one, be it listed or not.
        """
        self.wait()
        for behind, expected in (("abc", "d12"), ("gone", "gone")):
            answers = {"abc": Explanation("conversation", behind)}
            self.assertIn(f"it waits behind {expected} of the same", self.asking("show", "d12", answers=answers).output)

    def test_no_stream(self) -> None:
        """
        Stanzas for the server name a stream that is away.
        """
        self.wait()
        ended = self.asking("show", "s8", answers={}, connected=False)
        self.assertIn("why       there is no stream to the XMPP server now\n", ended.output)

    def test_no_answer(self) -> None:
        """
        A gateway that does not answer within two seconds is waited for no longer, and what waits is told all the same.
        """
        self.wait()
        ended = self.asking("list")
        self.assertEqual((0, ""), (ended.status, ended.error))
        self.assertIn("all of it: the gateway has not said why\n", ended.output)
        self.assertEqual(round(ANSWER_WITHIN / LOOK_AGAIN), self.pauses)
        self.assertEqual("no_gateway", json.loads(self.pending("show", "d12", "--json").output)["held_by"])

    def test_two_at_once(self) -> None:
        """
        Two who ask in the same second both have the answer, and nothing of it is left.
        """
        self.wait()
        taken = lock(self.path)
        self.addCleanup(taken.release)
        found: list[Answer | None] = []

        def first_pauses(seconds: float) -> None:
            with Pending(self.path) as second:
                found.append(second.explain(["abc"], second_pauses))

        def second_pauses(seconds: float) -> None:
            with changing(self.path) as other:
                asked = other.execute("SELECT number, argument FROM commands WHERE verb = 'explain'").fetchall()
                said = answer(asked, lambda _: Explanation("turn"), connected=True, now=time.time())
                other.execute("DELETE FROM commands")
                other.execute("INSERT INTO facts VALUES ('pending', ?)", (said,))

        with Pending(self.path) as first:
            found.append(first.explain(["abc"], first_pauses))
        self.assertEqual([{"abc": Explanation("turn")}] * 2, [each.deliveries if each else None for each in found])
        self.assertEqual([], look(self.path, "SELECT * FROM facts WHERE name = 'pending'"))

    def test_every_reason(self) -> None:
        """
        There is a sentence for everything that can hold a delivery.
        """
        self.wait()
        for held_by in get_args(HeldBy):
            ended = self.asking("show", "d12", answers={"abc": Explanation(held_by)})
            self.assertRegex(ended.output, r"why       \w+ ")

    def test_damaged(self) -> None:
        """
        What a gateway could not read can be listed, shown and dropped all the same.
        """
        self.wait()
        with changing(self.path) as other:
            other.execute("UPDATE deliveries SET body = 'text', accepted = x'ff', sender = x'ff', tries = 'many'")
            other.execute("UPDATE departures SET xml = 7, stored = 'soon'")
        for verb in (["list"], ["show", "d12"], ["show", "s7"], ["drop", "d12", "s7", "s8"]):
            listed = "nothing waits\n" if verb[0] == "drop" else ""
            self.assertEqual((0, listed), (self.pending(*verb).status, self.pending("list").error))
        self.assertEqual([], self.waiting())


class DamagedLetterTests(CommandCase):
    """Letters that hold what no gateway has written."""

    def test_set_aside(self) -> None:
        """
        Each is set aside and named, and the others are served.
        """
        for number, damage in enumerate(
            ({"id": b"x"}, {"ended": "soon"}, {"reply": "text"}, {"sender": b"x"}, {"status": "x"}, {"tries": b"x"})
        ):
            self.add("sound")
            add(self.path, f"d{number}", **damage)
            ended = self.letters("list")
            self.assertEqual((1, 2), (ended.status, len(ended.output.splitlines())), ended)
            self.assertIn("moved to the table set_aside", ended.error)
            self.assertEqual(["sound"], self.left())
            self.assertEqual(0, self.letters("drop", "--all").status)
        self.assertEqual([(6,)], look(self.path, "SELECT count(*) FROM set_aside WHERE source = 'letters'"))
        self.assertIn("set aside   6", run("spool", "status", "--spool", str(self.path)).output)


class PlaceTests(CommandCase):
    """Which file is meant."""

    def config(self, text: str) -> str:
        path = self.folder / "bot.toml"
        path.write_text(text)
        return str(path)

    def test_by_settings(self) -> None:
        """
        A settings file names it, without its secret or anything else that a gateway needs.
        """
        self.add("d1")
        config = self.config('[component]\nsecret_file = "none"\n[spool]\nkind = "sqlite"\npath = "spool.sqlite3"\n')
        self.assertEqual(0, run("letters", "list", "--config", config).status)

    def test_memory(self) -> None:
        """
        Where the spool is in memory there is no file, which is told.
        """
        config = self.config('[spool]\nkind = "memory"\n')
        expected = (
            f'component-http: {config}: spool.kind is "memory", so there is no file, and no dead letter is kept\n'
        )
        self.assertEqual(Ended(78, "", expected), run("letters", "list", "--config", config))
        self.assertEqual(Ended(78, "", expected), run("spool", "status", "--config", config))

    def test_wrong_settings(self) -> None:
        """
        Settings that cannot be used get their sentence.
        """
        config = self.config('[spool]\nkind = "memory"\npath = "x"\n')
        ended = run("spool", "status", "--config", config)
        self.assertEqual(78, ended.status)
        self.assertIn(f"component-http: {config}: spool.path is ", ended.error)

    def test_default(self) -> None:
        """
        Without either it is the file of a gateway without settings; that it is not there is told by its name.
        """
        ended = run("spool", "status")
        self.assertEqual((78, ""), (ended.status, ended.output))
        self.assertIn(f"there is no spool {Path.cwd() / 'component-http.sqlite3'}: ", ended.error)
        self.assertFalse(Path("component-http.sqlite3").exists())

    def test_both(self) -> None:
        """
        Two places at once are a mistake.
        """
        self.assertEqual(2, run("spool", "status", "--config", "x", "--spool", "y").status)


class WordsTests(SynchronousTestCase):
    """What is read from the command line."""

    @given(st.integers(0, 999_999_999), st.sampled_from("smhdw"))
    def test_durations(self, number: int, unit: str) -> None:
        """
        A duration is a number and a unit.
        """
        units = {"s": 1, "m": 60, "h": 3600, "d": 24 * 3600, "w": 7 * 24 * 3600}
        self.assertEqual(number * units[unit], seconds(f"{number}{unit}"))

    @given(st.text(max_size=6) | st.from_regex(r"\A-?[0-9.]*[smhdwy]?\Z"))
    def test_no_durations(self, text: str) -> None:
        """
        Anything else is refused with what is allowed.
        """
        try:
            self.assertGreaterEqual(seconds(text), 0)
        except argparse.ArgumentTypeError as error:
            self.assertIn("is not a duration such as 90s, 15m, 2h, 7d or 1w", str(error))
        else:
            self.assertRegex(text, r"\A[0-9]{1,9}(\.[0-9]{1,9})?[smhdw]\Z")

    @given(st.sets(st.text("ab", max_size=12)), st.integers(0, 10))
    def test_shortest(self, ids: set[str], least: int) -> None:
        """
        The beginning that is shown of an id means that one only, is not shorter than asked for, and not longer than
        it has to be.
        """
        shown = shortest(sorted(ids), least)
        self.assertEqual(ids, shown.keys())
        for one, beginning in shown.items():
            self.assertTrue(one.startswith(beginning))
            alike = {other for other in ids if other.startswith(beginning)}
            self.assertTrue(beginning == one or alike == {one})
            self.assertGreaterEqual(len(beginning), min(least, len(one)))
            if len(beginning) > max(least, 1):
                shorter = {other for other in ids if other.startswith(beginning[:-1])}
                self.assertGreater(len(shorter), 1)

    def test_wrong_words(self) -> None:
        """
        A wrong outcome, kind, address, number or duration ends with status 2 and says what is wrong.
        """
        for flag, value, reason in (
            ("--outcome", "bounced,lost", "'lost' is none of bounced, expired, "),
            ("--kind", "mesage", "'mesage' is none of "),
            ("--from", "a@b..c", "'a@b..c' is not an address: "),
            ("--limit", "-1", "--limit"),
            ("--limit", "many", "'many' is not a number such as 100"),
            ("--newer-than", "yesterday", "'yesterday' is not a duration"),
        ):
            ended = run("letters", "list", flag, value)
            self.assertEqual(2, ended.status)
            self.assertIn(reason, ended.error)

    def test_whole_names(self) -> None:
        """
        A flag has to be written out.
        """
        self.assertEqual(2, run("letters", "list", "--js").status)


class FewWordsTests(CommandCase):
    """Commands with as few words as they need."""

    def test_usual_commands(self) -> None:
        """
        Without another word the commands show what there is.
        """
        place = "--spool", str(self.path)
        self.assertEqual(run("pending", "list", *place), run("pending", *place))
        self.assertIn("deliveries", run("spool", *place).output)
        self.assertEqual(self.letters("list"), self.letters())

    def test_no_spool(self) -> None:
        """
        Where there is no spool, the settings that were named, or what should be, stand in the sentence.
        """
        settings = Path(self.mktemp()).absolute()
        settings.write_text("")
        for words, remedy in (
            (["--config", str(settings)], f"set spool.path in {settings}, or run the command in the gateway's folder"),
            (["--spool", "nothing"], "--spool has to name the file of a spool"),
            ([], "name the gateway's settings file with --config, or the spool's own file with --spool"),
        ):
            for command in (["spool", "status"], ["wake"], ["pending", "list"]):
                ended = run(*command, *words)
                self.assertEqual(78, ended.status)
                self.assertIn(f": {remedy}\n", ended.error)


class WakeTests(CommandCase):
    """`component-http wake`."""

    def commands(self) -> list[Any]:
        return look(self.path, "SELECT verb FROM commands")

    def test_running(self) -> None:
        """
        The gateway that has the spool is told.
        """
        self.addCleanup(lock(self.path).release)
        ended = run("wake", "--spool", str(self.path))
        self.assertEqual(Ended(0, "the gateway asks its webhook within a second\n", ""), ended)
        self.assertEqual([("wake",)], self.commands())

    def test_nobody(self) -> None:
        """
        Without a gateway there is nobody to tell.
        """
        ended = run("wake", "--spool", str(self.path))
        self.assertEqual((1, ""), (ended.status, ended.output))
        self.assertIn("no gateway has this spool now", ended.error)
        self.assertEqual([], self.commands())

    def test_memory(self) -> None:
        """
        Who keeps nothing on disk is told what to do instead.
        """
        settings = self.folder / "bot.toml"
        settings.write_text('[spool]\nkind = "memory"\n')
        ended = run("wake", "--config", str(settings))
        self.assertEqual(78, ended.status)
        self.assertIn("POST /v1/webhook/wake", ended.error)
