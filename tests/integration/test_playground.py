"""The playground: a conversation with a bot in the terminal, over real connections."""

from __future__ import annotations

import itertools
import json
import os
import pty
import re
import select
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any, Self

import pytest
import requests
from standardwebhooks.webhooks import Webhook
from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import TestCase

import component_http
from component_http.contract.reply import Response
from component_http.errors import ConnectionFailed, SettingsError
from component_http.playground.lines import Lines
from component_http.playground.screen import Screen
from component_http.playground.session import Playground
from component_http.playground.settings import playground_settings
from component_http.signing import new_secret
from component_http.testing import ScriptedWebhook, json_response
from tests.integration import processes
from tests.integration.counterparts import need
from tests.integration.servers import free_port
from tests.integration.waiting import PATIENCE, eventually

COMMAND = [sys.executable, "-c", "import sys; from component_http.cli import main; sys.exit(main())", "playground"]
DEMO = [sys.executable, "-m", "component_http.playground.demo"]
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if name != "NO_COLOR"},
    "PYTHONPATH": os.path.dirname(os.path.dirname(component_http.__file__)),
    "PYTHONIOENCODING": "utf-8",
    "TERM": "xterm",
}


def playground(url: str, *arguments: str, input: str) -> subprocess.CompletedProcess[bytes]:
    """Run the command with that on its standard input, to its end."""
    return subprocess.run(
        [*COMMAND, "--post-url", url, *arguments],
        input=input.encode(),
        capture_output=True,
        env=ENVIRONMENT,
        timeout=PATIENCE,
    )


def echo(request: processes.Request) -> processes.Answer:
    return processes.reply(body=f"You said: {request.json['body']}")


def the_reactor() -> Any:
    """Trial's own; it is installed when the first test asks for it."""
    from twisted.internet import reactor

    return reactor


def dawdle(request: processes.Request) -> processes.Answer:
    """Keep the gateway waiting until it hangs up."""

    def nothing() -> Iterator[bytes]:
        while True:
            time.sleep(0.05)
            yield b" "

    return processes.Answer(raw=itertools.chain([b"HTTP/1.1 200 OK\r\n\r\n"], nothing()))


