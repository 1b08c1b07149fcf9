"""Types of Twisted's endpoints: the one that a gateway connects to, and the one that its API listens on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IHostnameResolver, IReactorPluggableNameResolver
from zope.interface import implementer

from component_http.certificates import FilesUnusable, client_endpoint
from component_http.contract.endpoint import Endpoint, escaped
from component_http.contract.url import is_ipv6, without_secrets
from component_http.settings.values.plain import path_in
from component_http.settings.values.value_type import Unfit, ValueType, shown, unreadable

_PATH = r"\.{0,2}/[^/@\s][^@\s]*"

_PORT_RANGE = "a port is a number from 1 to 65535"


@implementer(IReactorPluggableNameResolver)
class _NoReactor:
    """Stands in for the reactor that Twisted's endpoint parsers only keep for later."""

    nameResolver = None

    def installNameResolver(self, resolver: IHostnameResolver) -> IHostnameResolver:
        """Is never called: nothing is resolved while settings are read."""
        raise NotImplementedError


def _in_folder(text: str, folder: Path) -> str:
    """Make the paths in an endpoint start at a folder; an endpoint without relative paths stays as it is written."""
    endpoint = Endpoint.parse(text)
    moved = endpoint.with_paths(lambda path: path_in(path, folder))
    return text if moved == endpoint else str(moved)


def _is_port(text: str) -> bool:
    return text.isdecimal() and 0 < int(text) < 65536


# The XMPP server.


def _accept_server(value: Any) -> str:
    if not isinstance(value, str):
        raise Unfit
    # Nobody logs in to a component port, but somebody may have written a URL with a password here.
    found = without_secrets(value) if "@" in value else value
    unfit = _server_problem(value)
    if unfit is not None:
        unfit.found = found
        raise unfit
    try:
        client_endpoint(_NoReactor(), value)
    except FilesUnusable as error:
        raise Unfit(found=found, remedy=str(error)) from None
    except Exception as error:  # each kind of endpoint has a parser of its own, and they raise as they like
        unknown = str(error).startswith("Unknown endpoint type")
        said = None if unknown else f"Twisted says {shown(str(error))}"
        meant = _server_meant(value)
        raise Unfit(found=found, remedy=None if meant else said, meant=meant) from None
    return value


def _server_problem(text: str) -> Unfit | None:
    """Find the mistakes in an endpoint with a host and a port for which Twisted has no helpful words."""
    endpoint = Endpoint.parse(text)
    kind, positional = endpoint.kind, endpoint.positional
    if kind == "ssl":
        remedy = "an ssl: endpoint accepts any certificate, so take a tls: endpoint"
        return Unfit(remedy=remedy, meant=_as_tls(endpoint))
    if kind not in ("tcp", "tls"):
        return None
    if positional and positional[0].startswith("//"):
        meant = _server_meant(text)
        return Unfit(remedy=None if meant else "remove the //", meant=meant)
    if len(positional) > 2:
        meant = _server_meant(text.partition(":")[2], kind)
        remedy = "each colon in the host needs a backslash in front, which TOML writes \\\\:"
        return Unfit(remedy=None if meant else remedy, meant=meant)
    host, port = endpoint.host_and_port
    if not port and not host.isdecimal():
        return Unfit(remedy="it needs a host and a port", meant=host and f"{kind}:{escaped(host)}:5347")
    if not host or not port:
        return Unfit(remedy="it needs a host and a port", meant=f"{kind}:127.0.0.1:{port or host}")
    return None if _is_port(port) else Unfit(remedy=_PORT_RANGE)


_TLS_NAMES = {"certKey": "certificate", "caCertsDir": "trustRoots"}
"""The options of an `ssl:` endpoint that a `tls:` endpoint calls by another name."""


def _as_tls(endpoint: Endpoint) -> str | None:
    """Write the `tls:` endpoint that does what an `ssl:` endpoint was meant to do."""
    host, port = endpoint.host_and_port
    if not host or not port.isdecimal():
        return None
    host = host.lstrip("/")
    names = {"host", "port", "hostname"}
    options = {_TLS_NAMES.get(name, name): value for name, value in endpoint.named.items() if name not in names}
    name = endpoint.named.get("hostname", host)
    if name != host:
        options["endpoint"] = f"tcp:{escaped(host)}:{port}"
    return str(Endpoint("tls", (name, port), options))


