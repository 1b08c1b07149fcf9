"""What the operator decides, and what is said where it cannot be."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from component_http.contract.conditions import StanzaError
from component_http.errors import SettingsError
from component_http.settings import (
    ComponentSettings,
    DeliverySettings,
    Settings,
    SpoolSettings,
    WebhookSettings,
    reference,
    retired_flags,
    spool_from_toml,
)
from component_http.settings.reloading import Changes
from component_http.signing import new_secret
from tests.certificates import Authority

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "component-http.toml"

NOT_SHOWN = "hunter2"
"""What stands for a secret in these tests, and must be in no sentence."""


def a_mapping(**tables: object) -> dict[str, object]:
    """The least that settings need, with some tables changed; keys given as None are left out."""
    component: dict[str, object] = {"domain": "bot.example.org", "component_post_url": "http://127.0.0.1:8080/"}
    changes = tables.pop("component", {})
    assert isinstance(changes, Mapping)
    component.update(changes)
    return {"component": {key: value for key, value in component.items() if value is not None}, **tables}


ENVIRONMENT = {"COMPONENT_HTTP_SECRET": NOT_SHOWN}


def settings_of(**tables: object) -> Settings:
    return Settings.from_mapping(a_mapping(**tables), source="bot.toml", env=ENVIRONMENT)


class SettingsTestCase(SynchronousTestCase):
    """A test that reads settings, from a folder of its own where it needs one."""

    def setUp(self) -> None:
        self.folder = Path(self.enterContext(TemporaryDirectory()))

    def write(self, text: str, name: str = "bot.toml") -> Path:
        path = self.folder / name
        path.write_text(text, "utf-8")
        return path

    def refusal(self, **tables: object) -> str:
        """The sentence that settings with these tables get."""
        return str(self.assertRaises(SettingsError, settings_of, **tables))

    def component_refusal(self, **component: object) -> str:
        """The sentence that settings with these keys in [component] get."""
        return self.refusal(component=component)


class GoodSettingsTests(SettingsTestCase):
    """Settings that can be used."""

    def test_defaults(self) -> None:
        """
        Domain, secret and URL are enough; all else has a default.
        """
        settings = settings_of()
        self.assertEqual("tcp:127.0.0.1:5347", settings.component.server)
        self.assertEqual(("message",), settings.component.component_post_stanzas)
        self.assertEqual(60.0, settings.webhook.timeout)
        self.assertEqual(10, settings.delivery.max_attempts)
        self.assertEqual("sqlite", settings.spool.kind)
        self.assertEqual({}, dict(settings.conditions))
        self.assertEqual((), settings.warnings())

    def test_three_doors_give_the_same(self) -> None:
        """
        A file, flags and the constructor with the same names and values give equal settings.
        """
        path = self.write(
            """
            [component]
            domain = "bot.example.org"
            component_post_url = "http://h/"
            component_post_stanzas = ["iq", "message"]
            forward_errors = false
            [webhook]
            timeout = 5
            """
        )
        flags = {
            "domain": "bot.example.org",
            "post-url": "http://h/",
            "stanzas": "message,iq",
            "forward-errors": "false",
            "webhook-timeout": "5",
        }
        built = Settings(
            component=ComponentSettings(
                domain="bot.example.org",
                secret=NOT_SHOWN,
                component_post_url="http://h/",
                component_post_stanzas=("message", "iq"),
                forward_errors=False,
            ),
            webhook=WebhookSettings(timeout=5),
        )
        self.assertEqual(built, Settings.from_toml(path, ENVIRONMENT))
        self.assertEqual(built, Settings.from_flags(flags, env=ENVIRONMENT))

    def test_domain_is_normalised(self) -> None:
        """
        A domain written with capitals is the domain that the server knows.
        """
        self.assertEqual("bot.example.org", settings_of(component={"domain": "Bot.Example.ORG"}).component.domain)

    def test_domain_to_fall_back_to(self) -> None:
        """
        The domain that is asked where a ping does not come back is the component's without its first label, if it has
        one above it, or what is set.
        """
        for domain, expected in [
            ("Bot.Example.ORG", "example.org"),
            ("bot.localhost", "localhost"),
            ("bot", None),
            ("10.0.0.1", None),
        ]:
            self.assertEqual(expected, settings_of(component={"domain": domain}).component.write_barrier_fallback)
        settings = settings_of(component={"write_barrier_fallback": "Chat.example.org"})
        self.assertEqual("chat.example.org", settings.component.write_barrier_fallback)

    def test_old_name_of_stanzas(self) -> None:
        """
        post_stanza_types, which mod_component_http's code reads, is understood.
        """
        settings = settings_of(component={"post_stanza_types": ["presence", "message"]})
        self.assertEqual(("message", "presence"), settings.component.component_post_stanzas)

    def test_both_names_of_stanzas_may_agree(self) -> None:
        """
        Both names of the list may stand in a file when they say the same, in whatever order.
        """
        component = {"component_post_stanzas": ["iq", "message"], "post_stanza_types": ["message", "iq"]}
        self.assertEqual(("message", "iq"), settings_of(component=component).component.component_post_stanzas)

    def test_every_kind_of_endpoint(self) -> None:
        """
        The server may be on TCP, on TLS or on a Unix socket.
        """
        for server in [
            "tcp:xmpp.example.org:5347",
            "tcp:host=localhost:port=5347:timeout=5",
            "tcp:\\:\\:1:5347",
            "tls:xmpp.example.org:5347",
            "TLS:host=xmpp.example.org:port=5347:timeout=5:bindAddress=127.0.0.1",
            "tls:\\:\\:1:5347",
            "tls:xmpp.example.org:5347:endpoint=tcp\\:10.0.0.1\\:5347",
            "unix:/run/prosody/component.sock",
        ]:
            self.assertEqual(server, settings_of(component={"server": server}).component.server)

    def test_conditions(self) -> None:
        """
        A status can be given another stanza error, with or without a text.
        """
        settings = settings_of(conditions={"404": "cancel gone", "429": "wait resource-constraint Come back later"})
        self.assertEqual(
            {404: StanzaError("cancel", "gone"), 429: StanzaError("wait", "resource-constraint", "Come back later")},
            dict(settings.conditions),
        )

    def test_flags_override_the_file(self) -> None:
        """
        What a flag says counts, whatever the file says under either name.
        """
        path = self.write(
            """
            [component]
            domain = "bot.example.org"
            component_post_url = "http://h/"
            post_stanza_types = ["iq"]
            [webhook]
            timeout = 5
            """
        )
        settings = Settings.from_flags({"webhook-timeout": "7", "stanzas": "message"}, path, ENVIRONMENT)
        self.assertEqual(7.0, settings.webhook.timeout)
        self.assertEqual(("message",), settings.component.component_post_stanzas)
        self.assertEqual("bot.example.org", settings.component.domain)

    def test_file_of_the_spool(self) -> None:
        """
        The spool's file is what path says, or else stands in the first folder of STATE_DIRECTORY, or in the current
        one.
        """
        self.assertIsNone(SpoolSettings(kind="memory").file({"STATE_DIRECTORY": "/var/lib/bot"}))
        here = SpoolSettings()
        self.assertEqual(Path("/var/lib/bot/component-http.sqlite3"), here.file({"STATE_DIRECTORY": "/var/lib/bot:/x"}))
        self.assertEqual(Path.cwd() / "component-http.sqlite3", here.file({}))
        elsewhere = SpoolSettings(path="sub/spool")
        self.assertEqual(Path.cwd() / "sub" / "spool", elsewhere.file({"STATE_DIRECTORY": "/var/lib/bot"}))
        self.assertEqual("NORMAL", settings_of(spool={"synchronous": "NORMAL"}).spool.synchronous)

    def test_example_is_complete(self) -> None:
        """
        The example file has every setting; what it shows behind a # is the default, or an example where there is none.
        """
        # A setting's # has no blank after it, a comment's has one.
        text = re.sub(r"(?m)^#(?=\S)", "", EXAMPLE.read_text("utf-8"))
        for row in reference():
            if row.table:
                self.assertRegex(text, rf"(?m)^{row.key} = ")
            if row.default not in ("required", "none"):
                self.assertIn(f"\n{row.key} = {row.default}\n", text)
        self.write("s", "component-secret")
        self.write("t", "webhook-token")
        self.write(new_secret(), "signing-secret")
        for name in ("ops-token", "alerts-secret", "builds-secret", "operations-token"):
            self.write(f"{name}-0123456789", name)
        self.write("{{ text }}", "build.j2")
        # The settings that do not go with the default of another.
        for line in ('path = "spool.sqlite3"', 'client_ca_file = "clients.pem"'):
            text = text.replace(line, "")
        path = self.write(text)
        self.assertEqual("bot.example.org", Settings.from_toml(path, {}).component.domain)

    def test_example_as_it_is(self) -> None:
        """
        The example file can be used as it is, once the secret's file is there.
        """
        self.write("s", "component-secret")
        path = self.write(EXAMPLE.read_text("utf-8"))
        defaults = Settings.from_mapping(a_mapping(), env={"COMPONENT_HTTP_SECRET": "s"})
        found = Settings.from_toml(path, {})
        self.assertEqual(defaults.webhook, found.webhook)
        self.assertEqual(defaults.delivery, found.delivery)
        self.assertEqual(defaults.spool, found.spool)


class RetiredSettingsTests(SettingsTestCase):
    """Settings of earlier versions."""

    retired: Mapping[str, list[str]] = {
        "component": ["profile"],
        "delivery": [
            *("retry_base", "retry_budget_percent", "retry_budget_per_second", "longest_pause", "breaker_in_a_row"),
            *("breaker_requests", "breaker_percent", "breaker_window", "breaker_probe_interval"),
            *("fair_above_percent", "pause_above_percent", "resume_below_percent"),
        ],
    }

    def assertWarned(self, settings: Settings) -> None:
        warnings = settings.warnings()
        names = [f"{table}.{key}" for table, keys in self.retired.items() for key in keys]
        self.assertEqual(len(names), len(warnings), warnings)
        for name, warning in zip(names, warnings, strict=True):
            self.assertRegex(warning, f"^{name} is not used any more, because .*: remove it$")

    def test_in_a_file(self) -> None:
        """
        A settings file that still gives them works, whatever their values are; the log names each, to have it removed.
        """
        for value in (1, "mod_component_http", 99.5, True):
            tables = {table: dict.fromkeys(keys, value) for table, keys in self.retired.items()}
            self.assertWarned(settings_of(**tables))

    def test_as_flags(self) -> None:
        """
        So does a command line.
        """
        flags = {"domain": "x.org", "post-url": "http://127.0.0.1/"}
        for table, keys in self.retired.items():
            prefix = "" if table == "component" else f"{table}-"
            flags.update({f"{prefix}{key}".replace("_", "-"): "x" for key in keys})
        self.write(NOT_SHOWN, "secret").chmod(0o600)
        self.assertWarned(Settings.from_flags({**flags, "secret-file": str(self.folder / "secret")}, env={}))
        self.assertEqual(set(flags) - {"domain", "post-url"}, retired_flags())

    def test_of_an_application(self) -> None:
        """
        So does an application, and settings without them have no warning.
        """
        component = ComponentSettings(domain="x.org", secret="s", component_post_url="http://127.0.0.1/", profile="x")
        settings = Settings(component=component, delivery=DeliverySettings(retry_base=1, breaker_window=2))
        self.assertEqual(
            ["component.profile", "delivery.retry_base", "delivery.breaker_window"],
            [warning.partition(" ")[0] for warning in settings.warnings()],
        )
        self.assertEqual((), settings_of().warnings())

    def test_nowhere_else(self) -> None:
        """
        Neither the reference nor a guess at a misspelt name offers them.
        """
        self.assertFalse({key for keys in self.retired.values() for key in keys} & {row.key for row in reference()})
        self.assertNotIn("did you mean delivery.breaker", self.refusal(delivery={"breaker_windo": 1}))
        self.assertNotIn("longest_pause", self.refusal(delivery={"zzz": 1}))


class WrongNameTests(SettingsTestCase):
    """A name that is no setting's is told with the name that was meant."""

    def test_misspelt_key(self) -> None:
        """
        A misspelt key is told with file, table, key and the nearest name.
        """
        self.assertEqual(
            "bot.toml: webhook.time_out is not a setting; did you mean webhook.timeout?",
            self.refusal(webhook={"time_out": 5}),
        )

    def test_key_of_another_table(self) -> None:
        """
        A key in the wrong table is told with the right one.
        """
        self.assertEqual(
            "bot.toml: component.timeout is not a setting; did you mean webhook.timeout?",
            self.component_refusal(timeout=5),
        )

    def test_short_name_of_a_flag(self) -> None:
        """
        The short name of a flag, written into a file, leads to the setting's name.
        """
        self.assertEqual(
            "bot.toml: component.stanzas is not a setting; did you mean component.component_post_stanzas?",
            self.component_refusal(stanzas=["message"]),
        )

    def test_key_like_nothing(self) -> None:
        """
        A key that is like no other is told with those that there are.
        """
        self.assertEqual(
            "bot.toml: spool.zzz is not a setting; [spool] has kind, path, synchronous, letter_days, max_letters,"
            " keep_ended, ended_days, max_ended, max_ended_bytes",
            self.refusal(spool={"zzz": 1}),
        )

    def test_key_with_a_dot(self) -> None:
        """
        A key that has a dot in it, which TOML allows, is told as one of its table.
        """
        self.assertEqual(
            'bot.toml: spool."a.z" is not a setting; [spool] has kind, path, synchronous, letter_days, max_letters,'
            " keep_ended, ended_days, max_ended, max_ended_bytes",
            self.refusal(spool={"a.z": 1}),
        )

    def test_misspelt_table(self) -> None:
        """
        A misspelt table is told with the nearest one, and one like no other with all of them.
        """
        self.assertEqual(
            "bot.toml: [webhok] is not a table of settings; did you mean [webhook]?", self.refusal(webhok={})
        )
        self.assertEqual(
            "bot.toml: [qux] is not a table of settings;"
            " there are [component], [webhook], [delivery], [spool], [api], [operations], [log], [conditions]",
            self.refusal(qux={}),
        )

    def test_key_above_the_tables(self) -> None:
        """
        A key above the first table is told where it belongs.
        """
        self.assertEqual(
            "bot.toml: domain stands above the first table, but belongs below [component]", self.refusal(domain="x")
        )
        self.assertEqual("bot.toml: timeuot is not a setting; did you mean webhook.timeout?", self.refusal(timeuot="x"))

    def test_value_for_a_table(self) -> None:
        """
        A value in the place of a table is told as what it is.
        """
        self.assertEqual("bot.toml: webhook is 3, but must be a table: [webhook]", self.refusal(webhook=3))

    def test_misspelt_flag(self) -> None:
        """
        A misspelt flag is told with the nearest one, also one that lacks its table.
        """
        good = {"domain": "x", "post-url": "http://h/"}
        for wrong, right in [("webhook-timeot", "webhook-timeout"), ("timeout", "webhook-timeout")]:
            error = self.assertRaises(SettingsError, Settings.from_flags, {**good, wrong: "5"}, env=ENVIRONMENT)
            self.assertEqual(f"--{wrong} is not a flag; did you mean --{right}?", str(error))

    def test_missing(self) -> None:
        """
        What has to be there and is not is told with what to add, in the words of the door.
        """
        self.assertEqual(
            'bot.toml: component.domain is missing: add domain = "bot.example.org" below [component]',
            self.component_refusal(domain=None),
        )
        error = self.assertRaises(SettingsError, Settings.from_flags, {"domain": "x"}, env=ENVIRONMENT)
        self.assertEqual(
            "--post-url is missing: add --post-url=http://127.0.0.1:8080/,"
            " or --config=FILE with component_post_url below [component];"
            " only a gateway that just sends does not need it, with --api-listen",
            str(error),
        )

    def test_without_a_webhook(self) -> None:
        """
        An application that answers itself needs no URL.
        """
        settings = Settings.from_mapping({"component": {"domain": "bot.example.org"}}, env=ENVIRONMENT)
        self.assertIsNone(settings.component.component_post_url)
        self.assertEqual("no webhook", settings.component.posted)

    def test_two_names_that_disagree(self) -> None:
        """
        Both names of the list of stanzas with different values: neither is taken.
        """
        self.assertEqual(
            'bot.toml: component.post_stanza_types is ["message"], but under its other name it is ["iq"]: remove one of'
            " the two",
            self.component_refusal(component_post_stanzas=["iq"], post_stanza_types=["message"]),
        )


