"""The command `component-http check`: say whether a gateway could start."""

from __future__ import annotations

import json
import os
import pwd
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from component_http.api_service import api_hooks, check_certificates
from component_http.certificates import days_left
from component_http.contract.endpoint import Endpoint
from component_http.errors import SettingsError
from component_http.settings import Settings
from component_http.settings.values.value_type import CREDENTIALS_VARIABLE, shown
from component_http.spool.database import files as spool_files
from component_http.spool.private import located
from component_http.tap import FileOptions, exit_on_settings_error

USER = "user"

_CERTIFICATES = ("ca_file", "client_certificate", "crl_file")
"""The settings of a webhook that name a file without a secret."""

Check = Callable[[], str | None]
"""A check tries something as the user of the process, and returns a sentence if that fails, or None."""


class CheckOptions(FileOptions):
    """The command line of `component-http check`."""

    synopsis = "Usage: component-http check [FILE] [options]"

    longdesc = (
        "Reads settings as the gateway would, and takes the same flags. Says what the gateway would serve, or each"
        " thing that is wrong. Root can read every file, so give --user if the gateway runs as another user."
    )

    NOT_SETTINGS: tuple[str, ...] = (*FileOptions.NOT_SETTINGS, USER)

    optParameters = [
        [USER, None, None, "check that this user can read the files and write the spool; needs root, or to be the user"]
    ]


def main(arguments: Sequence[str]) -> int:
    """
    Run the command, with the command line behind `check`.

    Returns 0, or ends with status 78 if the gateway could not start; the sentences are on standard error by then.
    """
    options = CheckOptions()
    options.parseOptions(arguments)
    with exit_on_settings_error():
        user = None if options[USER] is None else _user(options[USER])
        settings = options.settings()
        require_startable(settings)
        prefix = "" if settings.file is None else f"{settings.file}: "
        problems = [] if user is None else _as_user(user, list(_checks(settings, user)))
        if problems:
            raise SettingsError(*(f"{prefix}{problem}" for problem in problems))
    _report(settings, prefix, user)
    return 0


def require_startable(settings: Settings) -> None:
    """Raise `SettingsError` if a gateway cannot be made: with its webhooks, its hooks, and all files of theirs."""
    from twisted.internet import reactor

    from component_http.gateway import Gateway

    Gateway(settings, reactor)
    api_hooks(settings)
    for port in (settings.api, settings.operations):
        if port.listen is not None:
            check_certificates(port.TABLE, port.listen, port.client_ca_file)


def _report(settings: Settings, prefix: str, user: pwd.struct_passwd | None) -> None:
    for each in settings.each:
        component = each.component
        api = f", the API at {settings.api.listen}" if settings.api.listen and each is settings else ""
        print(f"{prefix}ok: {component.domain} at {component.server}, {component.posted}{api}")
    for key, path in settings.own_certificates():
        days = days_left(path, time.time())
        if days is not None and days >= 0:
            print(f"{prefix}ok: the certificate in {key} {shown(path)} ends in {days:.0f} days")
    for warning in settings.warnings():
        print(f"{prefix}warning: {warning}")
    spool = settings.spool.file()
    if spool is not None and not spool.parent.is_dir():
        print(
            f"{prefix}warning: spool.path is {spool}, but there is no folder {spool.parent}: make it before the start"
        )
    if user is None and os.geteuid() == 0:
        print(
            f"{prefix}note: root can read every file; if the gateway runs as another user, check with --{USER} NAME too"
        )


# What another user may do.


def _user(name: str) -> pwd.struct_passwd:
    try:
        user = pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
    except (KeyError, OverflowError):
        raise SettingsError(f"--{USER} is {shown(name)}, but this machine has no such user") from None
    if os.geteuid() not in (0, user.pw_uid):
        raise SettingsError(
            f"--{USER} is {shown(name)}, but only root can try what another user may do: run it as root"
        )
    return user


