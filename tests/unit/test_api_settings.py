"""What the operator decides about the API."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from component_http.api_service import api_hooks
from component_http.certificates import is_renewed
from component_http.errors import SettingsError
from component_http.settings import ApiSettings, ComponentSettings, HookSettings, Settings, TokenSettings, reference
from tests.certificates import Authority
from tests.unit.test_settings import ENVIRONMENT, SettingsTestCase, a_mapping

TOKEN = "0123456789abcdef"

FILE = """
[component]
domain = "bot.example.org"
component_post_url = "http://127.0.0.1/"
[api]
listen = "tcp:8347:interface=127.0.0.1"
[[api.token]]
name = "ops"
token_file = "ops-token"
may_send_as = ["alerts@bot.example.org"]
may_send_to = ["*@example.org"]
kinds = ["message"]
rate = "5/1s"
[[api.token]]
name = "ci"
token_file = "ci-token"
[[api.hook]]
name = "alerts"
secret_file = "alerts-secret"
to = "oncall@example.org"
template = "alertmanager"
"""


class ApiSettingsTestCase(SettingsTestCase):
    """A test with the files of two tokens and a hook."""

    def setUp(self) -> None:
        super().setUp()
        for name in ("ops-token", "ci-token", "alerts-secret"):
            self.write(f"{name}-{TOKEN}\n", name)

    def read(self, text: str = FILE) -> Settings:
        return Settings.from_toml(self.write(text), ENVIRONMENT)

    def sentence(self, old: str, new: str) -> str:
        """The sentence about the file with something in it changed, without the file's own name."""
        assert old in FILE
        path = self.write(FILE.replace(old, new, 1))
        error = self.assertRaises(SettingsError, Settings.from_toml, path, ENVIRONMENT)
        return str(error).replace(f"{self.folder}/", "")


