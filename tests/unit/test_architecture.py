"""Who may know whom, and that importing does nothing."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

from attrs import frozen
from twisted.trial.unittest import SynchronousTestCase

import component_http

PACKAGE = Path(component_http.__path__[0])

PURE = {
    "__future__",
    "base64",
    "bisect",
    "ipaddress",
    "codecs",
    "collections",
    "contextlib",
    "datetime",
    "email",
    "enum",
    "functools",
    "hashlib",
    "hmac",
    "html",
    "http",
    "io",
    "itertools",
    "json",
    "math",
    "operator",
    "pyexpat",
    "re",
    "urllib",
    "string",
    "stringprep",
    "sys",
    "types",
    "typing",
    "unicodedata",
    "xml",
    "zlib",
}
"""Of the standard library, what needs no outside world: no clock, no chance, no file, no socket, no log."""


@frozen
class Allowed:
    """
    What a module, or the modules of a package, may import.

    Attributes:
        own: Modules and packages of this project, beside itself.
        others: Packages of other people, beside attrs.
        pure: Nothing of the standard library but `PURE`.
    """

    own: Collection[str] = ()
    others: Collection[str] = ()
    pure: bool = False


VALUES = ("chunks", "contract", "errors", "throttle", "shares")
SEAMS = (*VALUES, "interfaces", "log", "turns", "waiters")

MODULES = {
    # Values.
    "chunks": Allowed(pure=True),
    "errors": Allowed(pure=True),
    "throttle": Allowed(pure=True),
    "shares": Allowed(pure=True),
    "_version": Allowed(pure=True),
    "contract": Allowed(["errors"], ["twisted.words.xish", "idna", "orjson"], pure=True),
    **{
        f"delivery.{name}": Allowed([*VALUES, "delivery.retry", "delivery.rounds", "delivery.window"], pure=True)
        for name in (
            "backlog",
            "breaker",
            "deadlines",
            "limit",
            "loop_brake",
            "loop_guard",
            "pace",
            "retry",
            "rounds",
            "status",
            "window",
        )
    },
    "delivery.load": Allowed(["delivery.limit", "delivery.pace"], pure=True),
    **{
        f"delivery.{name}": Allowed([*VALUES, "delivery.backlog", "delivery.rounds"], pure=True)
        for name in ("admission", "bans")
    },
    # Seams.
    "interfaces": Allowed(VALUES, ["twisted.internet.defer", "twisted.words.xish"], pure=True),
    "log": Allowed(["contract"], ["twisted.logger"], pure=True),
    "turns": Allowed([], ["twisted.internet.defer", "twisted.internet.interfaces"], pure=True),
    "waiters": Allowed([], ["twisted.internet.defer", "twisted.python.failure"], pure=True),
    # Flow.
    "delivery": Allowed(
        SEAMS,
        [
            "twisted.internet.defer",
            "twisted.internet.interfaces",
            "twisted.internet.task",
            "twisted.logger",
            "twisted.python",
            "twisted.words.xish",
        ],
    ),
    # Edges: each knows one outside library and no other edge.
    "xmpp": Allowed([*SEAMS, "_version", "compat", "tls"], ["twisted", "wokkel", "constantly", "zope"]),
    "webhook": Allowed([*SEAMS, "_version", "certificates", "signing", "tls"], ["twisted", "treq", "zope"]),
    "spool": Allowed(SEAMS, ["twisted", "orjson"]),
    "operations": Allowed([*SEAMS, "_version", "delivery.status"], ["twisted", "prometheus_client", "zope"]),
    "api": Allowed(SEAMS, ["twisted", "zope"]),
    "api.template": Allowed([*SEAMS, "api.exchange", "api.slack"], ["jinja2"]),
    **{
        f"api.{name}": Allowed([*VALUES, "api"], ["twisted.words.xish"], pure=True)
        for name in ("exchange", "openapi", "iq_requests", "rate", "reading", "slack")
    },
    # Beside the path of a stanza.
    "clock": Allowed([], ["twisted", "zope"]),
    "ids": Allowed(),
    "compat": Allowed(["contract"], ["twisted", "constantly"]),
    "certificates": Allowed(["contract", "log", "tls"], ["twisted", "cryptography", "OpenSSL", "zope"]),
    "settings": Allowed(["certificates", "contract", "errors", "log", "signing"], ["twisted", "zope"]),
    "signing": Allowed([], ["cryptography"]),
    "tls": Allowed(["errors"], ["twisted", "cryptography", "OpenSSL", "service_identity", "zope"]),
    "testing": Allowed([*SEAMS, "spool.memory"], ["twisted"]),
}
"""
The layers of docs/architecture.md. A module that is not here has to be given its place first; one that has an entry of
its own is held to that.
"""

ASSEMBLY = (
    "",
    "__main__",
    "gateway",
    "lookout",
    "operators",
    "oversight",
    "running",
    "serving",
    "wiring",
    "webhooks",
    "sizing",
    "caretaker",
    "api_service",
    "operations_service",
    "tap",
    "cli",
    "commands",
    "playground",
)
"""The only modules that may import everything; "" is the package itself, with its public names."""


def modules() -> Iterator[tuple[str, Path]]:
    """The name of each module below the package ("" for itself), and its file."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if not path.with_name("__init__.py").exists():
            continue  # an example, which is a program of its own
        yield ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip("."), path


