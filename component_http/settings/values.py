"""
What one value of the settings may be, and the sentence that says so when it is something else.

A `Kind` knows nothing of names, tables or files; whoever asks it gives the label for the sentence.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import shlex
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any
from urllib.parse import SplitResult, urlsplit

from attrs import NOTHING, frozen
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IHostnameResolver, IReactorPluggableNameResolver
from zope.interface import implementer

from component_http.contract.address import Address, NotAnAddress
from component_http.contract.conditions import CONDITIONS, ERROR_TYPES, StanzaError
from component_http.contract.endpoint import Endpoint
from component_http.contract.request import RESERVED_HEADERS
from component_http.contract.stanza import STANZA_KINDS
from component_http.contract.url import WebhookUrl, is_ipv6
from component_http.errors import SettingsError
from component_http.tls import client_endpoint

__all__ = [
    "ANSWERS",
    "BASE_URL",
    "CREDENTIAL",
    "CREDENTIALS_VARIABLE",
    "DOMAIN",
    "HEADERS",
    "LISTEN",
    "LOOP_GUARD",
    "NAME",
    "PATTERNS",
    "RATE",
    "RECIPIENTS",
    "SECRET",
    "SENDER",
    "SERVER",
    "STANZAS",
    "SWITCH",
    "TOKEN",
    "URL",
    "ValueType",
    "accepted",
    "accepted_from_flag",
    "choice",
    "displayed_url",
    "file_path",
    "hint",
    "listening_at",
    "nearest",
    "number",
    "secret_path",
    "shown",
    "whole",
]

_MAX_SHOWN = 60
"""Characters of a wrong value that a sentence shows."""


class _Unfit(Exception):
    """
    A value is not allowed.

    Args:
        allowed: Completes "must ..."; None for what the kind always says.
        remedy: What to do about it, where that can be guessed.
        meant: The value that was most likely meant. The sentence offers it where it would be accepted.
        problem: Stands in place of "is ..., but must ...".
        part: The name of what is wrong, where the value is a table.
        found: What to show in place of the value.
    """

    def __init__(
        self,
        allowed: str | None = None,
        *,
        remedy: str | None = None,
        meant: object = None,
        problem: str | None = None,
        part: str | None = None,
        found: object = NOTHING,
    ) -> None:
        super().__init__(allowed)
        self.allowed = allowed
        self.remedy = remedy
        self.meant = meant
        self.problem = problem
        self.part = part
        self.found = found


def _unchanged(text: str) -> object:
    return text


@frozen
class ValueType:
    """
    A kind of value.

    Attributes:
        allowed: What values there are; completes "must be ...".
        accept: Gives the value as the settings hold it, or raises; it accepts its own results. For `accepted`.
        from_flag: Makes a value for `accept` from a flag's text; None where a flag cannot give it.
        credential: `credential:NAME` stands for the path of a file that systemd passes.
    """

    allowed: str
    accept: Callable[[Any], object]
    from_flag: Callable[[str], object] | None = _unchanged
    credential: bool = False


def accepted(label: str, value: object, kind: ValueType, env: Mapping[str, str] = os.environ) -> Any:
    """
    The value as the settings hold it.

    Args:
        label: Where the value stands, for the sentence.
        value: What was given.
        kind: What is allowed.
        env: Where the folder of credentials is looked up.

    Raises:
        SettingsError: It is not allowed.
    """
    try:
        return kind.accept(_resolved(value, kind, env))
    except _Unfit as unfit:
        raise SettingsError(_sentence(label, value, kind, unfit, _as_toml)) from None


def accepted_from_flag(label: str, text: str, kind: ValueType, env: Mapping[str, str] = os.environ) -> Any:
    """The same for a flag's text, which the sentence shows as it was typed."""
    assert kind.from_flag is not None
    try:
        return kind.accept(_resolved(kind.from_flag(text), kind, env))
    except _Unfit as unfit:
        raise SettingsError(_sentence(label, text, kind, unfit, _as_typed)) from None


def _resolved(value: object, kind: ValueType, env: Mapping[str, str]) -> object:
    if kind.credential and isinstance(value, str) and value.startswith(CREDENTIAL_MARK):
        return _credential_path(value, env)
    return value


