"""
Prosody and ejabberd from their Debian packages, each with its own configuration, data and ports, on loopback only.

Started as root both give up nothing of the system's own installation: no file of it is read for settings or written.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from xml.etree.ElementTree import tostring

from tests.integration.counterparts import need, unusable
from tests.integration.probe import Peer, Probe, wait_for_port

__all__ = ["DOMAINS", "ROOMS", "SERVERS", "USERS", "USER_DOMAIN", "Ejabberd", "Prosody", "Server", "free_port"]

USER_DOMAIN = "localhost"
USERS = {"alice": "wonderland", "bob": "builder"}
DOMAINS = {
    "bot.localhost": "bot's <secret> & more",
    "all.localhost": "secret of all",
    "probe.localhost": "secret of the probe",
}
"""The components that may connect, with their secrets."""

ROOMS = "rooms.localhost"
"""The chat rooms; whoever enters one that is not there makes it, and it is open at once."""

STARTING = 120.0
"""Seconds a server may take to listen; ejabberd needs three on an idle machine."""


def free_port() -> int:
    """A TCP port of loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


class Server:
    """
    A real XMPP server: started, asked, restarted on the same ports, stopped.

    Args:
        domains: Components that may connect, with their secrets.
        conflict: What becomes of a second connection for a component; only Prosody has a choice.
        stanza_limit: Bytes of one stanza of a component, beyond which its stream is closed; None for the default.
    """

    name: str

    def __init__(
        self, domains: Mapping[str, str] = DOMAINS, conflict: str = "kick_new", stanza_limit: int | None = None
    ) -> None:
        self.domains = dict(domains)
        self.conflict = conflict
        self.stanza_limit = stanza_limit
        self.component_port = free_port()
        self.client_port = free_port()
        self.endpoint = f"tcp:host=127.0.0.1:port={self.component_port}"
        self.folder = Path(tempfile.mkdtemp(prefix=f"component-http-{self.name}-"))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
            for user, password in USERS.items():
                self.register(user, password)
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, where: TracebackType | None
    ) -> None:
        self.remove()

    def _launch(self) -> subprocess.Popen[bytes]:
        """Write the configuration and start the program, its output going to `output.txt` in the folder."""
        raise NotImplementedError

    def _ask_to_stop(self, process: subprocess.Popen[bytes]) -> None:
        """Ask for a polite end."""
        process.send_signal(signal.SIGTERM)

    def start(self) -> None:
        """Start it and wait until it accepts components and users."""
        self._process = self._launch()
        for port in (self.component_port, self.client_port):
            wait_for_port(port, f"{self.name} on port {port}", STARTING, self.log)

    def stop(self) -> None:
        """Stop it and wait until it and everything it started is gone."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            self._ask_to_stop(process)
            with suppress(subprocess.TimeoutExpired):
                process.wait(20.0)
        _end_group(process)

    def kill(self) -> None:
        """End it and everything it started at once, as by kill -9."""
        process, self._process = self._process, None
        assert process is not None
        _end_group(process)

    def restart(self) -> None:
        """Stop it, then start it on the same ports with the same users."""
        self.stop()
        self.start()

    def remove(self) -> None:
        """Stop it and delete its files."""
        try:
            self.stop()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def log(self) -> str:
        """What it wrote so far."""
        return "\n".join(path.read_text(errors="replace") for path in sorted(self.folder.glob("**/*.log")))

    def component_connections(self) -> int:
        """How many connections to the component port it has logged since it was made."""
        raise NotImplementedError

    def probe(self, domain: str = "probe.localhost") -> Probe:
        """Connect as one of the components."""
        return Probe(self.component_port, domain, self.domains[domain])

    def register(self, user: str, password: str) -> None:
        """Make an account as a client would (XEP-0077)."""
        with Peer(socket.create_connection(("127.0.0.1", self.client_port), STARTING)) as peer:
            peer.send(
                "<?xml version='1.0'?><stream:stream xmlns='jabber:client'"
                f" xmlns:stream='http://etherx.jabber.org/streams' version='1.0' to='{USER_DOMAIN}'>"
            )
            peer.wait_for(lambda element: element.tag.endswith("}features"), "stream features")
            peer.send(
                "<iq type='set' id='reg'><query xmlns='jabber:iq:register'>"
                f"<username>{user}</username><password>{password}</password></query></iq>"
            )
            answer = peer.wait_for(lambda element: element.get("id") == "reg", "the answer to a registration")
            assert answer.get("type") == "result", tostring(answer, "unicode")


class Prosody(Server):
    """
    Prosody.

    Attributes:
        more: Further lines at the end of its settings, before it is started.
    """

    name = "prosody"

    def __init__(
        self, domains: Mapping[str, str] = DOMAINS, conflict: str = "kick_new", stanza_limit: int | None = None
    ) -> None:
        self._program = need("prosody", "prosody")
        self.more = ""
        super().__init__(domains, conflict, stanza_limit)

    def _launch(self) -> subprocess.Popen[bytes]:
        limit = "" if self.stanza_limit is None else f"component_stanza_size_limit = {self.stanza_limit}\n"
        components = "".join(
            f"Component {json.dumps(domain)}\n"
            f"  component_secret = {json.dumps(secret)}\n"
            f'  component_conflict_resolve = "{self.conflict}"\n'
            '  modules_disabled = { "s2s" }\n'
            for domain, secret in self.domains.items()
        )
        configuration = self.folder / "prosody.cfg.lua"
        configuration.write_text(
            f"data_path = {json.dumps(str(self.folder))}\n"
            f"pidfile = {json.dumps(str(self.folder / 'prosody.pid'))}\n"
            f"log = {{ info = {json.dumps(str(self.folder / 'prosody.log'))} }}\n"
            'interfaces = { "127.0.0.1" }\n'
            'component_interfaces = { "127.0.0.1" }\n'
            f"c2s_ports = {{ {self.client_port} }}\n"
            f"component_ports = {{ {self.component_port} }}\n"
            "c2s_direct_tls_ports = {}\nhttp_ports = {}\nhttps_ports = {}\n"
            'modules_enabled = { "roster", "saslauth", "disco", "register", "register_ibr", "ping", "version",'
            ' "offline" }\n'
            'modules_disabled = { "s2s", "tls" }\n'
            'authentication = "internal_hashed"\n'
            "allow_registration = true\n"
            "run_as_root = true\n"  # else mod_posix, which makes SIGTERM a polite end, refuses to
            "c2s_require_encryption = false\nallow_unencrypted_plain_auth = true\n"
            f"{limit}"
            f"VirtualHost {json.dumps(USER_DOMAIN)}\n"
            f'Component {json.dumps(ROOMS)} "muc"\n'
            '  modules_disabled = { "s2s" }\n'
            "  muc_room_locking = false\n" + components + self.more
        )
        as_root = ["--root"] if os.geteuid() == 0 else []
        with (self.folder / "output.log").open("ab") as output:
            return subprocess.Popen(
                [self._program, *as_root, "-F", "--config", str(configuration)],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def component_connections(self) -> int:
        return self.log().count("Incoming Jabber component connection")


class Ejabberd(Server):
    """
    ejabberd, as its own user, its Erlang node unknown to any port mapper.

    Attributes:
        options: More settings, before it is started; `listener` are those of its listener for components.
    """

    name = "ejabberd"

    def __init__(
        self, domains: Mapping[str, str] = DOMAINS, conflict: str = "kick_new", stanza_limit: int | None = None
    ) -> None:
        self._program = need("ejabberdctl", "ejabberd")
        if os.geteuid() != 0 and pwd.getpwuid(os.geteuid()).pw_name != "ejabberd":
            unusable("ejabberd can only be started by root or by the user ejabberd")
        super().__init__(domains, conflict, stanza_limit)
        self._pid_file = self.folder / "ejabberd.pid"
        self._node_port = free_port()
        self.options: dict[str, Any] = {}
        self.listener: dict[str, Any] = {}

    def _launch(self) -> subprocess.Popen[bytes]:
        settings = {
            "hosts": [USER_DOMAIN],
            **self.options,
            "loglevel": "info",
            "auth_method": "internal",
            "registration_timeout": "infinity",
            "certfiles": [],
            "listen": [
                {"port": self.client_port, "ip": "127.0.0.1", "module": "ejabberd_c2s", "access": "all"},
                {
                    "port": self.component_port,
                    "ip": "127.0.0.1",
                    "module": "ejabberd_service",
                    "access": "all",
                    "global_routes": False,  # else each component gets a share of what is sent to the others
                    "hosts": {domain: {"password": secret} for domain, secret in self.domains.items()},
                    **({} if self.stanza_limit is None else {"max_stanza_size": self.stanza_limit}),
                    **self.listener,
                },
            ],
            "modules": {
                "mod_roster": {},
                "mod_disco": {},
                "mod_ping": {},
                "mod_register": {},
                "mod_muc": {"hosts": [ROOMS]},
                "mod_offline": {},
                "mod_version": {},
            },
        }
        configuration = self.folder / "ejabberd.yml"
        configuration.write_text(json.dumps(settings, indent=1))
        (self.folder / "inetrc").write_text('{lookup,["file","native"]}.\n{host,{127,0,0,1}, ["localhost"]}.\n')
        # A port for the node itself, so that no epmd daemon is asked or left behind.
        control = self.folder / "control.cfg"
        control.write_text(
            f'ERL_DIST_PORT={self._node_port}\nERL_OPTIONS="-kernel inet_dist_use_interface {{127,0,0,1}}"\n'
        )
        for name in ("spool", "logs"):
            (self.folder / name).mkdir(exist_ok=True)
        self._pid_file.unlink(missing_ok=True)
        identity: dict[str, Any] = {}
        if os.geteuid() == 0:
            owner = pwd.getpwnam("ejabberd")
            for path in (self.folder, *self.folder.glob("**/*")):
                os.chown(path, owner.pw_uid, owner.pw_gid)
            identity = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
        with (self.folder / "output.log").open("ab") as output:
            return subprocess.Popen(
                [
                    self._program,
                    *("--node", "component-http@localhost"),
                    *("--config-dir", str(self.folder)),
                    *("--ctl-config", str(control)),
                    *("--config", str(configuration)),
                    *("--spool", str(self.folder / "spool")),
                    *("--logs", str(self.folder / "logs")),
                    "foreground",
                ],
                cwd=self.folder,
                env={
                    "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
                    "HOME": str(self.folder),
                    "LANG": "C.UTF-8",
                    "EJABBERD_PID_PATH": str(self._pid_file),
                },
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **identity,
            )

    def component_connections(self) -> int:
        log = (self.folder / "logs" / "ejabberd.log").read_text(errors="replace")
        return len(re.findall(rf"Accepted connection .* -> 127\.0\.0\.1:{self.component_port}\b", log))

    def _ask_to_stop(self, process: subprocess.Popen[bytes]) -> None:
        # The process we started is the shell script; the Erlang machine under it wrote down its own id.
        try:
            os.kill(int(self._pid_file.read_text()), signal.SIGTERM)
        except (OSError, ValueError):
            super()._ask_to_stop(process)


SERVERS: dict[str, type[Server]] = {"prosody": Prosody, "ejabberd": Ejabberd}


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End what is left of a process's own session."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(20.0)
