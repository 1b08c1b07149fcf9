"""The command `component-http init`: a settings file and a secret for a new component, and the lines for its server."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from secrets import token_urlsafe
from typing import Any

from component_http.commands.printing import NOTHING, complain
from component_http.contract.endpoint import Endpoint
from component_http.contract.url import is_ipv6, is_loopback
from component_http.settings import Settings
from component_http.settings.component import SECRET_VARIABLE
from component_http.tap import exit_on_settings_error

SETTINGS, SECRET = "component-http.toml", "component-secret"
"""The files that are written."""

_SETTINGS = """\
# Settings of component-http for {domain}.
# The command `component-http example settings` writes a file with all that can be set.

[component]
domain = {values[0]}
server = {values[1]}
component_post_url = {values[2]}
secret_file = {values[3]}
"""

_LINES = """\
Add these lines to the settings of the XMPP server, and restart it.

Prosody, at the end of prosody.cfg.lua:

{prosody}Component "{domain}"
    component_secret = "{secret}"

ejabberd, below listen: in ejabberd.yml:

  -
    port: {port}
    ip: "{ip}"
    module: ejabberd_service
    global_routes: false
    hosts:
      {domain}:
        password: "{secret}"

Then look whether all is well, and start the gateway:

component-http doctor {file}
component-http run {file}
"""


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "init",
        help="write a settings file and a secret for a new component, and print the lines for its XMPP server",
        description=f"Writes {SETTINGS} and {SECRET}, with a secret that nobody else knows, and prints the lines for"
        " Prosody and for ejabberd. It replaces no file.",
        allow_abbrev=False,
    )
    parser.add_argument("domain", metavar="DOMAIN", help="the component's domain, such as bot.example.org")
    parser.add_argument(
        "--post-url",
        metavar="URL",
        default="http://127.0.0.1:8080/",
        help="the webhook (default: http://127.0.0.1:8080/)",
    )
    parser.add_argument(
        "--server",
        metavar="ENDPOINT",
        default="tcp:127.0.0.1:5347",
        help="where the XMPP server accepts components (default: tcp:127.0.0.1:5347)",
    )
    parser.add_argument("--into", metavar="DIR", default=".", help="the folder to write to (default: the current one)")
    parser.set_defaults(main=main)


def main(chosen: argparse.Namespace) -> int:
    """Write the files, and print the lines; returns the exit status."""
    secret, folder = token_urlsafe(24), Path(chosen.into)
    flags = {"domain": chosen.domain, "server": chosen.server, "post-url": chosen.post_url}
    with exit_on_settings_error():
        component = Settings.from_flags(flags, env={SECRET_VARIABLE: secret}).component
    file = folder / SETTINGS
    values = (component.domain, chosen.server, chosen.post_url, SECRET)
    content = _SETTINGS.format(
        domain=component.domain, values=[json.dumps(each, ensure_ascii=False) for each in values]
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write([(folder / SECRET, f"{secret}\n", 0o600), (file, content, 0o644)])
    except FileExistsError as error:
        complain(f"{error.filename} is there already, and init replaces nothing: remove it, or name another folder")
        return NOTHING
    except OSError as error:
        complain(f"{error.filename} cannot be written: {error.strerror}")
        return NOTHING
    host, port = _place(component.server)
    elsewhere = not is_loopback(host)
    prosody = "" if port == "5347" else f"component_ports = {{ {port} }}  -- above the first VirtualHost\n"
    if elsewhere:
        prosody += 'component_interfaces = { "*" }  -- above the first VirtualHost\n'
    print(f"wrote {file}, and {folder / SECRET}, which only you can read\n")
    lines = _LINES.format(
        domain=component.domain,
        secret=secret,
        port=port,
        ip="0.0.0.0" if elsewhere else host if is_ipv6(host) else "127.0.0.1",
        prosody=f"{prosody}\n" if prosody else "",
        file=file,
    )
    print(lines, end="")
    return 0


def _place(server: str) -> tuple[str, str]:
    """Find the host and the port of a server's endpoint; those that are usual for one that has none."""
    endpoint = Endpoint.parse(server)
    return endpoint.host_and_port if endpoint.kind in ("tcp", "tls") else ("127.0.0.1", "5347")


def _write(files: Sequence[tuple[Path, str, int]]) -> None:
    """Write files that are not there yet, each with its mode: all of them, or none."""
    written: list[Path] = []
    try:
        for path, content, mode in files:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            written.append(path)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(content)
    except OSError:
        for path in written:
            path.unlink()
        raise
