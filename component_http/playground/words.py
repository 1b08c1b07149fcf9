"""Describes stanzas and failures in words."""

from __future__ import annotations

from collections.abc import Mapping

from component_http.contract.address import Address
from component_http.contract.reply import Response
from component_http.contract.request import request_properties
from component_http.contract.stanza import Stanza
from component_http.contract.xml import serialize
from component_http.errors import CertificateInvalid, ConnectionCut, ConnectionFailed, TimedOut, WebhookError

USER = Address.parse("you@localhost/playground")
"""The user's address, unless `/from` names another one."""


def in_words(stanza: Stanza, user: Address = USER) -> tuple[str, str, str]:
    """Describe a stanza as a chat client shows it, by three arguments of `Screen.show`: text, style, first."""
    facts = request_properties(stanza)
    sender = str(stanza.sender.bare)
    to = "" if stanza.recipient.bare == user.bare else f" (to {stanza.recipient})"
    if stanza.type == "error":
        whose = "You would see an error" if not to else f"{stanza.recipient} would get an error"
        return f"{whose}: {_error_in_words(facts)}", "bad", ""
    if stanza.kind == "message":
        return _message_in_words(facts), "bot", f"{sender}{to}> "
    if stanza.kind == "presence":
        return f"{sender}{to} {_presence_in_words(stanza, facts)}", "bot", ""
    content = "\n".join(serialize(child) for child in stanza.element.elements())
    if stanza.type == "result":
        return content or "(an empty result)", "bot", f"{sender}{to} answers: "
    return content, "bot", f"{sender}{to} asks you: "


def _error_in_words(facts: Mapping[str, object]) -> str:
    error = facts.get("error")
    if not isinstance(error, dict):
        return "of no known kind"
    return " - ".join(error[name] for name in ("condition", "text") if error.get(name))


def _message_in_words(facts: Mapping[str, object]) -> str:
    parts = []
    if facts.get("type") not in ("chat", "normal", None):
        parts.append(f"({facts['type']})")
    if "replace" in facts:
        parts.append("(instead of an earlier message)")
    if "subject" in facts:
        parts.append(f"[{facts['subject']}]")
    if "body" in facts:
        parts.append(str(facts["body"]))
    elif "state" in facts:
        parts.append(f"({facts['state']})")
    if "oob_url" in facts and facts["oob_url"] != facts.get("body"):
        parts.append(f"(attached: {facts['oob_url']})")
    return " ".join(parts) or "(a message without a text; /xml shows it)"


def _presence_in_words(stanza: Stanza, facts: Mapping[str, object]) -> str:
    words = {
        "": "is online",
        "unavailable": "is offline",
        "subscribed": "is in your contacts now",
        "unsubscribed": "has left your contacts",
        "subscribe": "wants to see when you are online",
        "unsubscribe": "does not want to see any more when you are online",
        "probe": "asks whether you are online",
    }
    more = ", ".join(str(facts[name]) for name in ("show", "status") if facts.get(name))
    return words.get(stanza.type, f"({stanza.type})") + (f": {more}" if more else "")


def advice(last: Response | WebhookError | None, url: str) -> str | None:
    """Suggest a remedy after a POST that failed; None if there is none."""
    match last:
        case ConnectionFailed():
            return f"Is your bot running at {url}?"
        case CertificateInvalid():
            return f"The certificate at {url} has to be repaired, or made known to this machine."
        case TimedOut():
            return "Your bot has to answer sooner."
        case ConnectionCut():
            return "Your bot closed the connection before its answer was complete, or does not speak HTTP."
        case Response(status=401 | 403 | 407):
            return "Your bot wants credentials."
        case Response(status=404):
            return f"Your bot is there, but has nothing at {url}"
        case Response(status=405 | 501):
            return f"Your bot has to take a POST at {url}"
        case Response(status=status) if 300 <= status < 400:
            return "The gateway follows no redirect: give the URL that your bot redirects to."
        case Response(status=status) if status >= 500:
            return "Something went wrong inside your bot; its own output should say what."
    return None