def _sentence(label: str, value: object, kind: ValueType, unfit: _Unfit, written: Callable[[object], str]) -> str:
    where = label if unfit.part is None else f"{label}.{unfit.part}"
    found = shown(value if unfit.found is NOTHING else unfit.found)
    problem = unfit.problem or f"is {found}, but must {unfit.allowed or f'be {kind.allowed}'}"
    remedies = [unfit.remedy] if unfit.remedy else []
    if unfit.meant is not None and _is_accepted(unfit.meant, kind) and written(unfit.meant).isprintable():
        remedies.append(f"write {written(unfit.meant)}")
    return "; ".join([f"{where} {problem}", *remedies])


def _is_accepted(value: object, kind: ValueType) -> bool:
    try:
        kind.accept(value)
    except _Unfit:
        return False
    return True


def _as_toml(value: object) -> str:
    """A text, or a list of texts, as a settings file has to have it; an application's Python reads the same."""
    return json.dumps(value, ensure_ascii=False)


def _as_typed(value: object) -> str:
    """The same as it is typed behind a flag in a shell."""
    text = ",".join(value) if isinstance(value, list) else str(value)
    return shlex.quote(text) if re.search(r"""["$`\\!']""", text) else f'"{text}"'


def shown(value: object) -> str:
    """A value as TOML would write it, short, on one line, without control characters or what may be secret in a URL."""
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, str) and ("://" in value or ("@" in value and "//" in value)):
        value = _without_secrets(value)
    if isinstance(value, (set, frozenset)):
        value = sorted(value, key=str)
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except (ValueError, RecursionError):
        return "something that cannot be shown"
    text = "".join(char if char.isprintable() else "?" for char in text)
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 3]}..."


def nearest(name: object, candidates: Collection[str]) -> str | None:
    """The candidate that somebody who wrote `name` most likely meant, or None."""
    by_lower = {candidate.lower(): candidate for candidate in candidates}
    close = difflib.get_close_matches(str(name)[:200].lower(), by_lower, n=1)
    return by_lower[close[0]] if close else None


def hint(near: str | None) -> str:
    """The end of a sentence that offers a name, or nothing."""
    return f"; did you mean {near}?" if near else ""


def _did_you_mean(name: object, candidates: Collection[str]) -> str | None:
    near = nearest(name, candidates) if len(candidates) > 1 else None
    return f'did you mean "{near}"?' if near else None


def _one_of(names: Collection[str]) -> str:
    *first, last = [f'"{name}"' for name in names]
    return f"{', '.join(first)} or {last}" if first else last


# Numbers, words, paths.