class WrongValueTests(SettingsTestCase):
    """A value that cannot be used is told with what was found and what is allowed."""

    def test_numbers(self) -> None:
        """
        A number out of its range, of the wrong type, or none at all is refused with the range and the unit.
        """
        allowed = "must be a number from 0.1 to 3600 (seconds)"
        for value, found in [
            (0, "0"),
            (3601, "3601"),
            (-1.5, "-1.5"),
            ("60", '"60"'),
            (True, "true"),
            (float("nan"), "NaN"),
            (float("inf"), "Infinity"),
            ([], "[]"),
            ({}, "a table"),
        ]:
            self.assertEqual(
                f"bot.toml: webhook.timeout is {found}, but {allowed}", self.refusal(webhook={"timeout": value})
            )

    def test_whole_numbers(self) -> None:
        """
        A count is a whole number: neither a fraction nor true.
        """
        for value, found in [(0, "0"), (1001, "1001"), (1.5, "1.5"), (True, "true"), ("3", '"3"')]:
            self.assertEqual(
                f"bot.toml: webhook.max_connections is {found},"
                " but must be a whole number from 1 to 1000 (connections)",
                self.refusal(webhook={"max_connections": value}),
            )

    def test_ends_of_ranges(self) -> None:
        """
        Both ends of a range are in it.
        """
        self.assertEqual(0.1, WebhookSettings(timeout=0.1).timeout)
        self.assertEqual(3600, WebhookSettings(timeout=3600).timeout)
        self.assertEqual(1, WebhookSettings(max_connections=1).max_connections)
        self.assertEqual(1000, WebhookSettings(max_connections=1000).max_connections)

    def test_switches(self) -> None:
        """
        A switch is true or false; a 1 or a "true" is not taken for one.
        """
        for value, found in [(1, "1"), ("true", '"true"')]:
            self.assertEqual(
                f"bot.toml: component.forward_errors is {found}, but must be true or false",
                self.component_refusal(forward_errors=value),
            )

    def test_server_without_its_kind(self) -> None:
        """
        A server written in a way of other programs is told in the way of this one.
        """
        for wrong, right in [
            ("localhost:5347", "tcp:localhost:5347"),
            ("xmpp.example.org", "tcp:xmpp.example.org:5347"),
            ("tcp://xmpp.example.org:5347", "tcp:xmpp.example.org:5347"),
            ("tcp:xmpp.example.org", "tcp:xmpp.example.org:5347"),
            ("tcp:5347", "tcp:127.0.0.1:5347"),
            ("[::1]:5347", "tcp:\\:\\:1:5347"),
            ("tcp:::1:5347", "tcp:\\:\\:1:5347"),
            ("/run/prosody/component.sock", "unix:/run/prosody/component.sock"),
        ]:
            sentence = self.component_refusal(server=wrong)
            self.assertTrue(
                sentence.startswith(f'bot.toml: component.server is "{wrong}", but must be a Twisted'), sentence
            )
            self.assertTrue(sentence.endswith(f"; write {json.dumps(right)}"), sentence)
            self.assertEqual(right, settings_of(component={"server": right}).component.server)

    def test_server_over_tls_that_nobody_checks(self) -> None:
        """
        An ssl: endpoint, which takes anybody's certificate, is refused with the tls: endpoint that was meant.
        """
        for wrong, right in [
            ("ssl:xmpp.example.org:5347", "tls:xmpp.example.org:5347"),
            ("SSL:host=xmpp.example.org:port=5347:timeout=5", "tls:xmpp.example.org:5347:timeout=5"),
            ("ssl:\\:\\:1:5347", "tls:\\:\\:1:5347"),
            ("ssl:localhost:5347:bindAddress=127.0.0.1", "tls:localhost:5347:bindAddress=127.0.0.1"),
            ("ssl:localhost:5347:hostname=localhost", "tls:localhost:5347"),
            (
                "ssl:10.0.0.1:5347:hostname=xmpp.example.org",
                "tls:xmpp.example.org:5347:endpoint=tcp\\:10.0.0.1\\:5347",
            ),
            ("tls://xmpp.example.org:5347", "tls:xmpp.example.org:5347"),
            ("tls:xmpp.example.org", "tls:xmpp.example.org:5347"),
            ("tls:::1:5347", "tls:\\:\\:1:5347"),
        ]:
            sentence = self.component_refusal(server=wrong)
            self.assertTrue(sentence.endswith(f"write {json.dumps(right)}"), sentence)
            self.assertEqual(right, settings_of(component={"server": right}).component.server)
        for wrong in ("ssl:h:1:caCertsDir=/nowhere:certKey=/nowhere", "ssl:5347", "ssl:"):
            self.assertTrue(self.component_refusal(server=wrong).endswith("so take a tls: endpoint"), wrong)

    def test_files_and_options_of_tls(self) -> None:
        """
        A tls: endpoint with a file that cannot be read, an option that there is not or a host that no certificate is
        for is refused.
        """
        for options, words in [
            ("h:5347:trustRoots=/nowhere", '"/nowhere" cannot be read: No such file or directory'),
            ("h:5347:certificate=/nowhere", '"/nowhere" cannot be read: No such file or directory'),
            ("h:5347:verify=no", "tls: takes a host, a port and timeout, bindAddress"),
            ("a..b:5347", "no certificate can be for the host"),
        ]:
            self.assertIn(words, self.component_refusal(server=f"tls:{options}"))

    def test_server_that_is_no_endpoint(self) -> None:
        """
        What is no endpoint, or has no possible port, is refused before anything is opened.
        """
        for server in [
            "",
            ":",
            "tcp:",
            "tcp:h:0",
            "tcp:h:65536",
            "tcp:h:x",
            "tcp:h:5347:timeout=x",
            "nix:x:1",
            "a b",
            5,
        ]:
            self.assertIn("must be a Twisted client endpoint", self.component_refusal(server=server))

    @given(st.text(max_size=40) | st.from_regex(r"(tcp|tls|ssl|unix)(:[a-z0-9=\\/.]{0,6}){0,4}", fullmatch=True))
    def test_any_server(self, text: str) -> None:
        """
        Whatever is written for the server is taken or refused in one sentence.
        """
        try:
            self.assertEqual(text, settings_of(component={"server": text}).component.server)
        except SettingsError as error:
            self.assertNotIn("\n", str(error))

    def test_domains(self) -> None:
        """
        A domain with a user, a port, a path or a scheme is refused, and told without them.
        """
        for wrong in ["bot@x.org", "x.org/bot", "x.org:5347", "http://x.org/", "xmpp://x.org:5347"]:
            sentence = self.component_refusal(domain=wrong)
            self.assertIn("must be a domain such as", sentence)
            self.assertTrue(sentence.endswith('; write "x.org"'), sentence)
        for hopeless in ["a@b..c", "", ".", "@", "a b", "x" * 4000, 5, "my_bot.x.org", "[::1]"]:
            self.assertIn("must be a domain such as", self.component_refusal(domain=hopeless))

    def test_urls(self) -> None:
        """
        The webhook's URL is absolute, http or https, and has a host.
        """
        for wrong in [
            "",
            "/path",
            "ftp://h/",
            "http:///x",
            "http://h:99999/",
            "http://h:0/",
            "http://h /",
            "http://[::1/",
            5,
        ]:
            self.assertIn("must be an absolute URL", self.component_refusal(component_post_url=wrong))
        self.assertTrue(
            self.component_refusal(component_post_url="127.0.0.1:8080/bot").endswith(
                'is "127.0.0.1:8080/...", but must be an absolute URL such as "http://127.0.0.1:8080/";'
                " put http:// or https:// in front"
            )
        )
        self.assertIn("#", self.component_refusal(component_post_url="http://h/#part"))

    def test_urls_without_a_host_name(self) -> None:
        """
        A host that no connection can be made to is refused with the settings, and not when the gateway starts.
        """
        for host in ("-foo.example", "foo-.", "foo-.example", "ab--c.", "xn--a."):
            for scheme in ("http", "https"):
                self.assertIn("host", self.component_refusal(component_post_url=f"{scheme}://{host}/"))
        for url in (
            "http://my_bot-:8080/",
            "https://bot.example.org./",
            "https://xn--bcher-kva.example/",
            "http://1.2.3.4/",
        ):
            settings_of(component={"component_post_url": url})

    def test_stanzas(self) -> None:
        """
        The list of stanzas is a list, not empty, of the three kinds.
        """
        self.assertTrue(self.component_refusal(component_post_stanzas="iq").endswith('; write ["iq"]'))
        self.assertTrue(
            self.component_refusal(component_post_stanzas=["messages"]).endswith('; did you mean "message"?')
        )
        for wrong in [[], ["x"], [1], [["iq"]], {}, 5, ""]:
            self.assertIn("must be a list of one or more of", self.component_refusal(component_post_stanzas=wrong))

    def test_loop_guard(self) -> None:
        """
        The loop guard is replies per seconds, or off, and nothing else.
        """
        self.assertIsNone(settings_of().delivery.loop_guard)
        self.assertEqual("off", settings_of(delivery={"loop_guard": "off"}).delivery.loop_guard)
        self.assertEqual((20, 10.0), settings_of(delivery={"loop_guard": " 20 / 10 s"}).delivery.loop_guard)
        for wrong in ("20", "20/10m", "0/10s", "20/0s", "-1/10s", "20/10s/1", "on", "", 20, True, False, (20, 10, 1)):
            self.assertIn("delivery.loop_guard is ", self.refusal(delivery={"loop_guard": wrong}))

    def test_grace_below_the_deadline(self) -> None:
        """
        A grace that would end before the deadline of a message is refused.
        """
        self.assertIn(
            "delivery.outage_grace is 5, but must be 0 or not below delivery.message_deadline, which is 900",
            self.refusal(delivery={"outage_grace": 5}),
        )

    def test_spool(self) -> None:
        """
        A spool is in memory or in a file, and a word that is like one of the two is told.
        """
        self.assertEqual(
            'bot.toml: spool.kind is "sqlite3", but must be "memory" or "sqlite"; did you mean "sqlite"?',
            self.refusal(spool={"kind": "sqlite3"}),
        )
        self.assertEqual(
            'bot.toml: spool.synchronous is "OFF", but must be "FULL" or "NORMAL"',
            self.refusal(spool={"kind": "sqlite", "synchronous": "OFF"}),
        )

    def test_path_without_a_disk(self) -> None:
        """
        A path for a spool in memory is refused: somebody thinks that it is on disk.
        """
        self.assertEqual(
            'bot.toml: spool.path is "x", but spool.kind "memory" has no file: remove path',
            self.refusal(spool={"kind": "memory", "path": "x"}),
        )
        self.assertRaises(SettingsError, SpoolSettings, kind="memory", path="x")

    def test_headers(self) -> None:
        """
        Headers that cannot be sent, or that the gateway sends itself, are refused by name.
        """
        for headers, expected in [
            ({"Host": "x"}, "webhook.headers.Host cannot be set"),
            ({"content-type": "x"}, "webhook.headers.content-type cannot be set"),
            ({"Transfer-Encoding": "x"}, "webhook.headers.Transfer-Encoding cannot be set"),
            ({"Webhook-Id": "x"}, "webhook.headers.Webhook-Id cannot be set"),
            ({"X Y": "x"}, 'webhook.headers holds the name "X Y"'),
            ({"X:": "x"}, 'webhook.headers holds the name "X:"'),
            ({"": "x"}, 'webhook.headers holds the name ""'),
            ({"X-Key": "a", "x-key": "b"}, "webhook.headers.x-key is there twice, also as X-Key"),
            ({"X-Key": "a\r\nb"}, "webhook.headers.X-Key must be a string of printable ASCII"),
            ({"X-Key": 5}, "webhook.headers.X-Key must be a string of printable ASCII"),
            (["X-Key: a"], "webhook.headers must be a table of strings"),
        ]:
            self.assertIn(f"bot.toml: {expected}", self.refusal(webhook={"headers": headers}))

    def test_authorization_twice(self) -> None:
        """
        Two settings that both decide the Authorization header are refused by name.
        """
        headers = {"authorization": f"Basic {NOT_SHOWN}"}
        token = str(self.write(NOT_SHOWN, "token"))
        url = f"http://user:{NOT_SHOWN}@h/"
        for tables, first, second in [
            (
                {"webhook": {"headers": headers, "bearer_token_file": token}},
                "bearer_token_file",
                "headers.authorization",
            ),
            (
                {"component": {"component_post_url": url}, "webhook": {"headers": headers}},
                "headers",
                "component_post_url",
            ),
            (
                {"component": {"component_post_url": url}, "webhook": {"bearer_token_file": token}},
                "bearer_token_file",
                "component_post_url",
            ),
        ]:
            sentence = self.refusal(**tables)
            self.assertRegex(sentence, f"{first}.*{second}.*both set the Authorization header")
            self.assertNotIn(NOT_SHOWN, sentence)

    def test_conditions(self) -> None:
        """
        A status that is no error, a type or a condition that does not exist is refused with the nearest name.
        """
        for table, expected in [
            ({"404": "cancel item-not-fund"}, 'did you mean "item-not-found"?'),
            ({"404": "cancle item-not-found"}, 'did you mean "cancel"?'),
            ({"404": "gone"}, 'conditions.404 is "gone", but must be a type and a condition'),
            ({"404": 5}, "conditions.404 is 5, but must be"),
            ({"200": "cancel gone"}, 'conditions holds "200", but'),
            ({"600": "cancel gone"}, 'conditions holds "600", but'),
            ({"4xx": "cancel gone"}, 'conditions holds "4xx", but'),
            (5, "conditions must be a table"),
        ]:
            self.assertIn(expected, self.refusal(conditions=table))

    def test_fallback_is_a_domain(self) -> None:
        """
        Something else than a domain to fall back to is refused, be it in a file, a flag or a constructor.
        """
        expected = 'write_barrier_fallback is "a@b", but must be a domain'
        self.assertIn(expected, self.component_refusal(write_barrier_fallback="a@b"))
        error = self.assertRaises(SettingsError, Settings.from_flags, {"write-barrier-fallback": "a@b"})
        self.assertIn('--write-barrier-fallback is "a@b", but must be a domain', str(error))
        error = self.assertRaises(
            SettingsError,
            ComponentSettings,
            domain="x.org",
            secret=NOT_SHOWN,
            component_post_url="http://h/",
            write_barrier_fallback="a@b",
        )
        self.assertIn(f"component.{expected}", str(error))

    def test_constructors_check_too(self) -> None:
        """
        An application that gives a wrong value gets the same sentence, without a file.
        """
        error = self.assertRaises(SettingsError, WebhookSettings, timeout=0)
        self.assertEqual("webhook.timeout is 0, but must be a number from 0.1 to 3600 (seconds)", str(error))
        self.assertRaises(SettingsError, DeliverySettings, max_pending=0)
        error = self.assertRaises(SettingsError, ComponentSettings, domain="x", component_post_url="http://h/")
        self.assertIn("component.secret_file (--secret-file) is missing", str(error))

    def test_flags_show_what_was_typed(self) -> None:
        """
        A flag's value that cannot be used is told with the flag, as it was typed.
        """
        for flag, text, expected in [
            ("webhook-timeout", "5s", 'is "5s", but must be a number from 0.1 to 3600 (seconds)'),
            ("webhook-max-connections", "1.5", 'is "1.5", but must be a whole number from 1 to 1000 (connections)'),
            ("forward-errors", "no", 'is "no", but must be true or false'),
            ("stanzas", "message,iqs", 'is "message,iqs", but must be a list'),
        ]:
            error = self.assertRaises(SettingsError, Settings.from_flags, {flag: text})
            self.assertTrue(str(error).startswith(f"--{flag} {expected}"), str(error))

    @given(
        st.dictionaries(
            st.sampled_from(["component", "webhook", "delivery", "spool", "conditions"]) | st.text(max_size=8),
            st.recursive(
                st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates(),
                lambda inner: (
                    st.lists(inner, max_size=3)
                    | st.dictionaries(
                        st.sampled_from([row.key for row in reference()]) | st.text(max_size=8), inner, max_size=3
                    )
                ),
                max_leaves=8,
            ),
            max_size=4,
        )
    )
    def test_any_mapping(self, tables: dict[str, object]) -> None:
        """
        Whatever a file holds is taken, or refused in one line.
        """
        try:
            Settings.from_mapping(tables, source="bot.toml", env=ENVIRONMENT)
        except SettingsError as error:
            self.assertTrue(str(error).startswith("bot.toml: "))
            self.assertNotIn("\n", str(error))


