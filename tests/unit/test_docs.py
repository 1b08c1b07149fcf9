"""What the documents say is what the code does."""

from __future__ import annotations

import ast
import contextlib
import importlib
import itertools
import json
import re
import shlex
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from itertools import count
from pathlib import Path
from queue import SimpleQueue
from typing import Any, get_args

from attrs import frozen
from twisted.application.service import MultiService
from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase
from twisted.words.protocols.jabber.xmlstream import STREAM_AUTHD_EVENT
from twisted.words.xish.domish import Element
from twisted.words.xish.utility import EventDispatcher
from twisted.words.xish.xmlstream import STREAM_CONNECTED_EVENT, BootstrapMixin
from wokkel.subprotocols import StreamManager

import component_http
from component_http import Gateway, Settings, settings
from component_http.cli import main
from component_http.contract import conditions
from component_http.contract.conditions import StanzaError
from component_http.contract.reply import Outcome, Response, Verdict, judge
from component_http.contract.request import request_properties
from component_http.contract.stanza import Stanza
from component_http.contract.xml import Limits, parse_stanzas
from component_http.delivery.admission import REASONS
from component_http.delivery.drain import DRAIN_FOLLOWS
from component_http.delivery.life import FOLLOWS
from component_http.errors import SettingsError
from component_http.settings import reference
from component_http.signing import new_secret
from component_http.testing import ScriptedWebhook
from tests.unit.dead_letters import add, changing, new_spool

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = (ROOT / "README.md", *sorted(DOCS.rglob("*.md")))

SETTINGS = {"domain": "bot.example.org", "component_post_url": "http://127.0.0.1:8080/"}
SECRET = {"COMPONENT_HTTP_SECRET": "change-me"}


# What is read from the pages.


@frozen
class Block:
    """
    One fenced block of a page.

    Attributes:
        label: What the comment above it says, or "".
        language: As it stands behind the fence.
        line: Of its first line in the page.
    """

    page: Path
    label: str
    language: str
    text: str
    line: int


_BLOCK = re.compile(r"^(?:<!-- (?P<label>[^\n]+) -->\n)?```(?P<language>\w+)\n(?P<text>.*?)^```$", re.M | re.S)


def blocks(language: str, *pages: Path) -> list[Block]:
    """The blocks of a language, without the files that are copied into a page: these have tests of their own."""
    return [
        Block(page, match["label"] or "", match["language"], match["text"], 1 + text[: match.start("text")].count("\n"))
        for page in pages or PAGES
        for text in [page.read_text("utf-8")]
        for match in _BLOCK.finditer(text)
        if match["language"] == language and not (match["label"] or "").startswith("make reference")
    ]


def table(page: Path, *header: str) -> list[list[str]]:
    """The cells of the one table of a page that has this header, without the marks of code."""
    lines = [line.strip() for line in page.read_text("utf-8").splitlines()]
    start = [number for number, line in enumerate(lines) if cells(line) == list(header)]
    if len(start) != 1:
        raise AssertionError(f"{page.name} has {len(start)} tables headed {header}")
    rows = []
    for line in lines[start[0] + 2 :]:
        if not line.startswith("|"):
            break
        rows.append(cells(line))
    return rows


def cells(line: str) -> list[str]:
    return [cell.strip().replace("`", "") for cell in line.strip("|").split("|")] if line.startswith("|") else []


def printed(*arguments: str) -> str:
    """What `component-http` prints, wherever it does."""
    output = StringIO()
    with redirect_stdout(output), redirect_stderr(output), contextlib.suppress(SystemExit):
        main(arguments)
    return output.getvalue()