class ConversationTests(TestCase):
    """The server in its box, the real gateway, and a webhook that answers by script."""

    timeout = PATIENCE

    async def converse(
        self, *lines: str, script: Iterable[Response | Exception | Deferred[Response]] = (), **options: Any
    ) -> list[bool]:
        """Start, take the lines, stop; the result of each line."""
        reactor = the_reactor()
        self.out = StringIO()
        self.webhook = ScriptedWebhook(script)
        settings = playground_settings("http://127.0.0.1:8080/", **options)
        playground = Playground(reactor, Screen(self.out), settings, webhook=self.webhook)
        await playground.start()
        try:
            return [await playground.take(line) for line in lines]
        finally:
            await playground.stop()

    def assertShown(self, text: str) -> None:
        self.assertIn(text, self.out.getvalue())

    async def test_line_and_reply(self) -> None:
        """
        What the user types reaches the bot as a message, and the reply is on the screen before the next line.
        """
        self.assertEqual([True], await self.converse("hello <you>", script=[json_response('{"body": "hi"}')]))
        self.assertShown('"body": "hello <you>"')
        self.assertShown('"from": "you@localhost/playground"')
        self.assertTrue(self.out.getvalue().endswith("bot@bot.localhost> hi\n"), self.out.getvalue())

    async def test_each_line_waits_for_its_answer(self) -> None:
        """
        A conversation reads in order, however long the bot thinks.
        """
        reactor = the_reactor()
        slow: Deferred[Response] = Deferred()
        reactor.callLater(0.05, slow.callback, json_response('{"body": "first"}'))
        await self.converse("one", "two", script=[slow, json_response('{"body": "second"}')])
        order = re.findall(r'"body": "(\w+)"', self.out.getvalue())
        self.assertEqual(["one", "first", "two", "second"], order)

    async def test_bot_that_says_nothing(self) -> None:
        """
        A 204 is a success, and the silence is told.
        """
        self.assertEqual([True], await self.converse("hello", script=[Response(204)]))
        self.assertShown("(bot@bot.localhost has nothing to say)")

    async def test_bot_that_is_not_there(self) -> None:
        """
        The error is the one a chat user gets, and the next sentence says what to look at.
        """
        self.assertEqual([False], await self.converse("hello", script=[ConnectionFailed("refused")]))
        self.assertShown("You would see an error: remote-server-timeout - Connection failure\n")
        self.assertShown("Is your bot running at http://127.0.0.1:8080/?")

    async def test_answer_that_is_refused(self) -> None:
        """
        Why an answer cannot be used is said in one line.
        """
        self.assertEqual([False], await self.converse("hello", script=[json_response('{"kind": "letter"}')]))
        self.assertShown("Your bot's answer was refused, nothing of it is sent: kind:")
        self.assertNotIn("warn", self.out.getvalue())

    async def test_answer_of_another_media_type(self) -> None:
        """
        Every answer that is ignored for its Content-Type says so and did not go well: it is the mistake people make.
        """
        html = Response(200, {"content-type": "text/html"}, b'{"body": "hi"}')
        self.assertEqual([False, False], await self.converse("hello", "hello", script=[html, html]))
        self.assertEqual(2, self.out.getvalue().count("of text/html: only application/json is read as a reply"))

    async def test_answer_with_nothing_to_send(self) -> None:
        """
        A bot that answers with another status, or calls the text by another name, finds out at once, each time.
        """
        script = [
            json_response('{"body": "hi"}', 201),
            json_response('{"text": "hi"}'),
            json_response('{"text": "ho"}'),
        ]
        self.assertEqual([False] * 3, await self.converse("one", "two", "three", script=script))
        self.assertShown("not sent, or not all of it: ignored 14 bytes of application/json with status 201: only ")
        self.assertEqual(2, self.out.getvalue().count("not all of it: a message needs `body`, and `text` is not read"))

    async def test_subscribing(self) -> None:
        """
        After /subscribe the bot is seen online; the bot's author has nothing to do for it.
        """
        self.assertEqual([True], await self.converse("/subscribe"))
        self.assertShown("bot@bot.localhost is in your contacts now\nbot@bot.localhost is online\n")
        self.assertEqual([], self.webhook.posts)

    async def test_ping(self) -> None:
        """
        /ping is answered without the bot.
        """
        self.assertEqual([True], await self.converse("/ping"))
        self.assertShown("bot@bot.localhost answers: (an empty result)")

    async def test_iq(self) -> None:
        """
        With --stanzas message,iq the bot answers an iq.
        """
        answer = json_response("""{"stanza": "<iq type='result'><query xmlns='urn:a'>42</query></iq>"}""")
        well = await self.converse("/iq <query xmlns='urn:a'/>", script=[answer], stanzas=("message", "iq"))
        self.assertEqual([True], well)
        self.assertShown("bot@bot.localhost answers: <query xmlns='urn:a'>42</query>")

    async def test_iq_that_the_gateway_does_not_hand_on(self) -> None:
        """
        Without it the user learns how to have it.
        """
        self.assertEqual([False], await self.converse("/iq <query xmlns='urn:a'/>"))
        self.assertShown("You would see an error: service-unavailable\n")
        self.assertShown("--stanzas message,iq")

    async def test_raw_stanza(self) -> None:
        """
        A stanza of the user's own is sent as it is, with what it lacks filled in.
        """
        line = "/raw <message from='room@rooms.localhost/nick' type='groupchat'><body>all</body></message>"
        self.assertEqual([True], await self.converse(line, script=[json_response('{"body": "hi all"}')]))
        self.assertShown('"type": "groupchat"')
        self.assertShown("bot@bot.localhost (to room@rooms.localhost)> (groupchat) hi all")

    async def test_several_stanzas_at_once(self) -> None:
        """
        All their answers are waited for.
        """
        line = "/raw <message><body>1</body></message><message><body>2</body></message>"
        answers = [json_response('{"body": "a"}'), json_response('{"body": "b"}')]
        self.assertEqual([True], await self.converse(line, script=answers))
        self.assertShown("> a\n")
        self.assertShown("> b\n")

    async def test_xml_behind_a_toggle(self) -> None:
        """
        /xml shows the stanzas in both directions, and a second /xml no more.
        """
        await self.converse("/xml", "/ping", "/xml", "/ping")
        self.assertEqual(2, self.out.getvalue().count("  xml <iq "))

    async def test_another_address_of_the_bot(self) -> None:
        """
        /to takes a name or an address, and refuses what would not reach the bot.
        """
        well = await self.converse("/to weather", "hello", "/to a@elsewhere", "/to", "/to bot.localhost", "hello")
        self.assertEqual([True, True, False, True, True, True], well)
        self.assertShown('"to": "weather@bot.localhost"')
        self.assertShown("You write to weather@bot.localhost.")
        self.assertShown('"to": "bot.localhost"')

    async def test_somebody_else(self) -> None:
        """
        /from takes a name or an address, and the bot hears from nobody else until the next /from.
        """
        lines = [
            "/from alice",
            "hello",
            "/from bob@example.org/phone",
            "hello",
            "/from",
            "/from eve@bot.localhost",
            "/from @",
        ]
        well = await self.converse(*lines, script=[json_response('{"body": "hi"}'), json_response('{"body": "hi"}')])
        self.assertEqual([True, True, True, True, True, False, False], well)
        self.assertShown('"from": "alice@localhost/playground"')
        self.assertShown('"from": "bob@example.org/phone"')
        self.assertShown("You are bob@example.org/phone.\n")
        self.assertEqual(2, self.out.getvalue().count("bot@bot.localhost> hi\n"))

    async def test_the_same_again(self) -> None:
        """
        /again sends the last message with a new id, also as somebody else; a bot that remembers ids is tried so.
        """
        well = await self.converse("/again", "hello", "/ping", "/from alice", "/again")
        self.assertEqual([False, True, True, True, True], well)
        self.assertShown("There is no message to send again yet.")
        first, second = (json.loads(body) for body, _ in self.webhook.posts)
        self.assertEqual(("hello", "hello"), (first["body"], second["body"]))
        self.assertNotEqual(first["id"], second["id"])
        self.assertEqual("alice@localhost/playground", second["from"])

    async def test_replying_later(self) -> None:
        """
        After a 202 there is a command that replies later, ready to be copied.
        """
        await self.converse("/curl", "hello", "/curl", script=[Response(202)])
        self.assertShown("Send your bot a message, and /curl shows how it can reply later.")
        self.assertShown("(no reply yet) To reply later:\n  curl 'http://127.0.0.1:")
        [(_, headers)] = self.webhook.posts
        self.assertEqual(2, self.out.getvalue().count(f"curl '{headers['webhook-reply-url']}' -H 'Content-Type: "))

    async def test_open_iq(self) -> None:
        """
        An iq that is left open is no failure: the bot can reply to it later, too.
        """
        well = await self.converse("/iq <query xmlns='urn:a'/>", script=[Response(202)], stanzas=("message", "iq"))
        self.assertEqual([True], well)
        self.assertShown("(no reply yet) To reply later:\n")

    async def test_lines_that_look_like_commands(self) -> None:
        """
        A bot has commands of its own: two slashes send one.
        """
        self.assertEqual([False, True], await self.converse("/start", "//start"))
        self.assertShown("There is no /start. See /help, or type //start to send it as a message.")
        self.assertShown('"body": "/start"')

    async def test_mistakes_in_what_is_typed(self) -> None:
        """
        Whatever is wrong with a command is one sentence, and nothing is sent.
        """
        lines = ["/raw <message", "/raw <foo/>", "/raw", "/iq", "/raw <!-- a --><message/>"]
        self.assertEqual([False] * 5, await self.converse(*lines))
        self.assertShown("<foo/> is no stanza")
        self.assertEqual(5, self.out.getvalue().count("\n"))

    async def test_leaving_while_the_bot_thinks(self) -> None:
        """
        Nobody waits for a slow bot when the user wants to leave.
        """
        reactor = the_reactor()
        settings = playground_settings("http://127.0.0.1:8080/")
        playground = Playground(reactor, Screen(StringIO()), settings, webhook=ScriptedWebhook([Deferred()]))
        await playground.start()
        line = Deferred.fromCoroutine(playground.take("hello"))
        reactor.callLater(0.05, line.cancel)
        with pytest.raises(CancelledError):
            await line
        await playground.stop()

    def test_settings_that_cannot_be(self) -> None:
        """
        A wrong argument is a sentence about that argument.
        """
        wrong: list[tuple[dict[str, Any], str]] = [
            ({"domain": "a b"}, "--domain"),
            ({"stanzas": ["mail"]}, "--stanzas"),
        ]
        for options, flag in wrong:
            error = self.assertRaises(SettingsError, playground_settings, "http://a/", **options)
            self.assertIn(flag, str(error))