class HintTests(SettingsTestCase):
    """What a sentence says to write can be used as it stands there."""

    wrong: Mapping[tuple[str, str], list[object]] = {
        ("component", "domain"): [
            "bot@x.org",
            "x.org/bot",
            "x.org:5347",
            "http://x.org/",
            "xmpp://x.org:5347",
            "[::1]",
        ],
        ("component", "server"): [
            *(
                "localhost",
                "localhost:5347",
                "5347",
                "tcp:5347",
                "tcp:localhost",
                "tcp:port=5347",
                "tcp:host=localhost",
            ),
            *("[::1]:5347", "::1:5347", "[::1]", "tcp:[::1]:5347", "tcp:::1:5347", "tcp://[::1]:5347", "tls:[::1]:1"),
            *("tls://x.org", "https://x.org:5347/", "ssl:x.org:5347", "ssl:\\:\\:1:5347", "ssl:h:1:hostname=x.org"),
            *("tcp:", "tcp::5347", "tls:5347", "ssl:5347", "ssl:h:1:certKey=/nowhere", "tcp:h:99999", "localhost:0"),
            *("/run/prosody/component.sock", "./sock", "/run/a:b=c", "/" + "x" * 100, "[fe80::1%eth0]:5347"),
            *(
                "tcp:10.0.0.1:5347:x",
                "tcp:fe80::1:5347:",
                "xmpp.example.org:5222",
                "http://user:pw@h:1/",
                "nix:1",
                "a b",
            ),
        ],
        ("component", "component_post_url"): [
            *("127.0.0.1:8080/bot", "localhost", "bot", "[::1]:8080", "::1", "//h/", "http:/h/", "ftp://h/", "/x"),
            *("unix:/run/bot.sock", "http://unix:/run/bot.sock", "http://unix:/run/bot.sock:/path", "unix:///run/x"),
            *("http+unix://%2Frun%2Fbot.sock/", "http://h/#part", "http://h:0/", "h:99999", "a_b..c", "https://a_b/"),
        ],
        ("component", "component_post_stanzas"): ["iq", "message,iq", "message, iq", ["messages"], ["x"], "x"],
        ("component", "sender"): ["bot", "@@", 5],
        ("component", "secret_file"): ["credential:", "credential:a/b", "credential:nothing"],
        ("component", "forward_errors"): ["true", 1],
        ("webhook", "timeout"): ["60", 0],
        ("delivery", "on_gone"): ["disabled", "x"],
        ("delivery", "loop_guard"): ["20", "20/10"],
        ("spool", "kind"): ["sqlite3", "disk", "mem"],
        ("spool", "synchronous"): ["full"],
        ("api", "listen"): [
            *("8347", "127.0.0.1:8347", "tcp:127.0.0.1:8347", "http://10.0.0.1:8347/", "localhost:8347", "[::1]:8347"),
            *("::1:8347", "tcp:[::1]:8347", "tcp:::1:8347", "http://[::1]:8347/", "/run/api.sock", "/run/a:b", "0"),
            *("tcp:99999", "99999", "pigeon:1", "tcp:x", "[fe80::1]:8347"),
        ],
        ("api", "url"): ["bot.example.org", "https://h/?x", "https://b\u00fccher.example/"],
        ("api", "reply_links"): ["conversations", "x"],
    }
    """Values that cannot be used, by table and key: each mistake for which there is a hint, and others."""

    def feed_back(self, table: str, key: str, value: object) -> bool:
        """Write each hint of the sentence about a value in its place; says whether there was one."""
        sentence = self.refusal(**{table: {key: value}})
        found = False
        for text in re.findall(r'(?:write|did you mean) (".*?[^\\\\]"|\[.*?\])', sentence):
            written = tomllib.loads(f"value = {text}")["value"]
            given = [written] if isinstance(value, list) else written
            settings_of(**{table: {key: given}})
            found = True
        if "put http://" in sentence:
            settings_of(**{table: {key: f"http://{value}"}})
            found = True
        return found

    def test_every_hint_in_a_settings_file(self) -> None:
        """
        Each hint, copied into a settings file as it stands there, is a value that can be used.
        """
        hinted = set()
        for (table, key), values in self.wrong.items():
            for value in values:
                with self.subTest(key=key, value=value):
                    if self.feed_back(table, key, value):
                        hinted.add(key)
        self.assertEqual(
            {
                *("domain", "server", "component_post_url", "component_post_stanzas", "on_gone"),
                *("kind", "synchronous", "listen", "url", "reply_links"),
            },
            hinted,
        )

    def test_every_hint_on_the_command_line(self) -> None:
        """
        Each hint about a flag, pasted behind it in a shell, is a value that can be used.
        """
        flags = {(row.table, row.key): row.flags[0].removeprefix("--") for row in reference() if row.flags}
        good = {"domain": "x.org", "post-url": "http://h/"}
        tried = 0
        for where, values in self.wrong.items():
            for value in values:
                if not isinstance(value, str):
                    continue
                with self.subTest(flag=flags[where], value=value):
                    try:
                        Settings.from_flags({**good, flags[where]: value}, env=ENVIRONMENT)
                        continue  # what a file writes as a list or a word without quotes
                    except SettingsError as refused:
                        error = refused
                    for text in re.findall(r"write (.*)$", str(error)):
                        [word] = shlex.split(text)
                        Settings.from_flags({**good, flags[where]: word}, env=ENVIRONMENT)
                        tried += 1
        self.assertGreater(tried, 30)

    @given(
        st.sampled_from(["component.server", "api.listen", "component.domain"]),
        st.from_regex(
            r"((tcp|tls|ssl|unix|http):)?(//)?(\[?[0-9a-f:]{1,8}\]?|[a-z.]{1,8})(:[0-9]{1,5})?(:[a-z=0-9]{1,5})?/?",
            fullmatch=True,
        ),
    )
    def test_hint_for_anything(self, name: str, value: str) -> None:
        """
        Whatever is written for an address: if there is a hint, it can be used.
        """
        table, _, key = name.partition(".")
        try:
            settings_of(**{table: {key: value}})
        except SettingsError:
            self.feed_back(table, key, value)

    def test_missing_settings(self) -> None:
        """
        What a sentence says to add is accepted below the table that it names.
        """
        lines: list[str] = []
        while True:
            path = self.write("\n".join(["[component]", *lines]))
            try:
                Settings.from_toml(path, ENVIRONMENT)
            except SettingsError as error:
                added = re.findall(r"add (\w+ = \S+) below \[component\]", str(error))
                self.assertTrue(added, error)
                lines += added
            else:
                break
        self.assertEqual(["domain", "component_post_url"], [line.partition(" ")[0] for line in lines])

    def test_webhook_on_a_socket(self) -> None:
        """
        A webhook on a Unix socket can be written in one way, and each other way is told which.
        """
        for url in (
            "unix:/run/bot.sock",
            "unix:///run/bot.sock",
            "http://unix:/run/bot.sock",
            "http://unix:/run/bot.sock:/path",
            "http+unix://%2Frun%2Fbot.sock/",
            "http+unix:///run/bot.sock:path",
            "/run/bot.sock",
        ):
            self.assertIn("http+unix:///run/bot.sock, with :/path", self.component_refusal(component_post_url=url))
        for url in ("http+unix:///run/bot.sock", "http+unix:///run/bot.sock:/path?x=1"):
            component = settings_of(component={"component_post_url": url}).component
            self.assertEqual("http+unix:///run/bot.sock", component.post_origin)

    def test_tls_is_required(self) -> None:
        """
        With require_tls a webhook on another machine has to be https, and so has that of a route.
        """
        webhook = {"require_tls": True}
        for url in ("https://bot.example.org/", "http://127.0.0.1:8080/", "http+unix:///run/bot.sock"):
            settings_of(component={"component_post_url": url}, webhook=webhook)
        sentence = self.refusal(component={"component_post_url": "http://192.0.2.1/x"}, webhook=webhook)
        self.assertIn("is at http://192.0.2.1, but webhook.require_tls", sentence)
        route = {"name": "r", "url": "http://192.0.2.2/"}
        self.assertIn(
            "the url of component.route r is at http://192.0.2.2, but webhook.require_tls",
            self.refusal(component={"route": [route]}, webhook=webhook),
        )
        # A proxy elsewhere takes even the name of this machine over the network.
        self.refusal(
            component={"component_post_url": "http://127.0.0.1/"},
            webhook={**webhook, "proxy": "http://proxy.example.org:3128"},
        )

    def test_proxy(self) -> None:
        """
        A proxy is an http URL without a path; its password is not shown.
        """
        proxy = "http://user:hunter2@proxy.example.org:3128"
        webhook = settings_of(webhook={"proxy": proxy}).webhook
        self.assertEqual((proxy, True), (webhook.proxy, "hunter2" not in repr(webhook)))
        route = {"name": "r", "url": "http://u:hunter2@h/hunter2", "webhook": {"proxy": proxy}}
        self.assertNotIn("hunter2", repr(settings_of(component={"route": [route]})))
        for wrong in ("https://h/", "http://h/path", "http+unix:///run/x", "socks5://h:1080", "h:3128"):
            self.refusal(webhook={"proxy": wrong})


