"""The command `component-http watch`: show what happens to conversations while it happens."""

from __future__ import annotations

import argparse
import json
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from component_http.commands.arguments import add_json, address
from component_http.commands.printing import NOTHING, complain, note, say
from component_http.contract.endpoint import Endpoint
from component_http.errors import SettingsError
from component_http.operations.log_lines import escaped
from component_http.operations.reasons import Reason, attempt_in_words
from component_http.operations.terminal import size
from component_http.settings import OperationsSettings, operations_from_toml
from component_http.tap import exit_on_settings_error

CONNECT_TIMEOUT = 10.0
"""Seconds for the connection and for the beginning of the answer."""

SILENCE = 100.0
"""Seconds without a line, after which the gateway is taken for dead: it writes at least one in half a minute."""


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "watch",
        help="show what happens to conversations, while it happens",
        description="Shows each step of the stanzas that match, as a line, until it is interrupted: how they arrive,"
        " why they wait, each attempt with its time and its status, the end, and whether the XMPP server has the"
        " replies. It asks the gateway that runs, at its port for operations. The log stays as it is.",
        allow_abbrev=False,
    )
    parser.add_argument("config", metavar="FILE", help="the gateway's settings file; only its [operations] counts")
    told = "the sender of what comes in: a bare address with all its resources, a full one, a room, or a domain"
    parser.add_argument("--from", dest="sender", metavar="ADDRESS", type=address, help=told)
    told = "its recipient, likewise; with --from it names a conversation"
    parser.add_argument("--to", dest="recipient", metavar="ADDRESS", type=address, help=told)
    parser.add_argument(
        "--raw",
        action="store_true",
        help="show the stanzas, the requests and the responses, too: headers and bodies, but no secrets",
    )
    told = "show names in place of addresses, as log.hash_addresses does"
    parser.add_argument("--hash", action="store_true", help=told)
    add_json(parser)
    parser.set_defaults(main=main)


def main(chosen: argparse.Namespace) -> int:
    """Show lines until the gateway or the user ends it; returns the exit status."""
    try:
        with exit_on_settings_error():
            operations = operations_from_toml(chosen.config)
            if operations.listen is None:
                raise SettingsError(
                    f"{chosen.config}: operations.listen is not set, so there is no port to ask: add [operations] with"
                    ' listen = "unix:operations.sock:mode=600", and restart the gateway'
                )
            connect = _way_to(operations, chosen.config)
        return _watch(connect, operations, chosen)
    except KeyboardInterrupt:
        return 0


def _way_to(operations: OperationsSettings, config: str) -> Callable[[], socket.socket]:
    """Return the function that connects to the gateway. Raises `SettingsError` where there can be none."""
    endpoint = Endpoint.parse(operations.listen or "")
    if endpoint.kind == "unix":
        return lambda: _to_unix(endpoint.socket_path)
    interface, port = endpoint.interface_and_port
    if endpoint.kind not in ("tcp", "tcp6", "ssl") or not port.isdecimal() or operations.client_ca_file is not None:
        told = "asks for the certificates of clients" if operations.client_ca_file else "does not say where it listens"
        raise SettingsError(
            f"{config}: component-http watch has no way to this gateway, for operations.listen {told}: ask"
            " for /watch by curl --no-buffer"
        )
    if interface in ("", "0.0.0.0", "::"):
        interface = "::1" if endpoint.kind == "tcp6" or interface == "::" else "127.0.0.1"
    if endpoint.kind != "ssl":
        return lambda: socket.create_connection((interface, int(port)), CONNECT_TIMEOUT)
    files = [*endpoint.files()]
    certificate = endpoint.named.get("certKey") or files[-1]
    return lambda: _over_tls(interface, int(port), certificate)