class LinesTests(TestCase):
    """Reading what the user types, whatever it comes from."""

    timeout = PATIENCE

    def a_pipe(self, data: bytes) -> int:
        reading, writing = os.pipe()
        os.write(writing, data)
        os.close(writing)
        return reading

    def a_file(self, data: bytes) -> int:
        with tempfile.TemporaryFile() as file:
            file.write(data)
            file.seek(0)
            return os.dup(file.fileno())

    async def read(self, reading: int) -> list[str]:
        reactor = the_reactor()
        self.addCleanup(os.close, reading)
        lines = Lines(reading, reactor)
        seen = []
        while (line := await lines.next()) is not None:
            seen.append(line)
        return seen

    async def test_lines_of_a_pipe(self) -> None:
        """
        Lines end with a line feed, with or without a carriage return, and the last one need not.
        """
        self.assertEqual(
            ["one", "", "tw\u00f6", "three"], await self.read(self.a_pipe("one\n\ntw\u00f6\r\nthree".encode()))
        )

    async def test_lines_of_a_file(self) -> None:
        """
        A regular file is read as a pipe is.
        """
        self.assertEqual(["one", "two"], await self.read(self.a_file(b"one\ntwo\n")))

    async def test_nothing(self) -> None:
        """
        /dev/null has no lines.
        """
        self.assertEqual([], await self.read(os.open(os.devnull, os.O_RDONLY)))

    async def test_endless_line(self) -> None:
        """
        A line that does not end comes in pieces that a stanza can hold.
        """
        lines = await self.read(self.a_file(b"x" * 250_000 + b"\nnext\n"))
        self.assertEqual([100_000, 100_000, 50_000, 4], [len(line) for line in lines])