class AllAtOnceTests(SettingsTestCase):
    """All that is wrong is told at once."""

    def sentences(self, text: str) -> list[str]:
        """What is said about a settings file, without the names of its folder and its own."""
        error = self.assertRaises(SettingsError, Settings.from_toml, self.write(text), {})
        return [sentence.replace(f"{self.folder}/", "").removeprefix("bot.toml: ") for sentence in error.sentences]

    def test_missing_files(self) -> None:
        """
        Each file of a secret or a template that is not there has its sentence.
        """
        told = self.sentences(
            """
            [component]
            domain = "bot.example.org"
            secret_file = "s1"
            component_post_url = "http://127.0.0.1/"
            [webhook]
            bearer_token_file = "s2"
            [api]
            listen = "tcp:8347:interface=127.0.0.1"
            [[api.token]]
            name = "a"
            token_file = "s3"
            [[api.token]]
            name = "b"
            token_file = "s4"
            [[api.hook]]
            name = "c"
            to = "x@example.org"
            secret_file = "s5"
            template_file = "s6"
            """
        )
        named = re.findall(r'"(s\d)" cannot be read: No such file or directory', "\n".join(told))
        self.assertEqual((6, {"s1", "s2", "s3", "s4", "s5", "s6"}), (len(told), set(named)))

    def test_mistakes_of_every_sort(self) -> None:
        """
        Misspelt keys and tables, wrong values, missing secrets and what does not go together: one sentence for each,
        and none for what only follows from another.
        """
        told = self.sentences(
            """
            timeuot = 5
            [component]
            domian = "bot.example.org"
            component_post_url = "nonsense"
            forward_errors = "no"
            [webhok]
            timeout = 5
            [webhook]
            max_connections = 0
            bearer_token_file = "none"
            [delivery]
            outage_grace = 5
            [conditions]
            200 = "cancel gone"
            """
        )
        beginnings = [
            "timeuot is not a setting; did you mean webhook.timeout?",
            "component.domian is not a setting; did you mean component.domain?",
            'component.component_post_url is "nonsense", but',
            'component.forward_errors is "no", but',
            "[webhok] is not a table",
            "webhook.max_connections is 0, but",
            "conditions holds",
            "component.secret_file (--secret-file) is missing",
            'webhook.bearer_token_file "none" cannot be read',
            "delivery.outage_grace is 5, but",
        ]
        self.assertEqual(len(beginnings), len(told), told)
        for beginning, sentence in zip(beginnings, told, strict=True):
            self.assertTrue(sentence.startswith(beginning), sentence)

    def test_nothing(self) -> None:
        """
        Who gives nothing at all reads all that is needed.
        """
        error = self.assertRaises(SettingsError, Settings.from_flags, {}, env={})
        self.assertEqual(3, len(error.sentences))
        for sentence, word in zip(error.sentences, ("--domain", "--secret-file", "--post-url"), strict=True):
            self.assertIn(word, sentence)

    def test_flag_and_file(self) -> None:
        """
        Mistakes on the command line are told beside those in the file.
        """
        path = self.write('[component]\ndomain = "@"\ncomponent_post_url = "http://h/"\n')
        error = self.assertRaises(SettingsError, Settings.from_flags, {"webhook-timeout": "x"}, path, ENVIRONMENT)
        self.assertEqual(2, len(error.sentences))

    def test_on_one_line(self) -> None:
        """
        The text of the error has all sentences on one line.
        """
        error = self.assertRaises(SettingsError, Settings.from_flags, {}, env={})
        self.assertEqual("; also ".join(error.sentences), str(error))