class GoodApiSettingsTests(ApiSettingsTestCase):
    """Settings of the API that can be used."""

    def test_off(self) -> None:
        """
        Nothing is served unless it is asked for.
        """
        api = Settings.from_mapping(a_mapping(), env=ENVIRONMENT).api
        self.assertEqual((None, (), ()), (api.listen, api.token, api.hook))

    def test_file(self) -> None:
        """
        Tokens and hooks come from the file in its order, and their secrets from files beside it.
        """
        api = self.read().api
        ops, ci = api.token
        self.assertEqual(("ops", f"ops-token-{TOKEN}", (5, 1.0)), (ops.name, ops.token, ops.rate))
        self.assertEqual((("*@example.org",), ("message",)), (ops.may_send_to, ops.kinds))
        self.assertEqual((("*",), ("message", "presence", "iq")), (ci.may_send_as, ci.kinds))
        [hook] = api.hook
        self.assertEqual((("oncall@example.org",), "alertmanager"), (hook.to, hook.template))

    def test_constructors(self) -> None:
        """
        An application makes the same from classes.
        """
        built = Settings(
            component=ComponentSettings(
                domain="bot.example.org",
                component_post_url="http://127.0.0.1/",
                secret=ENVIRONMENT["COMPONENT_HTTP_SECRET"],
            ),
            api=ApiSettings(
                listen="tcp:8347:interface=127.0.0.1",
                token=[
                    TokenSettings(
                        name="ops",
                        token=f"ops-token-{TOKEN}",
                        token_file=str(self.folder / "ops-token"),
                        may_send_as=["alerts@bot.example.org"],
                        may_send_to=["*@example.org"],
                        kinds=["message"],
                        rate="5/1s",
                    ),
                    TokenSettings(name="ci", token_file=str(self.folder / "ci-token")),
                ],
                hook=[
                    HookSettings(
                        name="alerts",
                        secret_file=str(self.folder / "alerts-secret"),
                        to="oncall@example.org",
                        template="alertmanager",
                    )
                ],
            ),
        )
        self.assertEqual(built, self.read())

    def test_default_senders(self) -> None:
        """
        The component and each token may have the address that stanzas come from which name none; hooks without one of
        their own take the component's.
        """
        text = FILE.replace("[component]", '[component]\nsender = "Bot@bot.example.org"')
        text = text.replace('name = "ops"', 'name = "ops"\nsender = "alerts@bot.example.org/x"')
        settings = self.read(text)
        self.assertEqual("bot@bot.example.org", settings.component.sender)
        self.assertEqual("alerts@bot.example.org/x", settings.api.token[0].sender)
        self.assertEqual(
            ["bot.example.org", "bot@bot.example.org"],
            [str(api_hooks(found).find(f"alerts-secret-{TOKEN}").sender) for found in (self.read(), settings)],
        )

    def test_secrets_stay_out_of_sight(self) -> None:
        """
        Nothing that prints settings shows a token.
        """
        self.assertNotIn(TOKEN, repr(self.read()))

    def test_template_of_ones_own(self) -> None:
        """
        A template's file is read from beside the settings file.
        """
        self.write("{{ text }}", "own.j2")
        settings = self.read(FILE.replace('template = "alertmanager"', 'template_file = "own.j2"'))
        self.assertEqual("{{ text }}", settings.api.hook[0].template_text)

    def test_every_kind_of_endpoint(self) -> None:
        """
        It may listen on TCP or a Unix socket.
        """
        for listen in ("tcp:8347", "tcp:port=8347:interface=\\:\\:1", "unix:/run/bot.sock", "tcp6:8347"):
            self.assertEqual(listen, ApiSettings(listen=listen).listen)

    def test_files_of_an_endpoint(self) -> None:
        """
        Relative paths of a key, a certificate or a socket start at the folder of the settings file; in an application
        they stay as they are.
        """
        self.write(Authority().certified("localhost").decode("ascii"), "own.pem")
        for listen, expected in (
            ("ssl:8348:privateKey=own.pem:certKey=own.pem", "ssl:8348:privateKey={0}/own.pem:certKey={0}/own.pem"),
            ("ssl:8348:own.pem:own.pem:interface=\\:\\:1", "ssl:8348:{0}/own.pem:{0}/own.pem:interface=\\:\\:1"),
            ("unix:api.sock:mode=660", "unix:{0}/api.sock:mode=660"),
            ("unix:/run/api.sock", "unix:/run/api.sock"),
        ):
            with self.subTest(listen=listen):
                settings = self.read(FILE.replace('"tcp:8347:interface=127.0.0.1"', json.dumps(listen)))
                self.assertEqual(expected.format(self.folder), settings.api.listen)
        self.assertEqual("unix:api.sock", ApiSettings(listen="unix:api.sock").listen)
        self.assertIn(
            '"none.pem" cannot be read: No such file or directory',
            self.sentence('"tcp:8347:interface=127.0.0.1"', '"ssl:8348:privateKey=none.pem:certKey=none.pem"'),
        )

    def test_base_url(self) -> None:
        """
        Where the API is reached is what the operator says, or what can be told from where it listens.
        """
        for listen, url in [
            ("tcp:8347:interface=127.0.0.1", "http://127.0.0.1:8347"),
            ("tcp:port=8347:interface=\\:\\:1", "http://[::1]:8347"),
            ("tcp6:8347:interface=\\:\\:1", "http://[::1]:8347"),
            ("tcp:8347:127.0.0.1", "http://127.0.0.1:8347"),
            ("tcp:8347", None),
            ("tcp6:8347", None),
            ("tcp:8347:interface=0.0.0.0", None),
            ("unix:/run/bot.sock", None),
        ]:
            self.assertEqual(url, ApiSettings(listen=listen).base_url)
        self.assertEqual("https://h/x", ApiSettings(listen="tcp:8347", url="https://h/x/").base_url)
        self.assertIsNone(ApiSettings().base_url)

    def test_certificates_of_clients(self) -> None:
        """
        Where no client would be asked for a certificate, client_ca_file is refused.
        """
        for listen, is_good in (
            ("ssl:8443:privateKey=k:certKey=c", True),
            ("ssl:8443:k:c", True),
            ("ssl:8443:k:c:TLSv1_2_METHOD", False),
            ("ssl:8443:privateKey=k:certKey=c:dhParameters=d", False),
            ("tcp:8347", False),
            ("unix:/run/api.sock", False),
        ):
            with self.subTest(listen=listen):
                self.assertEqual(is_good, is_renewed(listen))
        refused = self.assertRaises(SettingsError, ApiSettings, listen="tcp:8347", client_ca_file="clients.pem")
        self.assertIn("api.client_ca_file asks no client for a certificate at this api.listen", str(refused))

    def test_no_flags_for_rows(self) -> None:
        """
        Where there can be several of a table, no flag can say which is meant.
        """
        rows = [row for row in reference() if "." in row.table]
        self.assertEqual({"component.route", "api.token", "api.hook"}, {row.table for row in rows})
        self.assertEqual(set(), {flag for row in rows for flag in row.flags})
        self.assertIn("--api-listen", [flag for row in reference() for flag in row.flags])

    def test_warnings(self) -> None:
        """
        The log is told of tokens that nobody can use, and of those that pass in the open.
        """
        self.assertEqual(
            ["there are tokens or hooks for the API, but it is off: set api.listen, or remove them"],
            [
                text
                for text in self.read(FILE.replace("listen = ", "#")).warnings()
                if "every user" not in text and "COMPONENT_HTTP_SECRET" not in text
            ],
        )
        [warning] = [
            text for text in self.read(FILE.replace(":interface=127.0.0.1", "")).warnings() if "network" in text
        ]
        self.assertIn("others on the network can read the tokens", warning)
        self.assertEqual(
            [],
            [
                text
                for text in self.read().warnings()
                if "every user" not in text and "COMPONENT_HTTP_SECRET" not in text
            ],
        )

    def test_readable_tokens(self) -> None:
        """
        The log is told of a token that everybody on the machine can read.
        """
        (self.folder / "ops-token").chmod(0o644)
        (self.folder / "ci-token").chmod(0o600)
        (self.folder / "alerts-secret").chmod(0o600)
        [_, warning] = self.read().warnings()
        self.assertRegex(warning, r"^api\.token\.token_file .*ops-token. can be read by every user")