def test_piped_conversation() -> None:
    """
    `echo hello | component-http playground` shows the JSON, the answer and the reply, and its status is 0.
    """
    with processes.ScriptedWebhook(echo) as bot:
        ended = playground(bot.url, input="hello\nand goodbye\n")
    transcript = ended.stdout.decode()
    assert ended.returncode == 0, ended
    assert ended.stderr == b""
    assert [request.json["body"] for request in bot.requests] == ["hello", "and goodbye"]
    assert "you> hello\n" in transcript
    assert f"  --> POST {bot.url}\n" in transcript
    assert '        "kind": "message",\n        "body": "hello",\n' in transcript
    assert "  <-- 200 OK (after " in transcript
    assert '        "body": "You said: hello"\n' in transcript
    assert transcript.endswith("bot@bot.localhost> You said: and goodbye\n\n")
    assert "\x1b" not in transcript


def test_signed() -> None:
    """
    The playground signs what it POSTs where the settings file names a secret.
    """
    secret = new_secret()
    with processes.ScriptedWebhook(echo) as bot, tempfile.TemporaryDirectory() as folder:
        Path(folder, "signing").write_text(secret)
        file = Path(folder, "bot.toml")
        file.write_text('[component]\ndomain = "bot.localhost"\n[webhook]\nsigning_secret_files = ["signing"]\n')
        ended = playground(bot.url, "--config", str(file), input="hello\n")
    assert ended.returncode == 0, ended
    (request,) = bot.requests
    assert Webhook(secret).verify(request.body, request.headers)["body"] == "hello"
    assert secret.encode() not in ended.stdout + ended.stderr


def test_bot_that_is_not_running() -> None:
    """
    With nobody at the URL the status is 1 and the last sentence asks whether the bot is running.
    """
    url = f"http://127.0.0.1:{free_port()}/"
    ended = playground(url, input="hello\n")
    assert ended.returncode == 1
    assert "You would see an error: remote-server-timeout - Connection failure" in ended.stdout.decode()
    assert f"Is your bot running at {url}?" in ended.stdout.decode()
    assert ended.stderr == b""


