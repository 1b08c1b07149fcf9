"""Types of values that HTTP knows: URLs, headers, tokens, and stanza errors by status."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any
from urllib.parse import SplitResult, urlsplit

from component_http.contract.conditions import CONDITIONS, ERROR_TYPES, StanzaError
from component_http.contract.http import BEARER, is_field_value, is_token
from component_http.contract.request import RESERVED_HEADERS
from component_http.contract.url import WebhookUrl, without_secrets
from component_http.settings.values.plain import one_of
from component_http.settings.values.value_type import Unfit, ValueType, did_you_mean, is_accepted, shown
from component_http.signing import PRIVATE, SYMMETRIC, signer

_UNIX_URL = "a Unix socket is http+unix:///run/bot.sock, with :/path behind it if the webhook has a path"


def _url_parts(url: str) -> SplitResult | None:
    """The parts of an http or https URL with a host; None if it is none."""
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
        raise Unfit(found=value if isinstance(value, (int, float)) else "...")
    if value.lower().startswith("http+unix:///"):
        try:
            WebhookUrl.parse(value)
        except ValueError:
            raise Unfit(found="...", remedy=_UNIX_URL) from None
        return value
    found = without_secrets(value)
    if re.match(r"(?:https?\+)?unix:|https?://unix:(?:/|$)|\.{0,2}/(?!/)", value, re.IGNORECASE):
        raise Unfit(found=found, remedy=_UNIX_URL)
    parts = _url_parts(value)
    if parts is None:
        bare = "//" not in value and is_accepted(f"http://{value}", URL)
        raise Unfit(found=found, remedy="put http:// or https:// in front" if bare else None)
    if parts.fragment:
        raise Unfit(found=found, remedy="remove the # and the text behind it: it is never sent")
    try:
        WebhookUrl.parse(value)
    except ValueError as error:
        raise Unfit(found=found, remedy=str(error)) from None
    return value


def _accept_proxy(value: Any) -> str:
    accepted = str(_accept_url(value))
    url = WebhookUrl.parse(accepted)
    if url.secure or url.socket is not None or url.target != b"/":
        raise Unfit(found=url.origin)
    return accepted


def _url_from_flag(text: str) -> object:
    if "@" in text.partition("//")[2].partition("/")[0]:
        raise Unfit(
            problem="must not hold a user or a password on the command line, where every user of the machine sees it:"
            " give it in a settings file named by --config"
        )
    return text


URL = ValueType('an absolute URL such as "http://127.0.0.1:8080/"', _accept_url, _url_from_flag)

PROXY = ValueType('the URL of an HTTP proxy, such as "http://proxy.example.org:3128"', _accept_proxy, _url_from_flag)


def _accept_base_url(value: Any) -> str:
    parts = _url_parts(value) if isinstance(value, str) else None
    if parts is None or parts.query or parts.fragment or "@" in parts.netloc:
        raise Unfit
    if not value.isascii():
        raise Unfit(remedy="it must be ASCII, because it goes into a header", meant=_in_ascii(str(value)))
    return str(value).rstrip("/")


def _in_ascii(url: str) -> str | None:
    try:
        parsed = WebhookUrl.parse(url)
    except ValueError:
        return None
    return parsed.origin + parsed.target.decode("ascii")


BASE_URL = ValueType('an absolute URL without a query, such as "https://bot.example.org/xmpp"', _accept_base_url)


def _accept_headers(value: Any) -> Mapping[str, str]:
    # No sentence shows a header's value, because it may be a key.
    if not isinstance(value, Mapping):
        raise Unfit(problem="must be a table of strings, by header name")
    seen: dict[str, str] = {}
    for name, text in value.items():
        if not isinstance(name, str) or not is_token(name):
            raise Unfit(problem=f"holds the name {shown(name)}, but a header's name has letters, digits and -")
        lower = name.lower()
        if lower in RESERVED_HEADERS or lower.startswith("webhook-"):
            raise Unfit(part=name, problem="cannot be set: the gateway sets this header itself")
        if lower in seen:
            raise Unfit(part=name, problem=f"is there twice, also as {seen[lower]}: case does not count in headers")
        if not isinstance(text, str) or not is_field_value(text):
            raise Unfit(part=name, problem="must be a string of printable ASCII without a blank at either end")
        seen[lower] = name
    return MappingProxyType(dict(value))


HEADERS = ValueType("a table of strings, by header name", _accept_headers, None)


# Secrets. Their sentences show nothing of them.


def _secret(allowed: str, pattern: str, remedy: str = "") -> ValueType:
    def accept(value: Any) -> str:
        if not isinstance(value, str) or not re.fullmatch(pattern, value) or not value.isprintable():
            raise Unfit(problem=f"must be {allowed}{remedy}")
        return value

    return ValueType(allowed, accept, None)


SECRET = _secret("a string of one line, with printable characters only and not empty", ".+")

TOKEN = _secret("a string of printable ASCII without blanks", BEARER)


def _accept_signing_secret(value: Any) -> str:
    problem = f"begin with {SYMMETRIC} or {PRIVATE}"
    try:
        if isinstance(value, str):
            signer(value)
            return value
    except ValueError as error:
        problem = str(error)
    raise Unfit(problem=f"must {problem}")


SIGNING_SECRET = ValueType("a secret for signatures", _accept_signing_secret, None)

CREDENTIAL = _secret(
    "a string of at least 16 letters, digits and ._~+/=-", "[A-Za-z0-9._~+/=-]{16,}", ": make a random one"
)


# Statuses.


def _accept_status_errors(value: Any) -> Mapping[int, StanzaError]:
    if not isinstance(value, Mapping):
        raise Unfit(problem="must be a table of stanza errors, by HTTP status")
    errors: dict[int, StanzaError] = {}
    for status, meaning in value.items():
        name = str(status)
        if not re.fullmatch(r"[345][0-9]{2}", name):
            raise Unfit(problem=f"holds {shown(status)}, but a status that can become an error is from 300 to 599")
        errors[int(name)] = meaning if isinstance(meaning, StanzaError) else _stanza_error(name, meaning)
    return MappingProxyType(errors)


def _stanza_error(status: str, meaning: Any) -> StanzaError:
    words = meaning.split(None, 2) if isinstance(meaning, str) else []
    if len(words) < 2:
        raise Unfit(part=status, found=meaning)
    for word, names, allowed in (
        (words[0], ERROR_TYPES, f"begin with the error's type, {one_of(ERROR_TYPES)}"),
        (words[1], CONDITIONS, "name a condition of RFC 6120 section 8.3.3 after the type"),
    ):
        if word not in names:
            raise Unfit(allowed, part=status, found=meaning, remedy=did_you_mean(word, names))
    return StanzaError(*words)


STATUS_ERRORS = ValueType(
    'a type and a condition such as "cancel item-not-found"; a text may follow', _accept_status_errors, None
)