class SeveralComponentsTests(SettingsTestCase):
    """Files with several tables [[component]]."""

    TWO = """
        [webhook]
        timeout = 30
        [delivery]
        max_attempts = 4
        [conditions]
        404 = "cancel item-not-found"
        [[component]]
        domain = "red.example.org"
        component_post_url = "http://127.0.0.1:1/"
        [component.webhook]
        timeout = 10
        [[component]]
        domain = "blue.example.org"
        component_post_url = "http://127.0.0.1:2/"
        delivery.max_pending = 100
        conditions.500 = "wait internal-server-error"
        """

    def refusals(self, text: str, **flags: str) -> list[str]:
        """The sentences about a file, without its name."""
        path = self.write(text)
        error = self.assertRaises(SettingsError, Settings.from_flags, flags, path, ENVIRONMENT)
        return [sentence.removeprefix(f"{path}: ") for sentence in error.sentences]

    def test_defaults_of_all(self) -> None:
        """
        Each has what stands at the top, or else what it has itself; the environment gives one secret to all.
        """
        settings = Settings.from_toml(self.write(self.TWO), ENVIRONMENT)
        red, blue = settings.each
        self.assertEqual(("red.example.org", "blue.example.org"), (red.component.domain, blue.component.domain))
        self.assertEqual((10.0, 30.0), (red.webhook.timeout, blue.webhook.timeout))
        self.assertEqual((4, 4), (red.delivery.max_attempts, blue.delivery.max_attempts))
        self.assertEqual((None, 100), (red.delivery.max_pending, blue.delivery.max_pending))
        self.assertEqual(([404], [500]), ([*red.conditions], [*blue.conditions]))
        self.assertEqual({NOT_SHOWN}, {each.component.secret for each in settings.each})

    def test_by_an_application(self) -> None:
        """
        An application names the others, which share the spool, the API and the log of the first.
        """
        first = settings_of(spool={"path": "one.sqlite3"})
        other = settings_of(component={"domain": "other.example.org"}, spool={"kind": "memory"})
        settings = evolve(first, others=[other])
        self.assertEqual([first.spool] * 2, [each.spool for each in settings.each])
        self.assertIn("domain bot.example.org", str(self.assertRaises(SettingsError, evolve, first, others=[first])))
        self.assertRaises(SettingsError, evolve, other, others=[settings])

    def test_mistakes_name_their_component(self) -> None:
        """
        A mistake is told with the component that it is in.
        """
        text = self.TWO + 'tmeout = 3\nspool.kind = "memory"\nwebhook.timeout = 0\n[[component]]\nsecret_file = "x"\n'
        sentences = self.refusals(text)
        for expected in (
            "[[component]] blue.example.org: [spool] is for all components: write it at the top of the file",
            '[[component]] number 3: component.domain is missing: add domain = "bot.example.org" below [[component]]',
        ):
            self.assertIn(expected, sentences)
        self.assertTrue(any("blue.example.org: webhook.timeout is 0" in each for each in sentences), sentences)

    def test_one_domain_twice(self) -> None:
        """
        Two components of one domain are one mistake.
        """
        text = self.TWO.replace("blue.", "red.")
        self.assertEqual(
            ["2 components have the domain red.example.org: each must have one of its own"], self.refusals(text)
        )

    def test_flags(self) -> None:
        """
        A flag for a component cannot say which of several it is for; others are for all that say nothing else.
        """
        [sentence] = self.refusals(self.TWO, server="tcp:127.0.0.1:1")
        self.assertIn("--server is for one component", sentence)
        settings = Settings.from_flags({"webhook-timeout": "7"}, self.write(self.TWO), ENVIRONMENT)
        self.assertEqual([10.0, 7.0], [each.webhook.timeout for each in settings.each])

    def test_api(self) -> None:
        """
        A hook has to say which component sends, and a token can be only for one that is there.
        """
        for name in ("secret", "token"):
            self.write("x" * 20, name)
        api = """
        [api]
        listen = "tcp:8347"
        [[api.hook]]
        name = "alerts"
        secret_file = "secret"
        to = "alice@example.org"
        [[api.token]]
        name = "ops"
        token_file = "token"
        components = ["green.example.org"]
        """
        self.assertEqual(
            [
                'api.token ops has "green.example.org" in components, but there is no such component',
                "api.hook alerts needs send_as, because there are several components",
            ],
            self.refusals(self.TWO + api),
        )


