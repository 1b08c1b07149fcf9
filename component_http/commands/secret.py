"""The command `component-http secret`: secrets for signed requests, and the public keys that belong to them."""

from __future__ import annotations

import argparse
from typing import Any

from component_http.commands.arguments import add_verb
from component_http.errors import SettingsError
from component_http.settings.declaration import read_secret
from component_http.settings.values.value_type import shown
from component_http.signing import new_secret, public_key
from component_http.tap import exit_on_settings_error


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "secret",
        help="make a secret for signed requests, or show its public key",
        description="Secrets for webhook.signing_secret_files.",
    )
    verbs = parser.add_subparsers(dest="verb", metavar="new | public", required=True)
    new = add_verb(verbs, "new", "print a new secret: put it into a file that only the gateway can read")
    new.add_argument(
        "--asymmetric", action="store_true", help="a private key, whose public key is all that the webhook needs"
    )
    new.set_defaults(main=_new)
    public = add_verb(verbs, "public", "print the public key of a private key")
    public.add_argument("file", metavar="FILE", help="the file with the private key")
    public.set_defaults(main=_public)


def _new(chosen: argparse.Namespace) -> int:
    print(new_secret(asymmetric=chosen.asymmetric))
    return 0


def _public(chosen: argparse.Namespace) -> int:
    with exit_on_settings_error():
        label = f"the secret in {shown(chosen.file)}"
        try:
            print(public_key(read_secret(label, chosen.file)))
        except ValueError as error:
            raise SettingsError(f"{label} must {error}") from None
    return 0