def test_one_failure_among_many_lines() -> None:
    """
    The lines after a failed one are sent all the same, and the status still tells of it.
    """

    def answer(request: processes.Request) -> processes.Answer:
        return processes.Answer(status=500) if request.json["body"] == "bad" else echo(request)

    with processes.ScriptedWebhook(answer) as bot:
        ended = playground(bot.url, input="bad\ngood\n")
    assert ended.returncode == 1
    assert "You said: good" in ended.stdout.decode()


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("127.0.0.1:8080/", "--post-url is"),
        ("ftp://127.0.0.1/", "--post-url is"),
        ("http://user:hidden@127.0.0.1/", "--post-url must not hold"),
        ("http://" + "a" * 70 + ".example/", "--post-url"),
    ],
)
def test_wrong_url(url: str, sentence: str) -> None:
    """
    A URL that cannot be used is one sentence and status 78.
    """
    ended = playground(url, input="hello\n")
    assert ended.returncode == 78
    assert sentence in ended.stderr.decode()
    assert ended.stderr.decode().count("\n") == 1
    assert "hidden" not in ended.stderr.decode()


def test_nobody_reads_the_transcript() -> None:
    """
    `component-http playground ... | head -1` ends without complaint, with every line sent.
    """
    with processes.ScriptedWebhook(echo) as bot:
        process = subprocess.Popen(
            [*COMMAND, "--post-url", bot.url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=ENVIRONMENT,
        )
        assert process.stdout is not None
        process.stdout.close()
        process.stdout = None
        _, complaint = process.communicate(b"hello\n" * 3, PATIENCE)
    assert (process.returncode, complaint) == (0, b"")
    assert len(bot.requests) == 3


def test_interrupted_pipe() -> None:
    """
    Ctrl-C ends it at once while it waits for more lines, and the status says that it was interrupted.
    """
    with processes.ScriptedWebhook(echo) as bot:
        process = subprocess.Popen(
            [*COMMAND, "--post-url", bot.url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=ENVIRONMENT,
        )
        assert process.stdin is not None
        process.stdin.write(b"hello\n")
        process.stdin.flush()
        bot.wait_for(1)
        process.send_signal(signal.SIGINT)
        try:
            process.wait(PATIENCE)
            complaint = process.communicate()[1]
        finally:
            process.kill()
    assert (process.returncode, complaint) == (130, b"")


class Terminal:
    """A program on a terminal of its own, and somebody who types."""

    def __init__(self, command: list[str], **environment: str) -> None:
        self.screen = b""
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, env={**ENVIRONMENT, **environment}, start_new_session=True
        )
        os.close(slave)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)
        os.close(self._master)

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def modes(self) -> int:
        """The terminal's local modes."""
        modes: int = termios.tcgetattr(self._master)[3]
        return modes

    def sane(self) -> None:
        """Let it do what a terminal does that no program edits lines on."""
        attributes = termios.tcgetattr(self._master)
        attributes[3] |= termios.ICANON | termios.ECHO
        termios.tcsetattr(self._master, termios.TCSANOW, attributes)

    def wait_for(self, text: str) -> None:
        """Wait until the screen shows something."""
        deadline = time.monotonic() + PATIENCE
        while text.encode() not in self.screen:
            ready, _, _ = select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"no {text!r} on the screen:\n{self.screen.decode(errors='replace')}"
            try:
                self.screen += os.read(self._master, 65536)
            except OSError:
                raise AssertionError(f"it ended:\n{self.screen.decode(errors='replace')}") from None


def test_typed_conversation() -> None:
    """
    On a terminal there is a prompt, a reply in colour, and Ctrl-D leaves.
    """
    with processes.ScriptedWebhook(echo) as bot, Terminal([*COMMAND, "--post-url", bot.url]) as terminal:
        terminal.wait_for("you> ")
        terminal.type("hello\n")
        terminal.wait_for("\x1b[1;32mbot@bot.localhost> You said: hello\x1b[0m")
        terminal.type("\x04")
        assert terminal.process.wait(PATIENCE) == 0