class WrongApiSettingsTests(ApiSettingsTestCase):
    """What is wrong is told in a sentence that says where."""

    def test_misspelt(self) -> None:
        """
        A misspelt key is told with the number of its table and the nearest name.
        """
        self.assertEqual(
            "bot.toml: [[api.token]] number 2: token_fil is not a setting; did you mean token_file?",
            self.sentence('token_file = "ci-token"', 'token_fil = "ci-token"'),
        )

    def test_misspelt_rows(self) -> None:
        """
        A table that there can be several of is offered as it has to be written.
        """
        for wrong, meant in (("[[api.hooks]]", "[[api.hook]]"), ("[[hook]]", "[[api.hook]]")):
            self.assertIn(f" is not a setting; did you mean {meant}?", self.sentence("[[api.hook]]", wrong))
        for wrong in ("[[api.tokens]]", "[api.tokens]", "[[token]]"):
            path = self.write(f"{wrong}\nname = 'x'\n")
            error = self.assertRaises(SettingsError, Settings.from_toml, path, ENVIRONMENT)
            self.assertIn(" is not a setting; did you mean [[api.token]]?", str(error))

    def test_wrong_value(self) -> None:
        """
        A wrong value is told with what is allowed.
        """
        self.assertEqual(
            'bot.toml: [[api.token]] number 1: kinds is ["messages"], but must be a list of one or more of "message",'
            ' "presence" and "iq"; did you mean "message"?',
            self.sentence('["message"]', '["messages"]'),
        )
        self.assertIn("rate is ", self.sentence('"5/1s"', '"5/0s"'))

    def test_single_brackets(self) -> None:
        """
        One pair of brackets instead of two is told.
        """
        text = FILE[: FILE.index("[[api.token]]")] + '[api.token]\nname = "ops"\n'
        error = self.assertRaises(SettingsError, self.read, text)
        self.assertIn("[api.token] must be written as [[api.token]]", str(error))

    def test_no_table(self) -> None:
        """
        Something that is no table is told.
        """
        error = self.assertRaises(
            SettingsError, Settings.from_mapping, a_mapping(api={"token": ["ops"]}), env=ENVIRONMENT
        )
        self.assertEqual('settings: api.token is ["ops"], but must be tables: [[api.token]]', str(error))

    def test_missing(self) -> None:
        """
        What must be given is told with an example.
        """
        self.assertEqual(
            'bot.toml: [[api.hook]] number 1: to is missing: add to = "oncall@example.org"',
            self.sentence('to = "oncall@example.org"', ""),
        )
        self.assertEqual(
            "bot.toml: [[api.token]] number 2: api.token.token_file is missing: it names the file with the secret",
            self.sentence('token_file = "ci-token"', ""),
        )

    def test_secret_in_the_open(self) -> None:
        """
        A token in the settings file itself is refused and not shown.
        """
        sentence = self.sentence('token_file = "ci-token"', f'token = "{TOKEN}"')
        self.assertIn("token must not stand in the open: put it into a file", sentence)
        self.assertNotIn(TOKEN, sentence)

    def test_short_secret(self) -> None:
        """
        A token that could be guessed is refused and not shown.
        """
        self.write("hunter2", "ci-token")
        sentence = self.sentence("", "")
        self.assertIn("must be a string of at least 16 letters", sentence)
        self.assertNotIn("hunter2", sentence)

    def test_same_secret_twice(self) -> None:
        """
        Two tokens that are the same are refused, for nobody could tell who comes.
        """
        self.write(f"ops-token-{TOKEN}", "ci-token")
        self.assertIn("two of [[api.token]] hold the same secret", self.sentence("", ""))

    def test_same_name_twice(self) -> None:
        """
        Two tokens with one name are refused.
        """
        self.assertIn('twice with the name "ops"', self.sentence('name = "ci"', 'name = "ops"'))

    def test_secret_of_a_hook_is_one_part_of_a_path(self) -> None:
        """
        A secret with a slash could not be part of a URL.
        """
        self.write(f"{TOKEN}/x", "alerts-secret")
        self.assertIn("the secret of api.hook alerts must not have a /", self.sentence("", ""))

    def test_foreign_senders(self) -> None:
        """
        Nobody is allowed to send from where the component cannot.
        """
        self.assertIn(
            'api.token ops has "*@example.org" in may_send_as, but the component can only send from bot.example.org',
            self.sentence('"alerts@bot.example.org"', '"*@example.org"'),
        )
        self.assertIn(
            'api.hook alerts has "a@example.org" as send_as',
            self.sentence('to = "oncall@example.org"', 'to = "oncall@example.org"\nsend_as = "a@example.org"'),
        )

    def test_wrong_default_senders(self) -> None:
        """
        Where stanzas come from that name no sender is in the component's domain, and one that the token may use.
        """
        self.assertIn(
            'component.sender is "bot@example.org", but the component can only send from bot.example.org',
            self.sentence("[component]", '[component]\nsender = "bot@example.org"'),
        )
        self.assertIn(
            'api.token ops has "other@bot.example.org" as sender, but that does not match its may_send_as',
            self.sentence('name = "ops"', 'name = "ops"\nsender = "other@bot.example.org"'),
        )
        self.assertIn(
            'api.token ci has "ci@example.org" as sender, but the component can only send from bot.example.org',
            self.sentence('name = "ci"', 'name = "ci"\nsender = "ci@example.org"'),
        )

    def test_pattern_that_is_none(self) -> None:
        """
        A pattern with a resource or with what no address has is refused.
        """
        self.assertIn("without a resource", self.sentence('"*@example.org"', '"*@example.org/*"'))
        self.assertIn('is "a@@b"', self.sentence('"*@example.org"', '"a@@b"'))
        self.assertIn('write ["*"]', self.sentence('["*@example.org"]', '"*"'))

    def test_two_templates(self) -> None:
        """
        A hook has one template.
        """
        self.write("x", "own.j2")
        self.assertIn(
            "api.hook alerts has template and template_file",
            self.sentence("template =", 'template_file = "own.j2"\ntemplate ='),
        )

    def test_listen(self) -> None:
        """
        What is no endpoint is told with what was meant.
        """
        for listen, meant in [
            ("8347", "tcp:8347:interface=127.0.0.1"),
            ("127.0.0.1:8347", "tcp:8347:interface=127.0.0.1"),
            ("tcp:127.0.0.1:8347", "tcp:8347:interface=127.0.0.1"),
            ("http://10.0.0.1:8347/", "tcp:8347:interface=10.0.0.1"),
            ("http:8347", "tcp:8347:interface=127.0.0.1"),
            ("TCP:8347", "tcp:8347"),
        ]:
            error = self.assertRaises(SettingsError, ApiSettings, listen=listen)
            self.assertIn(f'write "{meant}"', str(error))

    def test_url_that_no_header_can_hold(self) -> None:
        """
        Where the webhook reaches the API goes into a header of each request, so that it is ASCII.
        """
        error = self.assertRaises(SettingsError, ApiSettings, url="https://bücher.example/x")
        self.assertTrue(
            str(error).endswith(
                '; it must be ASCII, because it goes into a header; write "https://xn--bcher-kva.example/x"'
            ),
            error,
        )
        self.assertEqual("https://xn--bcher-kva.example", ApiSettings(url="https://xn--bcher-kva.example/").base_url)

    def test_listen_that_cannot_be(self) -> None:
        """
        Ports out of range, keys that are not there and endpoints of unknown kind are told.
        """
        for listen, problem in [
            ("tcp:99999", "a port is a number from 1 to 65535"),
            ("ssl:8348:privateKey=/nowhere/key:certKey=/nowhere/key", '"/nowhere/key" cannot be read'),
            ("pigeon:8347", "must be a Twisted server endpoint"),
            ("tcp:x", "a port is a number from 1 to 65535"),
            ("tcp6:0", "a port is a number from 1 to 65535"),
            ("ssl:0:privateKey=k", "a port is a number from 1 to 65535"),
            ("tcp:8347:colour=red", "Twisted says"),
            ("tcp:", 'it needs a port; write "tcp:8347:interface=127.0.0.1"'),
            ("tcp6:interface=\\:\\:1", "it needs a port"),
            ("unix:", "it needs a path"),
            ("unix:mode=600", "it needs a path"),
            ("systemd:", "systemd:domain=INET:name=api.socket"),
            ("systemd:domain=INET", "systemd:domain=INET:name=api.socket"),
            ("ssl:8443", "ssl:8443:privateKey=FILE:certKey=FILE:interface=127.0.0.1"),
            ("ssl:privateKey=k:certKey=c", "ssl:8443:privateKey=FILE:certKey=FILE:interface=127.0.0.1"),
            ("tls:8443", "ssl:8443:privateKey=FILE:certKey=FILE:interface=127.0.0.1"),
            ("TLS:/etc/certs:port=8443", "ssl:8443:privateKey=FILE:certKey=FILE:interface=127.0.0.1"),
            ("https://127.0.0.1:8443", "ssl:8443:privateKey=FILE:certKey=FILE:interface=127.0.0.1"),
            ("systemd:domain=INET:index=0", "start the gateway by its .socket unit"),
            ("systemd:domain=INET:name=api", "start the gateway by its .socket unit"),
            ("stdio:", "must be a Twisted server endpoint"),
            ("haproxy:tcp:8347", "must be a Twisted server endpoint"),
        ]:
            self.assertIn(problem, str(self.assertRaises(SettingsError, ApiSettings, listen=listen)))

    def test_tls(self) -> None:
        """
        A tls: endpoint with a port, a key and a certificate is the same as an ssl: one.
        """
        own = Path(self.enterContext(TemporaryDirectory()), "own.pem")
        own.write_bytes(Authority().certified("bot.example.org"))
        files = f"privateKey={own}:certKey={own}:interface=127.0.0.1"
        for word in ("tls", "TLS"):
            self.assertEqual(f"ssl:8443:{files}", ApiSettings(listen=f"{word}:8443:{files}").listen)

    def test_whatever_stands_there(self) -> None:
        """
        Whatever an application hands over is told in a sentence.
        """
        values: list[Any] = [7, None, [], {"a": 1}, ["a"], "x\0", [[]]]
        for table in ("token", "hook", "listen", "url", "max_connections"):
            for value in values:
                with self.subTest(table=table, value=value):
                    try:
                        Settings.from_mapping(a_mapping(api={table: value}), env=ENVIRONMENT)
                    except SettingsError as error:
                        self.assertNotIn("\n", str(error))