def imports(path: Path) -> Iterator[str]:
    """The full name of each module that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            assert node.module is not None
            for alias in node.names:
                below = PACKAGE.parent.joinpath(*node.module.split("."), alias.name)
                is_module = below.with_suffix(".py").is_file() or below.is_dir()
                yield f"{node.module}.{alias.name}" if is_module else node.module


def begins_with(name: str, packages: Collection[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def room_of(module: str) -> str:
    """Whose rules a module is held to."""
    return module if module in MODULES else module.partition(".")[0]


def allowed(room: str, name: str) -> bool:
    """A module of `room` may import `name`."""
    rules = MODULES[room]
    package, _, rest = name.partition(".")
    if package == "component_http":
        return begins_with(rest, (room, *rules.own))
    if package in sys.stdlib_module_names:
        return package in PURE or not rules.pure
    return begins_with(name, ["attrs", *rules.others])


class LayerTests(SynchronousTestCase):
    """Arrows point one way: assembly, then edges and flow, then seams, then values."""

    def test_every_room_has_its_place(self) -> None:
        """
        A module that nobody gave a place in the layers is noticed.
        """
        rooms = {name.partition(".")[0] for name, _ in modules()}
        self.assertEqual(set(), rooms - MODULES.keys() - set(ASSEMBLY))

    def test_rooms_know_only_whom_they_may(self) -> None:
        """
        No module imports what the table of layers does not allow it.
        """
        forbidden = [
            f"{module} imports {name}"
            for module, path in modules()
            if (room := room_of(module)) not in ASSEMBLY
            for name in imports(path)
            if not allowed(room, name)
        ]
        self.assertEqual([], forbidden)

    def test_table_forbids_something(self) -> None:
        """
        The table would notice a clock in a value, a library at the wrong edge, and an edge that knows another.
        """
        for room, name in [
            ("contract", "time"),
            ("contract", "twisted.internet.reactor"),
            ("contract", "component_http.interfaces"),
            ("delivery", "treq"),
            ("delivery.backlog", "time"),
            ("delivery.backlog", "component_http.delivery.relay"),
            ("delivery.retry", "random"),
            ("interfaces", "component_http.delivery.relay"),
            ("delivery", "component_http.webhook.client"),
            ("xmpp", "treq"),
            ("xmpp", "component_http.delivery.relay"),
            ("webhook", "wokkel.subprotocols"),
            ("webhook", "component_http.xmpp.stream"),
            ("xmpp", "component_http.settings"),
            ("api", "component_http.xmpp.stream"),
            ("api", "component_http.spool.sqlite"),
            ("api", "jinja2"),
            ("api.reading", "twisted.web.http"),
        ]:
            self.assertFalse(allowed(room, name), f"{room} {name}")


PROBE = """
import importlib, json, sys
sockets, guilty, module = [], {}, None
sys.addaudithook(lambda event, _: event == "socket.__new__" and sockets.append(module))
for module in sys.argv[1:]:
    importlib.import_module(module)
    if "twisted.internet.reactor" in sys.modules:
        guilty[module] = "installed a reactor"
        del sys.modules["twisted.internet.reactor"]
guilty.update(dict.fromkeys(sockets, "opened a socket"))
print(json.dumps(guilty))
"""


def guilty_imports(*names: str) -> dict[str, str]:
    """Import modules one after the other in a fresh interpreter, and say which of them did what."""
    probe = subprocess.run(
        [sys.executable, "-c", PROBE, *names],
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    if probe.returncode:
        raise AssertionError(probe.stderr)
    guilty: dict[str, str] = json.loads(probe.stdout)
    return guilty


class ImportTests(SynchronousTestCase):
    """An application that imports the package keeps the choice of its reactor."""

    def test_importing_does_nothing(self) -> None:
        """
        Importing the package and each of its modules installs no reactor and opens no socket.
        """
        names = [f"component_http.{name}".rstrip(".") for name, _ in modules()]
        self.assertEqual({}, guilty_imports(*names))

    def test_probe_notices(self) -> None:
        """
        A module that does install a reactor, such as wokkel's own component, is noticed.
        """
        guilty = guilty_imports("component_http.compat", "wokkel.component")
        self.assertEqual("wokkel.component", ", ".join(guilty))

    def test_what_is_not_needed_is_not_loaded(self) -> None:
        """
        The command that runs a gateway loads SQLite only for a spool on disk, the API only where it is served, and no
        other command.
        """
        probe = subprocess.run(
            [sys.executable, "-c", "import sys, component_http.cli, component_http.gateway; print(*sys.modules)"],
            cwd=PACKAGE.parent,
            capture_output=True,
            text=True,
            check=True,
        )
        loaded = set(probe.stdout.split())
        unneeded = {"sqlite3", "component_http.api", "component_http.commands", "component_http.playground"}
        self.assertEqual(set(), loaded & unneeded)

    def test_public_names(self) -> None:
        """
        The three names for applications come from the package itself, and nothing else does.
        """
        for name in component_http.__all__:
            self.assertEqual(name, getattr(getattr(component_http, name), "__name__", name))
        with self.assertRaises(AttributeError):
            component_http.Gatway  # noqa: B018