def _server_meant(text: str, kind: str = "tcp") -> str | None:
    """Guess the endpoint that was meant, of this kind if the text names none."""
    if re.match("(tls|ssl|https)://", text):
        kind = "tls"
    if text.isdecimal():
        return f"tcp:127.0.0.1:{text}"
    if re.fullmatch(_PATH, text):
        return f"unix:{escaped(text)}"
    text = re.sub(r"^[a-z]+://", "", text).removesuffix("/")
    whole = text.strip("[]")
    ipv6, _, port = text.rpartition(":")
    if is_ipv6(ipv6.strip("[]")) and not text.endswith("]"):
        host = ipv6.strip("[]")
    elif is_ipv6(whole):
        host, port = whole, "5347"
    elif meant := re.fullmatch(r"([\w.-]+)(?::(\d+))?", text):
        host, port = meant[1], meant[2] or "5347"
    else:
        return None
    return f"{kind}:{escaped(host)}:{port}"


SERVER = ValueType(
    'a Twisted client endpoint such as "tcp:127.0.0.1:5347", "unix:PATH" or "tls:HOST:PORT"',
    _accept_server,
    in_folder=_in_folder,
)


# The API.


def _accept_listen(value: Any) -> str:
    if not isinstance(value, str):
        raise Unfit
    # The same word as for the server; Twisted's own tls: endpoint names a folder in the place of the port.
    text: str = re.sub(r"^tls(?=:[0-9]+:)", "ssl", value, flags=re.IGNORECASE)
    unfit = _listen_problem(text)
    if unfit is not None:
        raise unfit
    try:
        serverFromString(_NoReactor(), text)
    except OSError as error:  # a TLS endpoint reads its key and its certificate
        raise Unfit(remedy=unreadable(shown(error.filename), error)) from None
    except LookupError:  # a systemd: endpoint looks for its socket among those that this process has got
        raise Unfit(remedy="systemd has handed over no such socket: start the gateway by its .socket unit") from None
    except Exception as error:  # each kind of endpoint has a parser of its own, and they raise as they like
        raise Unfit(remedy=f"Twisted says {shown(str(error))}") from None
    return text


_SSL_NEEDS = "it needs a port, a key and a certificate: ssl:8443:privateKey=FILE:certKey=FILE:interface=127.0.0.1"

_SYSTEMD_NEEDS = "it needs the family and the name or the index of the socket: systemd:domain=INET:name=api.socket"


def _listen_problem(text: str) -> Unfit | None:
    """Find the mistakes with which Twisted would open another port, or for which it has no helpful words."""
    endpoint = Endpoint.parse(text)
    kind, named, positional = endpoint.kind, endpoint.named, endpoint.positional
    _, port = endpoint.interface_and_port
    if kind in ("tls", "https"):
        # A tls: endpoint of Twisted names a folder of certificates first, and without a port takes 443 everywhere.
        return Unfit(remedy=f"a server speaks TLS by an ssl: endpoint, and {_SSL_NEEDS}")
    if kind not in ("tcp", "tcp6", "ssl", "unix", "systemd") or ":" not in text:
        return Unfit(meant=_listen_meant(text))
    if not text.startswith(kind):
        lowered = kind + text[len(kind) :]
        return _listen_problem(lowered) or Unfit(meant=lowered)
    if kind == "unix":
        return None if endpoint.socket_path else Unfit(remedy="it needs a path", meant="unix:/run/api.sock")
    if kind == "systemd":
        is_whole = (named.get("domain") or any(positional)) and ("index" in named) != ("name" in named)
        return None if is_whole else Unfit(remedy=_SYSTEMD_NEEDS)
    if kind == "ssl" and not (port and (named.get("privateKey") or positional[1:])):
        return Unfit(remedy=_SSL_NEEDS)
    if not port:
        interface = "127.0.0.1" if kind == "tcp" else "::1"
        return Unfit(remedy="it needs a port", meant=f"{kind}:8347:interface={escaped(interface)}")
    if kind == "tcp" and positional[1:] and not port.isdecimal():
        return Unfit(meant=_listen_meant(text))
    return None if _is_port(port) else Unfit(remedy=_PORT_RANGE)


def _listen_meant(text: str) -> str | None:
    """Guess the endpoint that was meant."""
    if re.fullmatch(_PATH, text):
        return f"unix:{escaped(text)}"
    meant = re.fullmatch(r"(?:tcp:|http:(?://)?)?(?:([\w.-]+|\[?[0-9A-Fa-f:.]+\]?):)?(\d+)/?", text)
    if meant is None:
        return None
    interface = escaped((meant[1] or "127.0.0.1").strip("[]"))
    return f"tcp:{meant[2]}:interface={interface}"


LISTEN = ValueType(
    'a Twisted server endpoint such as "tcp:8347:interface=127.0.0.1", "unix:PATH" or'
    ' "ssl:8348:privateKey=FILE:certKey=FILE"',
    _accept_listen,
    in_folder=_in_folder,
)