def _checks(settings: Settings, user: pwd.struct_passwd) -> Iterator[Check]:
    """List the checks for a user: he can read each file that the settings name, and write the spool."""
    files = settings.secret_files()
    if settings.file is not None:
        files.insert(0, ("the settings file", settings.file))
    files += [("api.hook.template_file", hook.template_file) for hook in settings.api.hook if hook.template_file]
    for key, description in (
        *(("component.server", each.component.server) for each in settings.each),
        ("api.listen", settings.api.listen or ""),
        ("operations.listen", settings.operations.listen or ""),
    ):
        files += [(key, path) for path in Endpoint.parse(description).files()]
    # systemd reads the credentials of a unit as root.
    credentials = os.environ.get(CREDENTIALS_VARIABLE)
    for one in (one for each in settings.each for one in (each, *each.of_routes.values())):
        files += [(f"webhook.{name}", getattr(one.webhook, name) or "") for name in _CERTIFICATES]
    files += [
        (f"{port.TABLE}.client_ca_file", port.client_ca_file or "") for port in (settings.api, settings.operations)
    ]
    for key, path in dict.fromkeys((key, path) for key, path in files if path):
        if not credentials or Path(path).parent != Path(credentials):
            yield partial(_unreadable, key, path, user)
    spool = settings.spool.file()
    if spool is not None and spool.parent.is_dir():
        spool = located(spool)
        yield partial(_unwritable, spool.parent, user)
        for file in spool_files(spool):
            yield partial(_of_another, file, user)


def _unreadable(key: str, path: str, user: pwd.struct_passwd) -> str | None:
    try:
        if os.path.isdir(path):
            os.listdir(path)
        else:
            with open(path, "rb") as file:
                file.read(1)
    except OSError as error:
        closed = next((f", who may not enter the folder {one}" for one in _closed_folders(Path(path))), "")
        return (
            f"{key} {shown(path)} cannot be read by the user {user.pw_name}{closed}: {error.strerror}; chown or chmod"
            ' it, or let systemd pass a secret as "credential:NAME"'
        )
    return None


def _closed_folders(path: Path) -> Iterator[Path]:
    """Find the folders on the way to a file that the user may not enter, the outermost first."""
    return (folder for folder in reversed(path.absolute().parents) if not os.access(folder, os.X_OK))


def _unwritable(folder: Path, user: pwd.struct_passwd) -> str | None:
    try:
        descriptor, path = tempfile.mkstemp(prefix=".component-http-check-", dir=folder)
        os.close(descriptor)
        os.unlink(path)
    except OSError as error:
        return (
            f"spool.path: the user {user.pw_name} cannot write to the folder {folder}: {error.strerror}; chown it, name"
            " a file elsewhere, or set STATE_DIRECTORY to the folder that systemd makes for StateDirectory="
        )
    return None


def _of_another(path: Path, user: pwd.struct_passwd) -> str | None:
    try:
        owner = path.lstat().st_uid
    except OSError:
        return None  # it is not there, or the folder cannot be used
    if owner == user.pw_uid:
        return None
    return f"spool.path: the file {path} belongs to another user than {user.pw_name}: chown it"


def _as_user(user: pwd.struct_passwd, checks: Sequence[Check]) -> list[str]:
    """Run the checks in a process of the user, and return what they found."""
    if os.geteuid() == user.pw_uid:
        return _found(checks)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.initgroups(user.pw_name, user.pw_gid)
            os.setgid(user.pw_gid)
            os.setuid(user.pw_uid)
            with os.fdopen(write, "w") as pipe:
                json.dump(_found(checks), pipe)
        except BaseException as error:
            print(f"component-http: cannot check as the user {user.pw_name}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    if status:
        raise SettingsError(f"--{USER} {user.pw_name} cannot be checked")
    found: list[str] = json.loads(said)
    return found


def _found(checks: Sequence[Check]) -> list[str]:
    return [problem for check in checks if (problem := check()) is not None]