def _to_unix(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(CONNECT_TIMEOUT)
    connection.connect(path)
    return connection


def _over_tls(host: str, port: int, certificate: str) -> socket.socket:
    """Connect to whoever has the very certificate of the settings, whatever name is in it."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    connection = context.wrap_socket(socket.create_connection((host, port), CONNECT_TIMEOUT))
    if _first_certificate(certificate) != connection.getpeercert(True):
        connection.close()
        raise ssl.SSLError("another certificate is shown there than that of operations.listen")
    return connection


def _first_certificate(path: str) -> bytes:
    text = Path(path).read_text("ascii", "replace")
    begin = max(0, text.find(ssl.PEM_HEADER))
    end = text.find(ssl.PEM_FOOTER, begin)
    return b"" if end < 0 else ssl.PEM_cert_to_DER_cert(text[begin : end + len(ssl.PEM_FOOTER)])


class _Lost(Exception):
    """The gateway cannot be watched any more; the message is a sentence."""


def _watch(connect: Callable[[], socket.socket], operations: OperationsSettings, chosen: argparse.Namespace) -> int:
    try:
        to_gateway = connect()
    except OSError as error:
        reason = error.strerror or error
        complain(f"no gateway answers at {operations.listen}, so none runs with these settings: {reason}")
        return NOTHING
    try:
        with to_gateway:
            return _show(_lines(to_gateway, operations.token, chosen), chosen)
    except _Lost as lost:
        complain(str(lost))
        return NOTHING


def _lines(to_gateway: socket.socket, token: str | None, chosen: argparse.Namespace) -> Iterator[Mapping[str, Any]]:
    flags = {name: "1" if getattr(chosen, name) else None for name in ("raw", "hash")}
    wanted = {"from": chosen.sender, "to": chosen.recipient, **flags}
    query = urlencode({name: str(value) for name, value in wanted.items() if value is not None})
    connection = HTTPConnection("component-http")
    connection.sock = to_gateway
    try:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        connection.request("GET", f"/watch?{query}", headers=headers)
        response = connection.getresponse()
        if response.status != 200:
            said = response.read(1000).decode("utf-8", "replace")
            raise _Lost(f"the gateway answers with status {response.status}: {said}")
        to_gateway.settimeout(SILENCE)
        while line := response.readline():
            if line.strip():
                yield json.loads(line)
    except TimeoutError:
        raise _Lost("the gateway has not answered for a while: it hangs, or it is not at that address") from None
    except (OSError, HTTPException, ValueError) as error:
        raise _Lost(f"the connection to the gateway was lost: {error}") from None
    raise _Lost("the gateway has closed the connection, for it stops")


def _show(lines: Iterator[Mapping[str, Any]], chosen: argparse.Namespace) -> int:
    for line in lines:
        if chosen.json:
            say(json.dumps(line) + "\n")
        elif line["step"] == "watching":
            note("watching: Ctrl-C ends it")
        else:
            say("".join(f"{escaped(each)}\n" for each in in_words(line)))
    return NOTHING


def in_words(line: Mapping[str, Any]) -> Iterator[str]:
    """Write a step in words: a line, and for --raw one more for each header, body and stanza."""
    about = line.get("delivery") or (f"stanza {line['number']}" if line.get("number") else "")
    yield " ".join(filter(None, (line["time"][11:23], about, _WORDS.get(line["step"], _unknown)(line))))
    for name, value in line.get("headers", ()):
        yield f"    {name}: {value}"
    if line.get("body"):
        stanza = _stanza_of(line["body"]) if line["step"] == "posted" else None
        if stanza is not None:
            yield f"    stanza: {stanza}"
        yield f"    body: {line['body']}"
    for each in (line, *line.get("replies", ())):
        if each.get("xml"):
            yield f"    xml: {each['xml']}"


def _stanza_of(body: str) -> str | None:
    """Find the XML of the stanza in a request's body; None where that is too long to be whole."""
    try:
        stanza = json.loads(body)["stanza"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return stanza if isinstance(stanza, str) else None


def _kind(line: Mapping[str, Any]) -> str:
    type_, id_ = line.get("type"), line.get("id")
    return f"{line['kind']}{f' of type {type_}' if type_ else ''}{f' with id {id_}' if id_ else ''}"


def _arrived(line: Mapping[str, Any]) -> str:
    way = f", by the route {line['route']}" if line.get("route") else ""
    step = "arrived" if line["step"] == "arrived" else "restored from the spool"
    return f"{step}: {_kind(line)} from {line['from']} to {line['to']}, {size(line['bytes'])}{way}"


def _waits(line: Mapping[str, Any]) -> str:
    seconds = line.get("next_try_seconds")
    reason = Reason(line["held_by"], line.get("behind"), seconds, line.get("last_failure"))
    return f"waits: {reason.in_a_list(0.0, None)}"


def _attempted(line: Mapping[str, Any]) -> str:
    times = ("milliseconds", "connecting_milliseconds", "first_byte_milliseconds")
    seconds = [None if line[name] is None else line[name] / 1000 for name in times]
    facts = (line["attempt"], line["status"], line["failure"], *seconds, line["follows"], line["again_seconds"])
    return attempt_in_words(*facts)


def _ended(line: Mapping[str, Any]) -> str:
    note_ = f": {line['note']}" if line["note"] else ""
    sent = [f"{_kind(each)} to {each['to']}, {size(each['bytes'])}" for each in line["replies"]]
    return f"ended, {line['outcome']}{note_}{''.join(f'; sends {each}' for each in sent)}"


def _pushed(line: Mapping[str, Any]) -> str:
    return f"pushed: {_kind(line)} from {line['from']} to {line['to']}, {size(line['bytes'])}"


def _settled(line: Mapping[str, Any]) -> str:
    why = f": {line['why']}" if line["why"] else ""
    if line["settlement"] == "confirmed":
        return "the XMPP server has a stanza of it" if line["delivery"] else "the XMPP server has it"
    return f"a stanza of it did not get to the XMPP server: {line['settlement']}{why}"


def _unknown(line: Mapping[str, Any]) -> str:
    """Write a step of a newer gateway."""
    return json.dumps(line)


_WORDS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "arrived": _arrived,
    "restored": _arrived,
    "waits": _waits,
    "posted": lambda line: f"attempt {line['attempt']}: POST",
    "attempted": _attempted,
    "ended": _ended,
    "pushed": _pushed,
    "settled": _settled,
    "missed": lambda line: f"{line['steps']} steps were not shown, because this program did not read them in time",
}
"""The steps, in the order of a life."""