def flags_of(*command: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", printed(*command, "--help")))


def prose(page: Path) -> str:
    """The text of a page without its code blocks, and without what is made from other files."""
    made = r"<!-- make reference.*?<!-- end -->|```.*?^```$"
    return re.sub(made, "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)


# What the code does.


def a_stanza(xml: str) -> Stanza:
    [element] = parse_stanzas(xml, Limits())
    return Stanza.from_element(element)


def judged(stanza: Stanza, body: str) -> Verdict:
    ids = count(1)
    return judge(
        stanza,
        Response(200, {"content-type": "application/json"}, body.encode()),
        domain="bot.example.org",
        limits=Limits(),
        new_id=lambda: f"fresh{next(ids)}",
    )


ADDRESSES = "from='alice@example.org/phone' to='echo@bot.example.org'"
ASKED = {
    "chat": f"<message {ADDRESSES} type='chat' id='m1'><body>hello</body></message>",
    "iq": f"<iq {ADDRESSES} type='get' id='i1'><query xmlns='urn:example'/></iq>",
}

_ANY = (
    "<nick xmlns='http://jabber.org/protocol/nick'>al</nick>"
    "<delay xmlns='urn:xmpp:delay' stamp='2024-05-01T12:00:00Z'/>"
)
_ERROR = "<error type='wait'><gone xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error>"
RICH = {
    "message": "<body>b</body><subject>s</subject><thread>t</thread>"
    "<x xmlns='jabber:x:oob'><url>https://example.org/</url></x>"
    "<composing xmlns='http://jabber.org/protocol/chatstates'/>"
    "<replace xmlns='urn:xmpp:message-correct:0' id='m0'/>"
    "<reply xmlns='urn:xmpp:reply:0' id='m0' to='bob@example.org'/>"
    f"<stanza-id xmlns='urn:xmpp:sid:0' id='s1' by='room.example.org'/>{_ANY}{_ERROR}",
    "presence": f"<show>away</show><status>lunch</status><priority>5</priority>{_ANY}{_ERROR}",
    "iq": _ERROR,
}
"""The children of a stanza of each kind that has everything."""


def a_pretended_stream(manager_of: BootstrapMixin) -> tuple[Any, list[Any]]:
    """A stream that is up, and what is sent on it."""
    stream: Any = EventDispatcher()
    sent: list[Any] = []
    stream.send = sent.append
    manager_of.installBootstraps(stream)
    stream.dispatch(stream, STREAM_CONNECTED_EVENT)
    stream.dispatch(stream, STREAM_AUTHD_EVENT)
    return stream, sent


class ContractPageTests(SynchronousTestCase):
    """The page that a bot's author writes by."""

    page = DOCS / "webhook.md"

    def test_status_map(self) -> None:
        """
        Each status becomes the error that the page's table says, and no other.
        """
        named = {
            "no connection, TLS failure, connection lost": conditions.CONNECTION_FAILURE,
            "no whole answer within timeout": conditions.TIMEOUT,
            "never POSTed: its turn did not come in time": conditions.NEVER_TRIED,
            "anything else outside 2xx": conditions.SERVICE_UNAVAILABLE,
            "the XMPP server does not take the answer": conditions.REPLY_NOT_SENT,
            "the gateway is full": conditions.FULL,
            "the gateway is stopping": conditions.STOPPING,
            "the stanza is larger than max_stanza_bytes, or nested too deep": conditions.TOO_LARGE,
        }
        documented: dict[int, StanzaError] = {}
        outcomes: dict[str, StanzaError] = {}
        for outcome, error_type, condition, text in table(self.page, "outcome", "error type", "condition", "text"):
            error = StanzaError(error_type, condition, text or None)
            if outcome[0].isdigit():
                documented.update((int(status), error) for status in outcome.split(", "))
            else:
                outcomes[outcome] = error
        self.assertEqual(dict(conditions.STATUS_ERRORS), documented)
        self.assertEqual(named, outcomes)

    def test_request_properties(self) -> None:
        """
        The table of request properties names each that a stanza of its kind can give, and no other.
        """
        documented = {name: where for name, where, _ in table(self.page, "property", "in", "value")}
        for kind, children in RICH.items():
            with self.subTest(kind=kind):
                given = set()
                for stanza_type in ("error", "result" if kind == "iq" else ""):
                    stanza = a_stanza(
                        f"<{kind} {ADDRESSES} type='{stanza_type}' id='1' xml:lang='en'>{children}</{kind}>"
                    )
                    given |= set(request_properties(stanza))
                expected = {name for name, where in documented.items() if re.search(rf"always|all|{kind}", where)}
                self.assertEqual(expected, given)

    def test_reply_properties(self) -> None:
        """
        Each documented reply property is read, and other properties of the request are not.
        """
        documented = {name for name, _, _ in table(self.page, "property", "belongs to", "value")}
        requested = {name for name, _, _ in table(self.page, "property", "in", "value")}
        for name in documented | requested | {"nonsense"}:
            with self.subTest(property=name):
                refused = judged(a_stanza(ASKED["chat"]), json.dumps({name: []})).outcome == "refused_reply"
                self.assertEqual(name in documented, refused)

    def test_readme_table(self) -> None:
        """
        The table of the README has all properties of both directions.
        """
        rows = table(ROOT / "README.md", "property", "in the request", "in the reply")
        self.assertEqual(
            {name for name, _, _ in table(self.page, "property", "in", "value")},
            {name for row in rows for name in row[0].split(", ")},
        )

    def test_headers(self) -> None:
        """
        The headers that belong to one attempt are those of the page.
        """
        [element] = parse_stanzas(ASKED["chat"], Limits())
        webhook = ScriptedWebhook()
        manager = StreamManager(bootstraps := BootstrapMixin(), reactor := MemoryReactorClock())
        settings = Settings.from_mapping({"component": SETTINGS, "spool": {"kind": "memory"}}, env=SECRET)
        Gateway(settings, reactor, manager=manager, webhook=webhook).startService()
        a_pretended_stream(bootstraps)[0].dispatch(element)
        documented = {name for name, _ in table(self.page, "header", "value")} - {"webhook-signature"}  # the client's
        self.assertEqual(set(webhook.posts[0][1]), {name for name in documented if name.startswith("webhook-")})

    def test_examples_of_answers(self) -> None:
        """
        Each answer of the page comes to what the line above it says.
        """
        examples = [block for block in blocks("json", self.page) if block.label.startswith("answer to")]
        self.assertGreater(len(examples), 5)
        for example in examples:
            with self.subTest(line=example.line):
                to, _, expected = example.label.removeprefix("answer to ").partition(": ")
                verdict = judged(a_stanza(ASKED[to]), example.text)
                sent = [f"{element.name}/{element.getAttribute('type', '')}" for element in verdict.stanzas]
                self.assertEqual(expected, " ".join([verdict.outcome, *sent]))

    def test_example_of_a_request(self) -> None:
        """
        The stanza of the page becomes the JSON below it.
        """
        [stanza] = [block for block in blocks("xml", self.page) if block.label == "request"]
        [properties] = [block for block in blocks("json", self.page) if block.label == "properties"]
        given = request_properties(a_stanza(stanza.text))
        del given["stanza"]
        self.assertEqual(json.loads(properties.text), given)

    def test_curl(self) -> None:
        """
        What a bot's author sends by hand is what the gateway would send.
        """
        [command] = [block.text for block in blocks("console", self.page) if "127.0.0.1:8080" in block.text]
        words = shlex.split(command)
        properties = json.loads(words[words.index("-d") + 1])
        given = request_properties(a_stanza(properties.pop("stanza")))
        del given["stanza"]
        self.assertEqual(given, properties)


class PagesTests(SynchronousTestCase):
    """All pages together."""

    def test_json(self) -> None:
        """
        Each piece of JSON can be read.
        """
        for block in blocks("json"):
            with self.subTest(page=block.page.name, line=block.line):
                json.loads(block.text)

    def test_toml(self) -> None:
        """
        Each settings file in the pages can be used.
        """
        found = blocks("toml")
        self.assertTrue(found)
        for block in found:
            with self.subTest(page=block.page.name, line=block.line):
                tables = tomllib.loads(block.text)
                for name in tables.get("webhook", {}).get("signing_secret_files", ()):
                    Path(name).write_text(new_secret())
                    self.addCleanup(Path(name).unlink)
                components = tables["component"]
                for component in components if isinstance(components, list) else [components]:
                    component.pop("secret_file", None)
                for row in itertools.chain(*(tables.get("api", {}).get(rows, ()) for rows in ("token", "hook"))):
                    for key in [key for key in row if key.endswith("_file")]:
                        row[key] = self.mktemp()
                        Path(row[key]).write_text(f"0123456789abcdef-{row['name']}")
                Settings.from_mapping(tables, env=SECRET)

    def test_flags_exist(self) -> None:
        """
        Nothing is said of a flag that does not exist.
        """
        ours = {flag for row in reference() for flag in row.flags} | flags_of("letters", "list")
        ours |= flags_of("letters", "drop") | flags_of("spool", "status") | flags_of("example") | flags_of("check")
        ours |= flags_of("deliveries", "replay") | flags_of("watch")
        ours |= flags_of("route") | flags_of("doctor") | flags_of("secret", "new")
        others = {
            "--allow-untyped-calls",
            "--case",
            "--data-urlencode",
            "--disk",
            "--logfile",
            "--logged",
            "--logger",
            "--no-buffer",
            "--now",
            "--pidfile",
            "--profile",
            "--quarantine-spool",
            "--quick",
            "--signed",
            "--strict",
            "--syslog",
            "--uid",
            "--watched",
        }
        for page in PAGES:
            named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", page.read_text("utf-8")))
            with self.subTest(page=page.name):
                self.assertEqual(set(), named - ours - others)

    def test_settings_exist(self) -> None:
        """
        Nothing is said of a setting that does not exist, or with a value that it cannot have.
        """
        tables = {row.key: row.table for row in reference() if row.table}
        for page in PAGES:
            for key, value in re.findall(r"`(\w+) = ([^`]+)`", prose(page)):
                with self.subTest(page=page.name, key=key):
                    self.assertIn(key, tables)
                    example = {"component": dict(SETTINGS)}
                    if value != '"tls:..."':
                        example.setdefault(tables[key], {})[key] = tomllib.loads(f"value = {value}")["value"]
                    Settings.from_mapping(example, env=SECRET)

    def test_wrong_settings(self) -> None:
        """
        The sentences about wrong settings read as the page shows them.
        """
        page = (DOCS / "configuration.md").read_text("utf-8")
        wrong = {"component": {"domian": "bot.example.org"}, "webhook": {"timeout": 0}}
        with self.assertRaises(SettingsError) as caught:
            Settings.from_mapping(wrong, source="component-http.toml", env=SECRET)
        self.assertIn("".join(f"component-http: {sentence}\n" for sentence in caught.exception.sentences), page)
        self.assertEqual(2, len(caught.exception.sentences))

    def test_reference_is_complete(self) -> None:
        """
        The configuration reference has each setting with its flags.
        """
        text = (DOCS / "configuration.md").read_text("utf-8")
        for row in reference():
            with self.subTest(setting=row.key):
                self.assertIn(f"#### `{row.key}`" if row.table else f"### `[{row.key}]`", text)
                for flag in row.flags:
                    self.assertIn(f"`{flag}`", text)

    def test_migration_counts(self) -> None:
        """
        The page for those who come from mod_component_http says how much of it was compared, and with what result.
        """
        vectors = json.loads((ROOT / "tests" / "vectors" / "mod_component_http.json").read_text("utf-8"))
        same = sum(vector["gateway_replies"] == "same" for vector in vectors)
        text = (DOCS / "migration.md").read_text("utf-8")
        self.assertIn(f"{len(vectors)} exchanges recorded", text)
        self.assertIn(f"the same in {same} of them; the other {len(vectors) - same} ", text)

    def test_dead_letters(self) -> None:
        """
        The commands for dead letters print what the page shows.
        """
        path = new_spool(Path("component-http.sqlite3"))
        refused = {"outcome": "refused_reply", "status": 200, "kind": "iq", "type": "get"}
        for letter_id, age, sender, body, more in (
            ("5f1c09aa6d0c", 216_000, "alice@example.org/phone", b'{"body": "what is the weather in Oslo?"}', {}),
            ("b70e41d2a9f8", 9000, "alice@example.org/phone", b'{"body": "hello?"}', {"outcome": "expired"}),
            ("c2d95e0f7b1a", 200, "bob@example.org/tablet", b"{}", refused),
        ):
            ended = time.time() - age
            times = {"accepted": ended - 900, "ended": ended}
            add(path, letter_id, sender=sender, recipient="echo@bot.example.org", body=body, **times, **more)
        with changing(path) as other:
            other.execute("INSERT INTO facts VALUES ('webhook', 'closed')")
        [session] = [block for block in blocks("console", DOCS / "operations.md") if block.label == "dead letters"]
        given = ""
        for command in re.findall(r"^\$ (.*)\n", session.text, re.M):
            words = shlex.split(command)
            given += f"$ {command}\n" + (printed(*words[1:]) if words[0] == "component-http" else "")
        given = given.replace(str(Path.cwd()), "/var/lib/component-http/bot")
        sizes = r"(?m)[0-9.]+ KiB"
        self.assertEqual(re.sub(sizes, "N KiB", session.text), re.sub(sizes, "N KiB", given))

    def test_public_names(self) -> None:
        """
        The Python reference shows each public name of the package, and of its modules for applications.
        """
        page = (DOCS / "python-api.md").read_text("utf-8")
        shown = re.findall(r"<!-- autodoc: (?:class|signature|module) ([\w.]+)", page)
        for name in {*component_http.__all__} - {"__version__"}:
            self.assertIn(f"component_http.{name}", shown)
        for module in ("interfaces", "testing", "errors"):
            self.assertIn(f"component_http.{module}", shown)
            names = importlib.import_module(f"component_http.{module}").__all__
            self.assertEqual([], [name for name in names if f"`{name}`" not in page])
        tables = {name for name in settings.__all__ if name.endswith("Settings")} - {"Settings"}
        self.assertEqual(
            {f"component_http.settings.{name}" for name in tables},
            {name for name in shown if name.startswith("component_http.settings.")},
        )

    def test_limits(self) -> None:
        """
        Each constant in the table of limits is in the module that the table names, and stands there once.
        """
        section = (DOCS / "architecture.md").read_text("utf-8").split("## Where each limit lives")[1].split("\n## ")[0]
        found = []
        for row in section.splitlines():
            module = ""
            for name in re.findall(r"`([\w.]+)`", row.rpartition(" | ")[2]):
                if named := re.fullmatch(r"([a-z_0-9.]+?)(?:\.([A-Z]\w+))?", name):
                    module, constant = named.groups()
                    importlib.import_module(f"component_http.{module}")
                elif "." not in name:
                    constant = name
                else:
                    continue
                if constant is not None:
                    with self.subTest(module=module, constant=constant):
                        self.assertTrue(hasattr(importlib.import_module(f"component_http.{module}"), constant))
                    found.append((module, constant))
        self.assertGreater(len(found), 50)
        self.assertEqual(sorted(set(found)), sorted(found))

    def test_counters(self) -> None:
        """
        The table of counters has each name that the code counts, and no other.
        """
        documented = {name for name, _, _ in table(DOCS / "architecture.md", "name", "what happened", "counted by")}
        counted = {name for path in (ROOT / "component_http").rglob("*.py") for name in _counted(path)}
        retired = {"throttled"}
        self.assertEqual(counted | {*get_args(Outcome), *REASONS} | retired, documented)

    def test_stages(self) -> None:
        """
        The tables of stages, of a delivery and of a stop, say of each which may follow, as the code does.
        """
        for header, follows in (("stage of a delivery", FOLLOWS), ("stage of a stop", DRAIN_FOLLOWS)):
            rows = table(DOCS / "architecture.md", header, "what happens", "what may follow")
            documented = {name: tuple(following.split(", ")) if following else () for name, _, following in rows}
            self.assertEqual(dict(follows), documented)


def _counted(path: Path) -> Iterator[str]:
    """The names that a file gives to an observer, or to a method of its own that counts what it turns away."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call) and node.args:
            callee = ast.unparse(node.func)
            if re.search(r"(observer|counters)\.count$|\._?ignored$", callee):
                named = node.args[0]
            elif callee.endswith("._refuse"):
                named = node.args[-1]
            else:
                continue
            for part in ast.walk(named):
                if isinstance(part, ast.Constant):
                    yield str(part.value)


class ReactorWithThreads(MemoryReactorClock):
    """One in memory that hears of other threads when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: SimpleQueue[Any] = SimpleQueue()

    def callFromThread(self, function: Any, *arguments: Any) -> None:
        self._calls.put((function, arguments))

    def until(self, condition: Callable[[], object]) -> None:
        self.advance(0)
        while not condition():
            function, arguments = self._calls.get(timeout=60)
            function(*arguments)
            self.advance(0)


class PythonExamplesTests(SynchronousTestCase):
    """What an embedder copies from the pages."""

    def run_all(self) -> dict[str, Any]:
        """Run each block for itself, and give all that they define."""
        defined: dict[str, Any] = {}
        found = blocks("python")
        self.assertGreater(len(found), 4)
        for block in found:
            code = compile("\n" * (block.line - 1) + block.text, str(block.page), "exec")
            names: dict[str, Any] = {"__name__": "example"}
            exec(code, names)
            defined.update(names)
        return defined

    def setUp(self) -> None:
        self.examples = self.run_all()
        self.reactor = MemoryReactorClock()
        self.settings = Settings.from_mapping({"component": SETTINGS, "spool": {"kind": "memory"}}, env=SECRET)
        self.bootstraps = BootstrapMixin()
        self.manager = StreamManager(self.bootstraps, self.reactor)

    def a_message(self, children: str = "<body>hello</body>") -> Element:
        [element] = parse_stanzas(f"<message {ADDRESSES} id='m1'>{children}</message>", Limits())
        return element

    def test_application(self) -> None:
        """
        The service of the first example connects to the server when it is started, and not before.
        """
        reactor = ReactorWithThreads()
        parent = self.examples["bot_service"](reactor)
        self.assertIsInstance(parent, MultiService)
        self.assertEqual([], reactor.tcpClients)
        parent.startService()
        reactor.until(lambda: reactor.tcpClients)  # once it has read its spool
        [(host, port, *_)] = reactor.tcpClients
        self.assertEqual(("127.0.0.1", 5347), (host, port))
        stopped = parent.stopService()
        reactor.until(lambda: stopped.called)
        self.successResultOf(stopped)

    def test_handler(self) -> None:
        """
        The receipts of the example are sent, and the message goes on to the webhook.
        """
        webhook = ScriptedWebhook()
        gateway = Gateway(self.settings, self.reactor, manager=self.manager, webhook=webhook)
        gateway.addHandler(self.examples["Receipts"]())
        gateway.startService()
        stream, sent = a_pretended_stream(self.bootstraps)
        stream.dispatch(self.a_message("<body>hello</body><request xmlns='urn:xmpp:receipts'/>"))
        [receipt] = sent
        self.assertEqual(("alice@example.org/phone", "m1"), (receipt["to"], receipt.received["id"]))
        self.assertEqual(1, len(webhook.posts))
        self.assertIsInstance(self.examples["with_receipts"](self.settings, self.reactor), Gateway)

    def test_function(self) -> None:
        """
        The function of the example answers, in a gateway that has no URL; the service of the example can be made.
        """
        self.assertIsInstance(self.examples["echo_bot"](self.reactor), Gateway)
        settings = Settings.from_mapping(
            {"component": {"domain": "bot.example.org"}, "spool": {"kind": "memory"}}, env=SECRET
        )
        gateway = Gateway(settings, self.reactor, manager=self.manager, answer=self.examples["echo"])
        gateway.startService()
        stream, sent = a_pretended_stream(self.bootstraps)
        stream.dispatch(self.a_message())
        [reply] = sent
        self.assertIn("<body>You said: hello</body>", reply)
        self.successResultOf(gateway.stopService())

    def test_push(self) -> None:
        """
        The messages of the example are with the server when it says so; before the start nothing is kept.
        """
        gateway = Gateway(self.settings, self.reactor, manager=self.manager, webhook=ScriptedWebhook())
        tell = self.examples["tell_the_team"]
        self.assertFalse(self.successResultOf(Deferred.fromCoroutine(tell(gateway, "Lunch!"))))
        gateway.startService()
        _, sent = a_pretended_stream(self.bootstraps)
        self.assertTrue(self.successResultOf(Deferred.fromCoroutine(tell(gateway, "Lunch!"))))
        self.assertEqual(2, len(sent))
        self.assertIn("to='alice@example.org'", sent[0])
        self.successResultOf(gateway.stopService())

    def test_borrowed_stream(self) -> None:
        """
        The gateway of the example serves the stream it is given and opens none.
        """
        gateway = self.examples["on_my_stream"](self.settings, self.reactor, self.manager)
        gateway.startService()
        self.assertIs(self.manager, gateway.stream)
        self.assertEqual([], self.reactor.tcpClients)
        self.successResultOf(gateway.stopService())

    def test_intake(self) -> None:
        """
        The intake of the example hands each message to a function.
        """
        accepted: list[Stanza] = []
        self.examples["only_the_stanzas"](self.manager, accepted.append)
        a_pretended_stream(self.bootstraps)[0].dispatch(self.a_message())
        self.assertEqual(["m1"], [stanza.id for stanza in accepted])
