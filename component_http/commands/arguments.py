"""Read the words of a command line."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from component_http.contract.address import Address, NotAnAddress
from component_http.spool.pending import NAME

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def seconds(text: str) -> float:
    """
    Read a duration: `90s`, `15m`, `2h`, `7d`, `1.5w`; what cannot be read is an `ArgumentTypeError`, here and below.
    """
    parts = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)([smhdw])", text)
    if parts is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration such as 90s, 15m, 2h, 7d or 1w")
    return float(parts[1]) * _UNITS[parts[2]]


def since(text: str) -> Callable[[float], float]:
    """
    Read a moment: `14:00` (of today, or of yesterday where that is to come), `2026-11-26T14:00`, or how long ago, `2h`.

    A moment without a time zone is one of this machine's. Returns a function from now to it, both in seconds since the
    epoch.
    """
    if re.fullmatch(r"([01]?[0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9])?", text):
        return lambda now: _last_time(text, now)
    try:
        ago = seconds(text)
    except argparse.ArgumentTypeError:
        try:
            at = datetime.fromisoformat(text).timestamp()
        except (ValueError, OverflowError, OSError):
            raise argparse.ArgumentTypeError(
                f"{text!r} is not a time such as 14:00, 2026-11-26T14:00 or 2h for two hours ago"
            ) from None
        return lambda _: at
    return lambda now: now - ago


def _last_time(text: str, now: float) -> float:
    today = datetime.fromtimestamp(now)
    hour, minute, *second = map(int, text.split(":"))
    at = today.replace(hour=hour, minute=minute, second=second[0] if second else 0, microsecond=0)
    return (at if at <= today else at - timedelta(days=1)).timestamp()


def address(text: str) -> Address:
    try:
        return Address.parse(text)
    except NotAnAddress as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not an address: {error}") from None


def identifier(text: str) -> str:
    """Read an id, or its beginning. An empty one is refused: an unset shell variable must not mean the only letter."""
    if not text.strip():
        raise argparse.ArgumentTypeError("an id must not be empty")
    return text


def limit(text: str) -> int:
    if re.fullmatch(r"[0-9]{1,9}", text) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number such as 100")
    return int(text)


def number(text: str) -> str:
    """Read the number of a delivery or of a stanza that waits: `d12`, `s7`."""
    if NAME.fullmatch(text) is None:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not the number of something that waits: a delivery is d12, a stanza for the server s7"
        )
    return f"{text[0].lower()}{int(text[1:])}"


def names_among(*names: str) -> Callable[[str], tuple[str, ...]]:
    """Make a reader of names with commas between them, each of which must be one of these."""

    def read(text: str) -> tuple[str, ...]:
        found = tuple(name.strip() for name in text.split(","))
        for name in found:
            if name not in names:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(names)}")
        return found

    return read


def add_verb(verbs: Any, name: str, about: str) -> argparse.ArgumentParser:
    """Add the parser of one verb of a command, described by a sentence without its capital and its full stop."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        name, help=about, description=f"{about[0].upper()}{about[1:]}.", allow_abbrev=False
    )
    return parser


def add_place(parser: argparse.ArgumentParser) -> None:
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--config", metavar="FILE", help="the gateway's settings file; only its [spool] counts")
    place.add_argument(
        "--spool",
        metavar="FILE",
        help="the spool's file itself (default: that of a gateway whose settings do not name one)",
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="write JSON, for another program")