def test_typed_conversation_without_colour() -> None:
    """
    NO_COLOR is respected, and Ctrl-C while the bot thinks leaves at once.
    """
    with (
        processes.ScriptedWebhook(dawdle) as bot,
        Terminal([*COMMAND, "--post-url", bot.url], NO_COLOR="1") as terminal,
    ):
        terminal.wait_for("you> ")
        terminal.type("hello\n")
        terminal.wait_for("  --> POST ")
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.process.wait(PATIENCE) == 0
    assert not re.search(rb"\x1b\[[0-9;]*m", terminal.screen)


CURL = re.compile(r"^  (curl http://\S+/v1/messages .*)\r?$", re.M)


def test_pushing_while_the_user_types() -> None:
    """
    The command that is shown sends a message as the bot; it stands above the line that is being typed.
    """
    need("curl", "curl")
    with processes.ScriptedWebhook(echo) as bot, Terminal([*COMMAND, "--post-url", bot.url]) as terminal:
        terminal.wait_for("you> ")
        terminal.type("hel")
        terminal.wait_for("you> \x1b[0mhel")
        [command] = CURL.findall(terminal.screen.decode())
        pushed = subprocess.run(shlex.split(command), capture_output=True, timeout=PATIENCE, check=False)
        assert b'"ids"' in pushed.stdout, pushed
        terminal.wait_for("\r\x1b[J\x1b[1;32mbot@bot.localhost> hello\x1b[0m\r\n\x1b[1myou> \x1b[0mhel")
        terminal.type("p?\n")
        bot.wait_for(1)
        assert bot.requests[0].json["body"] == "help?"


def test_editing_and_history() -> None:
    """
    A line is edited with the arrow keys, and comes back with them; afterwards the terminal is as it was.
    """
    with processes.ScriptedWebhook(echo) as bot, Terminal([*COMMAND, "--post-url", bot.url]) as terminal:
        before = terminal.modes()
        terminal.wait_for("you> ")
        terminal.type("wrld\x1b[D\x1b[D\x1b[Do\n")
        terminal.wait_for("You said: world\x1b[0m")
        terminal.type("\x1b[A!\n")
        terminal.wait_for("You said: world!\x1b[0m")
        assert not terminal.modes() & termios.ECHO
        terminal.type("\x04")
        assert terminal.process.wait(PATIENCE) == 0
        assert terminal.modes() == before


def test_back_from_the_background() -> None:
    """
    Whatever the shell did to the terminal while the playground was stopped, the line can be edited again.
    """
    with processes.ScriptedWebhook(echo) as bot, Terminal([*COMMAND, "--post-url", bot.url]) as terminal:
        terminal.wait_for("you> ")
        terminal.type("hel")
        terminal.wait_for("hel")
        terminal.sane()
        terminal.screen = b""
        terminal.process.send_signal(signal.SIGCONT)
        terminal.wait_for("you> \x1b[0mhel")
        eventually(lambda: not terminal.modes() & termios.ICANON, "the modes for editing")


def test_terminal_without_a_cursor() -> None:
    """
    On a terminal that understands nothing but text, the terminal itself lets the user type.
    """
    with processes.ScriptedWebhook(echo) as bot, Terminal([*COMMAND, "--post-url", bot.url], TERM="dumb") as terminal:
        terminal.wait_for("you> ")
        terminal.type("hello\n")
        terminal.wait_for("bot@bot.localhost> You said: hello")
        terminal.type("\x04")
        assert terminal.process.wait(PATIENCE) == 0
    assert b"\x1b" not in terminal.screen