class NoWebhookTests(SettingsTestCase):
    """A gateway that only sends."""

    def test_api_alone(self) -> None:
        """
        With an API the webhook's URL may be left out, by file and by flags.
        """
        path = self.write('[component]\ndomain = "x.org"\n[api]\nlisten = "tcp:8347:interface=127.0.0.1"\n')
        for settings in (
            Settings.from_toml(path, ENVIRONMENT),
            Settings.from_flags({"domain": "x.org", "api-listen": "tcp:8347:interface=127.0.0.1"}, env=ENVIRONMENT),
        ):
            self.assertEqual((None, "no webhook"), (settings.component.component_post_url, settings.component.posted))
            [warning] = settings.warnings()
            self.assertIn("COMPONENT_HTTP_SECRET gives the secret, and other processes", warning)
            self.assertIn("component_post_url=None", repr(settings))

    def test_neither(self) -> None:
        """
        Without a webhook and without an API there is nothing to do, which is told with both ways out.
        """
        path = self.write('[component]\ndomain = "x.org"\n')
        error = self.assertRaises(SettingsError, Settings.from_toml, path, ENVIRONMENT)
        self.assertEqual(
            f'{path}: component.component_post_url is missing: add component_post_url = "http://127.0.0.1:8080/" below'
            " [component]; only a gateway that just sends does not need it, with listen below [api]",
            str(error),
        )


class CredentialTests(SettingsTestCase):
    """Secrets that systemd passes."""

    def setUp(self) -> None:
        super().setUp()
        self.env = {"CREDENTIALS_DIRECTORY": str(self.folder / "credentials")}
        (self.folder / "credentials").mkdir()
        for name in ("secret", "bearer", "ops", "hook"):
            self.write(f"{name}-0123456789abcdef\n", f"credentials/{name}")

    def test_every_secret(self) -> None:
        """
        Each secret may be a credential: of the component, of the webhook, of a token and of a hook.
        """
        path = self.write(
            """
            [component]
            domain = "bot.example.org"
            secret_file = "credential:secret"
            component_post_url = "http://127.0.0.1/"
            [webhook]
            bearer_token_file = "credential:bearer"
            [[api.token]]
            name = "ops"
            token_file = "credential:ops"
            [[api.hook]]
            name = "alerts"
            to = "x@example.org"
            secret_file = "credential:hook"
            """
        )
        settings = Settings.from_toml(path, self.env)
        self.assertEqual(
            [f"{name}-0123456789abcdef" for name in ("secret", "bearer", "ops", "hook")],
            [
                settings.component.secret,
                settings.webhook.bearer_token,
                settings.api.token[0].token,
                settings.api.hook[0].secret,
            ],
        )

    def test_flag(self) -> None:
        """
        A flag that names a file with a secret takes a credential too.
        """
        flags = {"domain": "x", "post-url": "http://127.0.0.1/", "secret-file": "credential:secret"}
        self.assertEqual("secret-0123456789abcdef", Settings.from_flags(flags, env=self.env).component.secret)

    def test_mapping(self) -> None:
        """
        An application says in which environment credentials are looked up.
        """
        mapping = a_mapping(component={"secret_file": "credential:secret"})
        self.assertEqual("secret-0123456789abcdef", Settings.from_mapping(mapping, env=self.env).component.secret)

    def test_not_there(self) -> None:
        """
        A credential that is not passed, a name that none can have and a process without credentials are told with what
        to do.
        """
        for name, env, expected in (
            ("none", self.env, "add LoadCredential=none:FILE to the unit"),
            ("secret", {}, "systemd sets it for a unit with LoadCredential=secret:FILE; without systemd set it to"),
            ("", self.env, "must have the name of a credential"),
            ("../secret", self.env, "must have the name of a credential"),
        ):
            mapping = a_mapping(component={"secret_file": f"credential:{name}"})
            error = self.assertRaises(SettingsError, Settings.from_mapping, mapping, env=env)
            self.assertIn(expected, str(error))
            self.assertEqual(1, len(error.sentences), error)

    def test_spool_needs_none(self) -> None:
        """
        The commands for the spool read a settings file whose credentials only the gateway has.
        """
        path = self.write(
            '[component]\nsecret_file = "credential:none"\n[spool]\npath = "x"\n'
            '[[api.token]]\nname = "a"\ntoken_file = "credential:none"\n'
        )
        self.assertEqual(str(self.folder / "x"), spool_from_toml(path).path)
        error = self.assertRaises(SettingsError, spool_from_toml, self.write('[spol]\npath = "x"\n'))
        self.assertIn("did you mean [spool]?", str(error))


class FileTests(SettingsTestCase):
    """Settings files that cannot be read."""

    def refusal_of(self, path: Path) -> str:
        """The sentence that a file gets, with the name of its folder left out."""
        return str(self.assertRaises(SettingsError, Settings.from_toml, path, ENVIRONMENT)).replace(
            f"{self.folder}/", ""
        )

    def test_not_there(self) -> None:
        """
        A file that is not there, or is a folder, is told by name.
        """
        self.assertEqual(
            "none.toml cannot be read: No such file or directory; make the file, or correct its path",
            self.refusal_of(self.folder / "none.toml"),
        )
        self.assertIn("cannot be read: Is a directory; name a file", self.refusal_of(self.folder))

    def test_syntax(self) -> None:
        """
        A mistake in the TOML is told with its line and column.
        """
        for text, expected in [
            ("[component]\ndomain = \n", "bot.toml, line 2, column 10: not valid TOML: Invalid value"),
            ("[component\n", "bot.toml, line 1, column 11: not valid TOML: Expected ']'"),
            ("[component]\ndomain", "bot.toml, line 2, column 7: not valid TOML: Expected '='"),
            ("[webhook]\ntimeout = 1\ntimeout = 2\n", "bot.toml, line 3, column 12: not valid TOML: Cannot overwrite"),
        ]:
            self.assertIn(expected, self.refusal_of(self.write(text)))

    def test_not_for_reading(self) -> None:
        """
        A file of another kind is refused in one sentence: binary, endless, or made to break a parser.
        """
        binary = self.folder / "binary.toml"
        binary.write_bytes(b"domain = \xff")
        self.assertIn("is not UTF-8 text, see byte 9", self.refusal_of(binary))
        self.assertIn("has more than 1048576 bytes", self.refusal_of(Path("/dev/zero")))
        self.assertIn("nested too deep", self.refusal_of(self.write("a = " + "[" * 100_000)))
        self.assertIn("too long", self.refusal_of(self.write("a = " + "1" * 10_000)))

    def test_byte_order_mark(self) -> None:
        """
        A file that an editor has put a byte order mark into is read.
        """
        path = self.write('\ufeff[component]\r\ndomain = "x.org"\r\ncomponent_post_url = "http://h/"\r\n')
        self.assertEqual("x.org", Settings.from_toml(path, ENVIRONMENT).component.domain)


