"""The settings that every port of ours has: the certificates that its clients have to show."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from component_http.certificates import is_renewed
from component_http.settings.declaration import setting
from component_http.settings.values.plain import file_path

if TYPE_CHECKING:
    from component_http.settings.api import ApiSettings
    from component_http.settings.operations import OperationsSettings


def client_ca_file(why: str) -> Any:
    """Declare the setting that has clients show a certificate."""
    return setting(
        file_path("a file with certificates in PEM"),
        "the file with the authorities that sign the certificates of clients, which then have to show one; for an ssl:"
        " endpoint",
        default=None,
        why=f"{why}; like the files of the endpoint it is read again when it changes",
        example='"clients.pem"',
    )


def asks_nobody(port: ApiSettings | OperationsSettings) -> Iterator[str]:
    """Write a sentence about authorities for clients that nobody would ask for a certificate."""
    if port.client_ca_file is not None and port.listen is not None and not is_renewed(port.listen):
        yield (
            f"{port.TABLE}.client_ca_file asks no client for a certificate at this {port.TABLE}.listen: take"
            " ssl:PORT:privateKey=FILE:certKey=FILE, without dhParameters and sslmethod"
        )