def number(low: float, high: float, unit: str) -> ValueType:
    """A number with both ends allowed; the settings hold a float."""

    def accept(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise _Unfit
        return float(value)

    def from_flag(text: str) -> object:
        try:
            return float(text)
        except ValueError:
            return text

    return ValueType(f"a number from {low:g} to {high:g} ({unit})", accept, from_flag)


def whole(low: int, high: int, unit: str) -> ValueType:
    """A whole number with both ends allowed."""

    def accept(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise _Unfit
        return value

    def from_flag(text: str) -> object:
        try:
            return int(text)
        except ValueError:
            return text

    return ValueType(f"a whole number from {low} to {high} ({unit})", accept, from_flag)


def _accept_switch(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _Unfit
    return value


SWITCH = ValueType("true or false", _accept_switch, lambda text: {"true": True, "false": False}.get(text.lower(), text))


def choice(*names: str) -> ValueType:
    """One of a few words."""

    def accept(value: Any) -> str:
        if not isinstance(value, str) or value not in names:
            raise _Unfit(remedy=_did_you_mean(value, names))
        return value

    return ValueType(_one_of(names), accept)


def file_path(what: str) -> ValueType:
    """The path of a file; whether it is there is not asked here."""

    def accept(value: Any) -> str:
        text = os.fspath(value) if isinstance(value, (str, os.PathLike)) else None
        if not isinstance(text, str) or not text or "\0" in text:
            raise _Unfit
        return text

    return ValueType(f"the path of {what}", accept)


CREDENTIAL_MARK = "credential:"
"""What stands before the name of a credential of systemd, where else there is the path of a secret's file."""

CREDENTIALS_VARIABLE = "CREDENTIALS_DIRECTORY"
"""The environment variable by which systemd names the folder with a service's credentials."""


def secret_path(what: str) -> ValueType:
    """The path of a file with a secret, or `credential:NAME`."""
    path = file_path(what)
    return ValueType(
        f'{path.allowed}, or "{CREDENTIAL_MARK}NAME" for one that systemd passes', path.accept, credential=True
    )


def _credential_path(text: str, env: Mapping[str, str]) -> str:
    """The path of the file that holds the credential of `credential:NAME`."""
    name = text.removeprefix(CREDENTIAL_MARK)
    if name in ("", ".", "..") or "/" in name:
        raise _Unfit(f"have the name of a credential behind {CREDENTIAL_MARK}, as in LoadCredential=NAME:FILE")
    folder = env.get(CREDENTIALS_VARIABLE)
    if not folder:
        raise _Unfit(
            problem=f"is {shown(text)}, but {CREDENTIALS_VARIABLE} is not in the environment: systemd sets it for a"
            f" unit with LoadCredential={name}:FILE; without systemd set it to a folder with a file {name}"
        )
    path = os.path.join(folder, name)
    if not os.path.lexists(path):
        raise _Unfit(
            problem=f"is {shown(text)}, but there is no file {name} in {folder}, the folder of the credentials: add"
            f" LoadCredential={name}:FILE to the unit"
        )
    return path


# The XMPP side.


def _accept_domain(value: Any) -> str:
    if not isinstance(value, str):
        raise _Unfit
    try:
        address = Address.parse(value)
    except NotAnAddress:
        meant = re.fullmatch(r"(?:[a-z]+://)?([\w.-]+)(?::\d+)?/?", value)
        raise _Unfit(meant=meant and meant[1]) from None
    if address.local is not None or address.resource is not None:
        raise _Unfit(meant=address.domain)
    if "_" in address.domain or address.domain.startswith("["):
        # Twisted's stream header takes host names only.
        raise _Unfit(remedy="it must be a host name: letters, digits, - and dots")
    return address.domain


DOMAIN = ValueType('a domain such as "bot.example.org", without user, port or resource', _accept_domain)


@implementer(IReactorPluggableNameResolver)
class _NoReactor:
    """Stands where Twisted's endpoint parsers want a reactor that they only keep for later."""

    nameResolver = None

    def installNameResolver(self, resolver: IHostnameResolver) -> IHostnameResolver:
        """Never called: nothing is resolved while settings are read."""
        raise NotImplementedError


def _accept_server(value: Any) -> str:
    if not isinstance(value, str):
        raise _Unfit
    # Nobody logs in to a component port, but a URL may have been written here.
    found = _without_secrets(value) if "@" in value else value
    unfit = _network_endpoint_problem(value)
    if unfit is not None:
        unfit.found = found
        raise unfit
    try:
        client_endpoint(_NoReactor(), value)
    except OSError as error:  # a TLS endpoint reads its certificates
        raise _Unfit(found=found, remedy=f"{shown(error.filename)} cannot be read: {error.strerror}") from None
    except Exception as error:  # each kind of endpoint has a parser of its own, and they raise as they like
        unknown = str(error).startswith("Unknown endpoint type")
        said = None if unknown else f"Twisted says {shown(str(error))}"
        meant = _server_meant(value)
        raise _Unfit(found=found, remedy=None if meant else said, meant=meant) from None
    return value


_TLS_NAMES = {"certKey": "certificate", "caCertsDir": "trustRoots"}
"""What a `tls:` endpoint calls the options of an `ssl:` endpoint."""


def _as_tls(endpoint: Endpoint) -> str | None:
    """The `tls:` endpoint that does what somebody wanted who wrote an `ssl:` endpoint."""
    host, port = endpoint.host_and_port
    if not host or not port.isdecimal():
        return None
    host = host.lstrip("/")
    options = {
        _TLS_NAMES.get(name, name): value
        for name, value in endpoint.named.items()
        if name not in ("host", "port", "hostname")
    }
    name = endpoint.named.get("hostname", host)
    if name != host:
        options["endpoint"] = f"tcp:{_escaped(host)}:{port}"
    return ":".join(["tls", _escaped(name), port, *(f"{key}={_escaped(value)}" for key, value in options.items())])


def _escaped(text: str) -> str:
    return re.sub(r"[\\:=]", r"\\\g<0>", text)


SERVER = ValueType(
    'a Twisted client endpoint such as "tcp:127.0.0.1:5347", "unix:PATH" or "tls:HOST:PORT"',
    _accept_server,
)


def _network_endpoint_problem(text: str) -> _Unfit | None:
    """What is wrong with an endpoint that has a host and a port; Twisted's own words for that help nobody."""
    endpoint = Endpoint.parse(text)
    kind, positional = endpoint.kind, endpoint.positional
    if kind == "ssl":
        remedy = "an ssl: endpoint accepts the certificate of anybody, so take a tls: endpoint"
        return _Unfit(remedy=remedy, meant=_as_tls(endpoint))
    if kind not in ("tcp", "tls"):
        return None
    if positional and positional[0].startswith("//"):
        meant = _server_meant(text)
        return _Unfit(remedy=None if meant else "a // is not a part of it", meant=meant)
    if len(positional) > 2:
        meant = _server_meant(text.partition(":")[2], kind)
        remedy = "each colon in the host needs a backslash in front, which TOML writes \\\\:"
        return _Unfit(remedy=None if meant else remedy, meant=meant)
    host, port = endpoint.host_and_port
    if not port and not host.isdecimal():
        return _Unfit(remedy="it needs a host and a port", meant=host and f"{kind}:{_escaped(host)}:5347")
    if not host or not port:
        return _Unfit(remedy="it needs a host and a port", meant=f"{kind}:127.0.0.1:{port or host}")
    if not port.isdecimal() or not 0 < int(port) < 65536:
        return _Unfit(remedy="a port is a number from 1 to 65535")
    return None


def _server_meant(text: str, kind: str = "tcp") -> str | None:
    """What somebody who wrote this most likely meant; `kind` is that of the endpoint where the text does not say it."""
    if re.match("(tls|ssl|https)://", text):
        kind = "tls"
    if text.isdecimal():
        return f"tcp:127.0.0.1:{text}"
    if re.fullmatch(r"\.{0,2}/[^/@\s][^@\s]*", text):
        return f"unix:{_escaped(text)}"
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
    return f"{kind}:{_escaped(host)}:{port}"


def _accept_listen(value: Any) -> str:
    if not isinstance(value, str):
        raise _Unfit
    unfit = _listen_problem(value)
    if unfit is not None:
        raise unfit
    try:
        serverFromString(_NoReactor(), value)
    except OSError as error:  # a TLS endpoint reads its key and its certificate
        raise _Unfit(remedy=f"{shown(error.filename)} cannot be read: {error.strerror}") from None
    except LookupError:  # a systemd: endpoint looks for its socket among those that this process has got
        raise _Unfit(remedy="systemd has handed over no such socket: start the gateway by its .socket unit") from None
    except Exception as error:  # each kind of endpoint has a parser of its own, and they raise as they like
        raise _Unfit(remedy=f"Twisted says {shown(str(error))}") from None
    return value


_SSL_NEEDS = "it needs a port, a key and a certificate: ssl:8443:privateKey=FILE:certKey=FILE:interface=127.0.0.1"

_LISTEN_KINDS = ("tcp", "tcp6", "ssl", "unix", "systemd")


def _listen_problem(text: str) -> _Unfit | None:
    """What is wrong with an endpoint where Twisted would open another port, or gives no reason that helps the user."""
    endpoint = Endpoint.parse(text)
    kind, named = endpoint.kind, endpoint.named
    first = endpoint.positional[0] if endpoint.positional else ""
    port = named.get("port") or first
    if kind in ("tls", "https"):
        # A tls: endpoint of Twisted names a folder of certificates first, and without a port takes 443 everywhere.
        return _Unfit(remedy=f"a server speaks TLS by an ssl: endpoint, and {_SSL_NEEDS}")
    if kind not in _LISTEN_KINDS or ":" not in text:
        return _Unfit(meant=_listen_meant(text))
    if not text.startswith(kind):
        lowered = kind + text[len(kind) :]
        return _listen_problem(lowered) or _Unfit(meant=lowered)
    if kind == "unix":
        return None if named.get("address") or first else _Unfit(remedy="it needs a path", meant="unix:/run/api.sock")
    if kind == "systemd":
        if not (named.get("domain") or first) or ("index" in named) == ("name" in named):
            remedy = "it needs the family and the name or the index of the socket: systemd:domain=INET:name=api.socket"
            return _Unfit(remedy=remedy)
        return None
    if kind == "ssl" and not (port and (named.get("privateKey") or endpoint.positional[1:])):
        return _Unfit(remedy=_SSL_NEEDS)
    if not port:
        interface = "127.0.0.1" if kind == "tcp" else "::1"
        return _Unfit(remedy="it needs a port", meant=f"{kind}:8347:interface={_escaped(interface)}")
    if kind == "tcp" and endpoint.positional[1:] and not port.isdecimal():
        return _Unfit(meant=_listen_meant(text))
    if not port.isdecimal() or not 0 < int(port) < 65536:
        return _Unfit(remedy="a port is a number from 1 to 65535")
    return None


def _listen_meant(text: str) -> str | None:
    """What somebody who wrote this most likely meant."""
    if re.fullmatch(r"\.{0,2}/[^/@\s][^@\s]*", text):
        return f"unix:{_escaped(text)}"
    meant = re.fullmatch(r"(?:tcp:|http:(?://)?)?(?:([\w.-]+|\[?[0-9A-Fa-f:.]+\]?):)?(\d+)/?", text)
    if meant is None:
        return None
    interface = _escaped((meant[1] or "127.0.0.1").strip("[]"))
    return f"tcp:{meant[2]}:interface={interface}"


def listening_at(endpoint: str) -> tuple[str, str]:
    """The interface ("" for all of them) and the port of a usable endpoint on TCP; "" and the path of one on Unix."""
    parsed = Endpoint.parse(endpoint)
    where = parsed.named.get("port") or parsed.named.get("address")
    interface = parsed.positional[1] if parsed.kind == "tcp" and parsed.positional[1:] else ""
    return parsed.named.get("interface", interface), where or parsed.positional[0]


LISTEN = ValueType(
    'a Twisted server endpoint such as "tcp:8347:interface=127.0.0.1", "unix:PATH" or'
    ' "ssl:8348:privateKey=FILE:certKey=FILE"',
    _accept_listen,
)


def _accept_name(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}", value):
        raise _Unfit
    return value


NAME = ValueType("a name of up to 40 letters, digits, dots, - and _", _accept_name, None)


def _accept_patterns(value: Any) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Collection) or isinstance(value, Mapping) or not value:
        raise _Unfit(meant=[value])
    return tuple(map(_pattern, value))


def _pattern(text: Any) -> str:
    if not isinstance(text, str):
        raise _Unfit(found=text)
    if "/" in text:
        raise _Unfit(found=text, remedy="patterns are for addresses without a resource")
    try:
        # A star is none of the characters of a host name.
        address = Address.parse(text.replace("*", "0"))
    except NotAnAddress:
        raise _Unfit(found=text) from None
    return text.lower() if "*" in text else str(address)


PATTERNS = ValueType(
    'a list of addresses without resource, with * for any characters, such as ["*@example.org"]', _accept_patterns, None
)


def _accept_sender(value: Any) -> str:
    try:
        return str(Address.parse(value)) if isinstance(value, str) else _unfit()
    except NotAnAddress:
        raise _Unfit from None


def _unfit() -> str:
    raise _Unfit


SENDER = ValueType('an address such as "alerts@bot.example.org"', _accept_sender)


def _accept_nick(value: Any) -> str:
    try:
        nick = Address.parse(f"room@example.org/{value}").resource if isinstance(value, str) else None
    except NotAnAddress:
        nick = None
    if nick is None or nick != nick.strip() or len(nick) > 100:
        raise _Unfit
    return nick


NICK = ValueType('a nick of up to 100 characters, such as "alerts"', _accept_nick)


def _accept_recipients(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        value = (value,)
    if not isinstance(value, Collection) or isinstance(value, Mapping) or not value:
        raise _Unfit
    return tuple(map(_accept_sender, value))


RECIPIENTS = ValueType("an address, or a list of addresses", _accept_recipients, None)


def _accept_stanzas(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        raise _Unfit(meant=value.split(",") if "," in value else [value])
    if not isinstance(value, Collection) or isinstance(value, Mapping) or not value:
        raise _Unfit
    for name in value:
        if not isinstance(name, str) or name not in STANZA_KINDS:
            raise _Unfit(remedy=_did_you_mean(name, STANZA_KINDS))
    return tuple(kind for kind in STANZA_KINDS if kind in value)


STANZAS = ValueType(
    'a list of one or more of "message", "presence" and "iq"',
    _accept_stanzas,
    lambda text: [name.strip() for name in text.split(",")],
)


def _accept_rate(value: Any) -> tuple[int, float]:
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d{1,6})\s*/\s*(\d{1,6}(?:\.\d{1,3})?)\s*s\s*", value, re.ASCII)
        value = (int(match[1]), float(match[2])) if match else None
    if not isinstance(value, tuple) or len(value) != 2:
        raise _Unfit
    replies, seconds = value
    if not isinstance(replies, int) or not 1 <= replies <= 10_000 or not 1 <= seconds <= 3600:
        raise _Unfit
    return replies, float(seconds)


LOOP_GUARD = ValueType(
    'replies and seconds, such as "20/10s": from 1 to 10000 within 1 to 3600 s; or "off"',
    lambda value: value if value == "off" else _accept_rate(value),
)


RATE = ValueType('requests and seconds, such as "100/10s": from 1 to 10000 within 1 to 3600 s', _accept_rate, None)


def _accept_conditions(value: Any) -> Mapping[int, StanzaError]:
    if not isinstance(value, Mapping):
        raise _Unfit(problem="must be a table of stanza errors, by HTTP status")
    errors: dict[int, StanzaError] = {}
    for status, meaning in value.items():
        name = str(status)
        if not re.fullmatch(r"[345][0-9]{2}", name):
            raise _Unfit(problem=f"holds {shown(status)}, but a status that can become an error is from 300 to 599")
        errors[int(name)] = meaning if isinstance(meaning, StanzaError) else _stanza_error(name, meaning)
    return MappingProxyType(errors)


def _stanza_error(status: str, meaning: Any) -> StanzaError:
    words = meaning.split(None, 2) if isinstance(meaning, str) else []
    if len(words) < 2:
        raise _Unfit(part=status, found=meaning)
    if words[0] not in ERROR_TYPES:
        raise _Unfit(
            f"begin with the error's type, {_one_of(ERROR_TYPES)}",
            part=status,
            found=meaning,
            remedy=_did_you_mean(words[0], ERROR_TYPES),
        )
    if words[1] not in CONDITIONS:
        raise _Unfit(
            "name a condition of RFC 6120 section 8.3.3 after the type",
            part=status,
            found=meaning,
            remedy=_did_you_mean(words[1], CONDITIONS),
        )
    return StanzaError(*words)


ANSWERS = ValueType(
    'a type and a condition such as "cancel item-not-found"; a text may follow', _accept_conditions, None
)


# The HTTP side.


def _url_parts(url: str) -> SplitResult | None:
    """The parts of a URL that can be POSTed to, or None."""
    if not url.isprintable() or re.search(r"[\s\\]", url):
        return None
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        return None
    return parts if usable else None


def _accept_url(value: Any) -> str:
    if not isinstance(value, str):
        raise _Unfit(found=value if isinstance(value, (int, float)) else "...")
    found = _without_secrets(value)
    if re.match(r"(?:https?\+)?unix:|https?://unix:(?:/|$)|\.{0,2}/(?!/)", value, re.IGNORECASE):
        remedy = "a webhook on a Unix socket is not supported: let it listen on a port of 127.0.0.1"
        raise _Unfit(found=found, remedy=remedy)
    parts = _url_parts(value)
    if parts is None:
        bare = "//" not in value and _is_accepted(f"http://{value}", URL)
        raise _Unfit(found=found, remedy="put http:// or https:// in front" if bare else None)
    if parts.fragment:
        raise _Unfit(found=found, remedy="leave out what follows the #, it is never sent")
    try:
        WebhookUrl.parse(value)
    except ValueError as error:
        raise _Unfit(found=found, remedy=str(error)) from None
    return value


def _url_from_flag(text: str) -> object:
    if "@" in text.partition("//")[2].partition("/")[0]:
        raise _Unfit(
            problem="must not hold a user or a password on the command line, where every user of the machine sees it:"
            " give component_post_url in a settings file named by --config"
        )
    return text


URL = ValueType('an absolute URL such as "http://127.0.0.1:8080/"', _accept_url, _url_from_flag)


def _accept_base_url(value: Any) -> str:
    parts = _url_parts(value) if isinstance(value, str) else None
    if parts is None or parts.query or parts.fragment or "@" in parts.netloc:
        raise _Unfit
    if not value.isascii():
        raise _Unfit(remedy="it must be ASCII, for it goes into a header", meant=_in_ascii(str(value)))
    return str(value).rstrip("/")


def _in_ascii(url: str) -> str | None:
    try:
        parsed = WebhookUrl.parse(url)
    except ValueError:
        return None
    return (parsed.origin + parsed.target).decode("ascii")


BASE_URL = ValueType('an absolute URL without a query, such as "https://bot.example.org/xmpp"', _accept_base_url)


def displayed_url(url: str) -> str:
    """A usable URL without user, password and query, for the eyes of who has typed it."""
    start, mark, _ = re.sub(r"//[^/?]*@", "//", url, count=1).partition("?")
    return f"{start}?..." if mark else start


def _without_secrets(text: str) -> str:
    """A text that was perhaps meant as a URL, with no more of it than scheme, host and port: the rest may be secret."""
    start, slashes, rest = text.partition("//") if "//" in text else ("", "", text)
    where = re.split("[/?#]", rest, maxsplit=1)[0]
    path = rest[len(where) :]
    if "@" in start or "@" in path:
        return "..."  # there is no telling where a password ends
    return f"{start}{slashes}{where.rpartition('@')[2]}{path if path in ('', '/') else '/...'}"


def _accept_headers(value: Any) -> Mapping[str, str]:
    # The values stay out of every sentence: one of them may be a key.
    if not isinstance(value, Mapping):
        raise _Unfit(problem="must be a table of strings, by header name")
    seen: dict[str, str] = {}
    for name, text in value.items():
        if not isinstance(name, str) or not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
            raise _Unfit(problem=f"holds the name {shown(name)}, but a header's name is of letters, digits and -")
        lower = name.lower()
        if lower in RESERVED_HEADERS or lower.startswith("webhook-"):
            raise _Unfit(part=name, problem="cannot be set: the gateway decides about this header itself")
        if lower in seen:
            raise _Unfit(part=name, problem=f"is there twice, also as {seen[lower]}: case does not count in headers")
        if not isinstance(text, str) or not text.isascii() or not text.isprintable() or text != text.strip():
            raise _Unfit(part=name, problem="must be a string of printable ASCII without a blank at either end")
        seen[lower] = name
    return MappingProxyType(dict(value))


HEADERS = ValueType("a table of strings, by header name", _accept_headers, None)


# Secrets: their sentences show nothing of them.


def _accept_secret(value: Any) -> str:
    if not isinstance(value, str) or not value or not value.isprintable():
        raise _Unfit(problem="must be a string in one line, of characters that can be seen, and not empty")
    return value


SECRET = ValueType("a string that is not empty", _accept_secret, None)


def _accept_token(value: Any) -> str:
    # RFC 6750 section 2.1 allows fewer characters; a blank or a control character is what would break the header.
    if not isinstance(value, str) or not re.fullmatch(r"[!-~]+", value):
        raise _Unfit(problem="must be a string of printable ASCII without blanks")
    return value


TOKEN = ValueType("a string of printable ASCII without blanks", _accept_token, None)


def _accept_credential(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9._~+/=-]{16,}", value):
        raise _Unfit(problem="must be at least 16 letters, digits and ._~+/=- without blanks: make one at random")
    return value


CREDENTIAL = ValueType("a string of at least 16 letters, digits and ._~+/=-", _accept_credential, None)