class SecretTests(SettingsTestCase):
    """Secrets come from a file or the environment, and are never shown."""

    def with_secret(self, text: str, env: Mapping[str, str] | None = None) -> Settings:
        """Settings whose secret's file has this text."""
        (self.folder / "secret").write_bytes(text.encode())
        path = self.write(
            '[component]\ndomain = "x"\ncomponent_post_url = "http://127.0.0.1/"\nsecret_file = "secret"\n'
        )
        return Settings.from_toml(path, env or {})

    def refusal_of(self, text: str, env: Mapping[str, str] | None = None) -> str:
        sentence = str(self.assertRaises(SettingsError, self.with_secret, text, env))
        self.assertNotIn(NOT_SHOWN, sentence)
        return sentence

    def test_end_of_line(self) -> None:
        """
        The secret is the file's one line, with or without its end; blanks in it are a part of it.
        """
        for text in ["s3 cret", "s3 cret\n", "s3 cret\r\n"]:
            self.assertEqual("s3 cret", self.with_secret(text).component.secret)

    def test_empty(self) -> None:
        """
        An empty file of a secret is refused by name.
        """
        for text in ["", "\n"]:
            self.assertIn("is empty, but must hold the secret in one line", self.refusal_of(text))

    def test_another_file(self) -> None:
        """
        A file that holds more than a secret is not taken for one.
        """
        self.assertIn("in one line, and nothing else", self.refusal_of(f"{NOT_SHOWN}\nand more\n"))
        self.assertIn("has more than 4096 bytes", self.refusal_of(NOT_SHOWN * 4096))

    def test_not_there(self) -> None:
        """
        A secret's file that is not there is told with its path and its key.
        """
        self.assertRegex(
            self.component_refusal(secret_file="/nowhere/secret"),
            '^bot.toml: component.secret_file "/nowhere/secret" cannot be read: No such file or directory; make the'
            " file, or correct its path$",
        )

    def test_from_the_environment(self) -> None:
        """
        The environment may give the secret; set but empty is the same as not set.
        """
        self.assertEqual(NOT_SHOWN, settings_of().component.secret)
        error = self.assertRaises(
            SettingsError, Settings.from_mapping, a_mapping(), source="bot.toml", env={"COMPONENT_HTTP_SECRET": ""}
        )
        self.assertEqual(
            "bot.toml: component.secret_file (--secret-file) is missing and COMPONENT_HTTP_SECRET is not in the"
            " environment: one of them must give the secret that the XMPP server has for the component",
            str(error),
        )

    def test_both_the_same(self) -> None:
        """
        File and environment may both give the secret, if it is the same.
        """
        self.assertEqual(NOT_SHOWN, self.with_secret(f"{NOT_SHOWN}\n", ENVIRONMENT).component.secret)

    def test_both_and_different(self) -> None:
        """
        File and environment with different secrets are refused: nobody could say which one was meant.
        """
        self.assertIn("holds another secret than the one given directly", self.refusal_of("old", ENVIRONMENT))
        self.assertIn("COMPONENT_HTTP_SECRET", self.refusal_of("old", ENVIRONMENT))

    def test_in_the_settings_file(self) -> None:
        """
        A secret that stands in the settings file itself is refused, with the two places where it may be.
        """
        sentence = self.component_refusal(secret=NOT_SHOWN)
        self.assertEqual(
            "bot.toml: component.secret must not stand in the open: put it into a file of its own and name that file in"
            " secret_file, or into the environment variable COMPONENT_HTTP_SECRET",
            sentence,
        )
        self.assertIn("bearer_token_file", self.refusal(webhook={"bearer_token": NOT_SHOWN}))

    def test_no_flag(self) -> None:
        """
        There is no flag for a secret, and whoever tries one is told why and what instead.
        """
        flags = {"secret": NOT_SHOWN, "domain": "x", "post-url": "http://h/"}
        error = self.assertRaises(SettingsError, Settings.from_flags, flags, env=ENVIRONMENT)
        self.assertEqual(
            "--secret is not a flag, because every user of the machine would see it:"
            " use --secret-file or the environment variable COMPONENT_HTTP_SECRET",
            str(error),
        )

    def test_bearer_token(self) -> None:
        """
        The bearer token is read from its file; a blank within it is refused without showing it.
        """
        token = self.write("abc.def\n", "token")
        self.assertEqual("abc.def", settings_of(webhook={"bearer_token_file": str(token)}).webhook.bearer_token)
        token.write_text(f"{NOT_SHOWN} x")
        sentence = self.refusal(webhook={"bearer_token_file": str(token)})
        self.assertIn("webhook.bearer_token_file", sentence)
        self.assertNotIn(NOT_SHOWN, sentence)

    def test_never_shown(self) -> None:
        """
        Neither the settings' repr nor the URL for the log shows a secret.
        """
        settings = settings_of(
            component={"component_post_url": f"https://user:{NOT_SHOWN}@h:8443/{NOT_SHOWN}/@bot?token={NOT_SHOWN}"},
            webhook={"headers": {"X-Key": NOT_SHOWN}},
        )
        self.assertNotIn(NOT_SHOWN, repr(settings))
        self.assertEqual("https://h:8443", settings.component.post_origin)

    def test_never_shown_in_a_wrong_url(self) -> None:
        """
        A URL that cannot be used is shown without what may be a password, however wrong it is.
        """
        for url in [
            f"user:{NOT_SHOWN}@h/",
            f"ftp://user:{NOT_SHOWN}@h/",
            f"http://user:{NOT_SHOWN}@h:x/",
            f"http://user:{NOT_SHOWN}/x@h/",
            f"http://us@er:{NOT_SHOWN}@h :1/",
            f"http:///?token={NOT_SHOWN}",
            f"//user:{NOT_SHOWN}\n@h",
            f"http://h/{NOT_SHOWN}#x",
            f"http://h/{NOT_SHOWN} ",
            f"h/{NOT_SHOWN}",
            f"ftp://h/{NOT_SHOWN}/@h",
            f"http://h:0/a@{NOT_SHOWN}",
            f"https://my_bot/{NOT_SHOWN}",
            [f"http://h/{NOT_SHOWN}"],
        ]:
            self.assertNotIn(NOT_SHOWN, self.component_refusal(component_post_url=url), str(url))
            if isinstance(url, str) and "//" in url:
                self.assertNotIn(NOT_SHOWN, self.component_refusal(server=url), url)

    def test_not_on_the_command_line(self) -> None:
        """
        A URL with a password is refused as a flag, where every user of the machine would see it.
        """
        for flag in ["post-url", "component-post-url", "webhook-proxy"]:
            error = self.assertRaises(SettingsError, Settings.from_flags, {flag: f"http://user:{NOT_SHOWN}@h/"})
            self.assertTrue(str(error).startswith(f"--{flag} must not hold a user or a password"), str(error))
            self.assertNotIn(NOT_SHOWN, str(error))

    def test_unused_settings(self) -> None:
        """
        What means nothing for the URL of a webhook, nor for that of any of its routes, is told.
        """
        route = {"name": "r", "to": ["a@bot.example.org"], "url": "https://127.0.0.1/"}
        for url, webhook, routes, told in (
            ("http://127.0.0.1/", {"server_name": "x.example"}, [], ["webhook.server_name does nothing"]),
            ("http://127.0.0.1/", {"server_name": "x.example"}, [route], []),
            ("https://127.0.0.1/", {"server_name": "x.example"}, [], []),
            ("http+unix:///run/b.sock", {"proxy": "http://127.0.0.1:3128"}, [], ["webhook.proxy does nothing"]),
            ("http://127.0.0.1/", {"proxy": "http://127.0.0.1:3128"}, [], []),
        ):
            with self.subTest(url=url, webhook=webhook, routes=routes):
                component = {"domain": "bot.example.org", "component_post_url": url, "route": routes}
                settings = Settings.from_mapping(
                    {"component": component, "webhook": webhook}, env={"COMPONENT_HTTP_SECRET": "s"}
                )
                found = [warning.partition(" does")[0] for warning in settings.warnings() if "does nothing" in warning]
                self.assertEqual([each.partition(" does")[0] for each in told], found)

    def test_warnings(self) -> None:
        """
        A password in the URL and a secret's file that everyone can read or change are taken, with a warning each; of a
        link what counts is the file it leads to.
        """
        settings = self.with_secret("s")
        (self.folder / "secret").chmod(0o600)
        self.assertEqual((), settings.warnings())
        (self.folder / "secret").chmod(0o644)
        (warning,) = settings.warnings()
        self.assertRegex(warning, "^component.secret_file .* can be read by every user of this machine")
        (self.folder / "secret").chmod(0o622)
        (warning,) = settings.warnings()
        self.assertRegex(warning, "^component.secret_file .* can be changed by every user of this machine")
        (self.folder / "secret").chmod(0o600)
        (self.folder / "secret").rename(self.folder / "behind")
        (self.folder / "secret").symlink_to("behind")
        self.assertEqual((), settings.warnings())
        (warning,) = settings_of(component={"component_post_url": f"https://u:{NOT_SHOWN}@h/"}).warnings()
        self.assertIn("component_post_url holds a user or a password", warning)
        self.assertNotIn(NOT_SHOWN, warning)

    def test_secrets_in_the_settings_file(self) -> None:
        """
        A settings file that everyone can read is warned of where it holds a secret: in the URL, or in a header.
        """
        file = self.folder / "bot.toml"
        table = '[component]\ndomain = "bot.example.org"\ncomponent_post_url = "http://{}h/"\n'
        for user, headers, named in (
            ("", f'[webhook]\nproxy = "http://u:{NOT_SHOWN}@h:1"\n', "the user in webhook.proxy"),
            ("", "", None),
            ("", '[webhook.headers]\nX-Instance = "a"\n', None),
            ("", f'[webhook.headers]\nX-Api-Key = "{NOT_SHOWN}"\n', "webhook.headers.X-Api-Key"),
            ("", f'[webhook.headers]\nauthorization = "{NOT_SHOWN}"\n', "webhook.headers.authorization"),
            (f"u:{NOT_SHOWN}@", "", "the user in component.component_post_url"),
        ):
            with self.subTest(named=named):
                file.write_text(table.format(user) + headers)
                for mode, expected in ((0o644, named), (0o640, None)):
                    file.chmod(mode)
                    settings = Settings.from_toml(file, {"COMPONENT_HTTP_SECRET": "s"})
                    found = [warning for warning in settings.warnings() if "the settings file" in warning]
                    sentence = f'the settings file "{file}" has a secret in it ({expected}), and can be read by every'
                    self.assertEqual(
                        [] if expected is None else [f"{sentence} user of this machine: chmod o-rwx it"], found
                    )
                    self.assertNotIn(NOT_SHOWN, "".join(settings.warnings()))

    def test_keys_that_everyone_can_read(self) -> None:
        """
        The keys that belong to certificates are secrets like any other: also those of the API and of a tls: server.
        """
        own = self.folder / "own.pem"
        own.write_bytes(Authority().certified("bot.example.org"))
        own.chmod(0o644)
        settings = settings_of(
            component={"server": f"tls:xmpp.example.org:5347:certificate={own}"},
            webhook={"client_certificate": str(own)},
            api={"listen": f"ssl:8443:{own}:{own}:interface=127.0.0.1", "url": "https://bot.example.org"},
            operations={"listen": f"ssl:9347:privateKey={own}:certKey={own}:interface=127.0.0.1"},
        )
        for key in ("component.server", "webhook.client_key", "api.listen", "operations.listen"):
            self.assertIn(
                f'{key} "{own}" can be read by every user of this machine: chmod', "".join(settings.warnings())
            )

    def test_certificates_that_end_soon(self) -> None:
        """
        A warning tells of each certificate of ours that ends within 14 days, or has ended.
        """
        own = self.folder / "own.pem"
        for expired, words in ((False, "ends in 1 days: renew it"), (True, "has ended: renew it")):
            own.write_bytes(Authority().certified("bot.example.org", expired=expired))
            own.chmod(0o600)
            settings = settings_of(
                component={"server": f"tls:xmpp.example.org:5347:certificate={own}"},
                webhook={"client_certificate": str(own)},
                api={"listen": f"ssl:8443:privateKey={own}:certKey={own}", "url": "https://bot.example.org"},
            )
            for key in ("component.server", "webhook.client_certificate", "api.listen"):
                self.assertIn(f'the certificate in {key} "{own}" {words}', settings.warnings())

    def test_what_passes_in_the_open(self) -> None:
        """
        A server or a webhook on another machine without TLS is taken with a warning that says what can be read by
        others; on this machine, or with TLS, there is none.
        """

        def warnings(server: str = "tcp:127.0.0.1:5347", url: str = "http://127.0.0.1/", **webhook: Any) -> list[str]:
            settings = settings_of(component={"server": server, "component_post_url": url}, webhook=webhook)
            return [text for text in settings.warnings() if "on the network" in text]

        for server in ("tcp:localhost:1", "tcp:127.0.0.9:1", "tcp:\\:\\:1:1", "unix:/run/x", "tls:xmpp.example.org:1"):
            self.assertEqual([], warnings(server))
        for url in ("http://localhost:8080/x", "http://[::1]/", "http://bot.localhost/", "https://bot.example.org/"):
            self.assertEqual([], warnings(url=url))
        for server in ("tcp:xmpp.example.org:5347", "TCP:host=10.0.0.1:port=5347", "tcp:localhost.example.org:1"):
            (warning,) = warnings(server)
            self.assertIn(f'component.server is "{server}"', warning)
            self.assertIn("take a tls: endpoint", warning)
        (warning,) = warnings(url="http://bot/")
        self.assertEqual(
            "component.component_post_url is at http://bot, on another machine: others on the network can"
            " read stanzas; take https://, unless you trust the network",
            warning,
        )
        (warning,) = warnings(url=f"http://u:{NOT_SHOWN}@bot/{NOT_SHOWN}", headers={"X-Key": NOT_SHOWN})
        self.assertIn("stanzas, the path of the URL, the user and the password in it, webhook.headers;", warning)
        self.assertNotIn(NOT_SHOWN, warning)
        (warning,) = warnings(url="http://bot/", bearer_token_file=str(self.write(NOT_SHOWN, "token")))
        self.assertIn("stanzas, the bearer token;", warning)
        (warning,) = warnings(proxy="http://proxy.example.org:3128")
        self.assertIn("component.component_post_url is at http://127.0.0.1, on another machine", warning)
        settings = settings_of(component={"route": [{"name": "weather", "url": "http://192.0.2.1/x"}]})
        self.assertIn(
            "the url of component.route weather is at http://192.0.2.1, on another machine",
            "".join(settings.warnings()),
        )