def test_settings_file(tmp_path: Path) -> None:
    """
    With --config the bot sees what a real gateway would send, without the secret, and its tokens are good here too.
    """
    config = tmp_path / "bot.toml"
    with processes.ScriptedWebhook(echo) as bot:
        (tmp_path / "token").write_text("0123456789abcdef")
        config.write_text(
            f"""
            [component]
            domain = "bot.example.org"
            server = "tcp:xmpp.example.org:5347"
            secret_file = "not-on-this-machine"
            component_post_url = "{bot.url}"
            component_post_stanzas = ["message", "presence"]
            [webhook]
            headers = {{ X-Tenant = "blue" }}
            [conditions]
            404 = "cancel item-not-found No such bot"
            [[api.token]]
            name = "ops"
            token_file = "token"
            """
        )
        process = subprocess.Popen(
            [*COMMAND, "--config", str(config)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENVIRONMENT
        )
        with process:
            assert process.stdin is not None and process.stdout is not None
            told = [process.stdout.readline().decode() for _ in range(3)]
            process.stdin.write(b"hello\n")
            process.stdin.flush()
            bot.wait_for(1)
            url = re.search(r"The API is at (http://[\d.:]+), ", told[1])
            assert url is not None, told
            message = {"to": "you@localhost", "body": "The backup is done."}
            pushed = requests.post(
                f"{url[1]}/v1/messages", json=message, auth=("ops", "0123456789abcdef"), timeout=PATIENCE
            )
            assert pushed.status_code == 202
            bot.answer = lambda request: processes.Answer(status=404)
            rest, _ = process.communicate(b"/raw <presence/>\n", PATIENCE)
    assert "your bot is bot@bot.example.org" in told[0]
    assert bot.requests[0].headers["x-tenant"] == "blue"
    assert bot.requests[1].json["kind"] == "presence"
    assert b"bot.example.org> The backup is done.\n" in rest
    assert b"Nobody is told" in rest
    assert process.returncode == 1


def test_wrong_settings_file(tmp_path: Path) -> None:
    """
    What is wrong in the settings file, or in a template of it, is one sentence and status 78.
    """
    (tmp_path / "own.j2").write_text("{{ payload")
    (tmp_path / "hook").write_text("0123456789abcdef")
    hook = '[[api.hook]]\nname = "own"\nsecret_file = "hook"\nto = "a@b"\ntemplate_file = "own.j2"\n'
    config = tmp_path / "bot.toml"
    for text, sentence in (
        ("[webhok]\n", "[webhok] is not a table of settings"),
        (f'[component]\ndomain = "bot.example.org"\n{hook}', "the template of api.hook own, line 1"),
    ):
        config.write_text(text)
        ended = playground("http://127.0.0.1:1/", "--config", str(config), input="hello\n")
        assert ended.returncode == 78
        assert sentence in ended.stderr.decode()
        assert ended.stderr.decode().count("\n") == 1


def bot_of(transcript: str) -> tuple[str, int]:
    """Where the bot of a demo was listening."""
    found = re.search(r"webhook is http://(127\.0\.0\.1):(\d+)/", transcript)
    assert found is not None, transcript
    return found[1], int(found[2])


def assert_gone(address: tuple[str, int]) -> None:
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, 1.0).close()


def test_demo_without_a_terminal() -> None:
    """
    `make demo` shows a whole conversation by itself, ends, and leaves no bot behind.
    """
    ended = subprocess.run(
        DEMO, stdin=subprocess.DEVNULL, capture_output=True, env=ENVIRONMENT, timeout=PATIENCE, text=True
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "you> Hello, bot!\n" in ended.stdout
    assert '"body": "Hello, bot!"' in ended.stdout
    assert "bot@bot.localhost> You said: Hello, bot!\n" in ended.stdout
    assert_gone(bot_of(ended.stdout))


def test_demo_on_a_terminal() -> None:
    """
    After the first line of the demo the user goes on, and Ctrl-C stops the bot too.
    """
    with Terminal(DEMO) as terminal:
        terminal.wait_for("You said: Hello, bot!\x1b[0m")
        terminal.wait_for("you> \x1b[0m")
        terminal.type("what else?\n")
        terminal.wait_for("bot@bot.localhost> You said: what else?")
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.process.wait(PATIENCE) == 0
    assert_gone(bot_of(terminal.screen.decode()))


def test_importing_it_installs_no_reactor() -> None:
    """
    An application that looks at the playground keeps the choice of its reactor.
    """
    program = (
        "import sys, component_http.playground.demo, component_http.playground.console\n"
        "sys.exit('twisted.internet.reactor' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], env=ENVIRONMENT, timeout=PATIENCE).returncode == 0