class ReloadingTests(SettingsTestCase):
    """Other settings for a gateway that runs."""

    API: Mapping[str, object] = {"listen": "tcp:8081"}

    def api(self, token: str, **more: object) -> dict[str, object]:
        """A table [api] with one token."""
        self.write(token + "\n", "token")
        return {**self.API, "token": [{"name": "ops", "token_file": str(self.folder / "token")}], **more}

    def test_at_once(self) -> None:
        """
        The webhook with its URL, tokens, conditions and the log's level are those that were given.
        """
        running = settings_of(api=self.api("first-token-of-ops"))
        given = settings_of(
            component={"component_post_url": "http://127.0.0.1:9090/"},
            webhook={"timeout": 7.0, "rate": "5/1s"},
            conditions={"404": "cancel item-not-found"},
            log={"level": "warn"},
            api=self.api("second-token-of-ops"),
        )
        changes = Changes.between(running, given)
        self.assertEqual(([], [], {}, []), (changes.removed, changes.added, changes.replaced, changes.left))
        taken = changes.settings
        self.assertEqual(
            (given.component, given.webhook, given.conditions, given.log, given.api),
            (taken.component, taken.webhook, taken.conditions, taken.log, taken.api),
        )

    def test_another_stream(self) -> None:
        """
        Other settings of a component need another stream, and so does another secret; those that differ are named.
        """
        running = settings_of(api=self.api("first-token-of-ops"))
        given = Settings.from_mapping(
            a_mapping(component={"nick": "bot"}, delivery={"max_attempts": 1}, api=self.api("second-token-of-ops")),
            env={"COMPONENT_HTTP_SECRET": "another"},
        )
        changes = Changes.between(running, given)
        names = ["component.nick", "the secret of the component", "delivery.max_attempts"]
        self.assertEqual({"bot.example.org": names}, changes.replaced)
        self.assertEqual(([], [], []), (changes.removed, changes.added, changes.left))

    def test_delivery_at_once(self) -> None:
        """
        The limits and the times of deliveries apply at once.
        """
        given = settings_of(delivery={"max_attempts": 3, "iq_deadline": 10.0, "max_pending": 100})
        changes = Changes.between(settings_of(), given)
        self.assertEqual(({}, given.delivery), (changes.replaced, changes.settings.delivery))

    def test_come_and_go(self) -> None:
        """
        Another domain is another component: one goes, and one comes.
        """
        changes = Changes.between(settings_of(), settings_of(component={"domain": "other.example.org"}))
        self.assertEqual(
            (["bot.example.org"], ["other.example.org"], {}), (changes.removed, changes.added, changes.replaced)
        )

    def test_at_a_restart(self) -> None:
        """
        The spool and the API stay as they are but for tokens and hooks, and what differs is named.
        """
        running = settings_of(api=self.api("first-token-of-ops"))
        given = settings_of(spool={"kind": "memory"}, api=self.api("second-token-of-ops", max_wait=5.0))
        changes = Changes.between(running, given)
        self.assertEqual(["api.max_wait", "spool.kind"], sorted(changes.left))
        taken = changes.settings
        self.assertEqual(running.spool, taken.spool)
        self.assertEqual((running.api.max_wait, given.api.token), (taken.api.max_wait, taken.api.token))

    def test_no_webhook(self) -> None:
        """
        A component gets its first webhook, and loses its only one, by another stream.
        """
        with_webhook, without = settings_of(), settings_of(component={"component_post_url": None}, api=self.API)
        for running, new in ((with_webhook, without), (without, with_webhook)):
            replaced = Changes.between(running, new).replaced
            self.assertEqual({"bot.example.org": ["component.component_post_url"]}, replaced)


class ReferenceTests(SynchronousTestCase):
    """The list of settings that the documents and --help are made from."""

    def test_every_setting_explains_itself(self) -> None:
        """
        Each setting says what it is for and what is allowed, and has a default or an example.
        """
        for row in reference():
            self.assertTrue(row.about.help and row.about.value_type.allowed, row)
            self.assertNotEqual("none", row.example, row)

    def test_flags(self) -> None:
        """
        Keys of [component] are flags as they are, others have their table in front; two have short names.
        """
        flags = {(row.table, row.key): row.flags for row in reference()}
        self.assertEqual(("--secret-file",), flags["component", "secret_file"])
        self.assertEqual(("--post-url", "--component-post-url"), flags["component", "component_post_url"])
        self.assertEqual(("--stanzas", "--component-post-stanzas"), flags["component", "component_post_stanzas"])
        self.assertEqual(("--webhook-max-connections",), flags["webhook", "max_connections"])
        self.assertEqual((), flags["webhook", "headers"])

    def test_no_secret_is_listed(self) -> None:
        """
        What only an application may give is not offered to operators.
        """
        self.assertFalse({"secret", "bearer_token"} & {row.key for row in reference()})
