"""
A gateway confined as systemd would by a unit's lines, for machines where systemd does not run.

`python -m tests.integration.confined UNIT FOLDER ARGUMENTS...` runs `component-http ARGUMENTS...` with the filter of
system calls and the address families of the unit, and without rights. Where it is root it becomes nobody, and nothing
but FOLDER can be written to. The filters are made with libseccomp, as systemd's own are.
"""

from __future__ import annotations

import codecs
import ctypes
import os
import pwd
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages

ALLOW = 0x7FFF0000
PR_SET_NO_NEW_PRIVS = 38
CLONE_NEWNS = 0x20000
NAMESPACES = 0x7E020080
"""The flags of all namespaces."""

EQUAL, MASKED = 4, 7
"""How libseccomp compares an argument: with a value, or with a value after a mask."""

FAMILIES = {"AF_UNIX": 1, "AF_INET": 2, "AF_INET6": 10, "AF_NETLINK": 16}


def refuse(number: int) -> int:
    """The action that lets a call fail with an error."""
    return 0x00050000 | number


class Compared(ctypes.Structure):
    _fields_ = [("argument", ctypes.c_uint), ("how", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]


class Filter:
    """A filter of system calls; those without a rule get the default."""

    def __init__(self, default: int) -> None:
        self._library = ctypes.CDLL("libseccomp.so.2")
        self._library.seccomp_init.restype = ctypes.c_void_p
        self._made = ctypes.c_void_p(self._library.seccomp_init(ctypes.c_uint32(default)))

    def add(self, action: int, call: str, *compared: Compared) -> None:
        """Add a rule; a call that this processor does not have needs none."""
        number = self._library.seccomp_syscall_resolve_name(call.encode())
        if number < 0:
            return
        rows = (Compared * len(compared))(*compared)
        failed = self._library.seccomp_rule_add_array(
            self._made, ctypes.c_uint32(action), number, ctypes.c_uint(len(compared)), rows
        )
        assert failed == 0, (call, failed)

    def load(self) -> None:
        assert self._library.seccomp_load(self._made) == 0


def lines(unit: str, name: str) -> list[str]:
    """The values of a unit's lines of this name."""
    return re.findall(rf"(?m)^{name}=(.*)$", unit)


def calls(words: str) -> Iterator[str]:
    """The system calls of a line's words, with those of each set, as this systemd has them."""
    for word in words.split():
        if not word.startswith("@"):
            yield word
            continue
        listed = subprocess.run(["systemd-analyze", "syscall-filter", word], capture_output=True, text=True, check=True)
        yield from calls(" ".join(row for row in listed.stdout.splitlines()[1:] if not row.strip().startswith("#")))


def families_and_namespaces(unit: str) -> Filter:
    """There are sockets of the unit's families only, and no namespace is made."""
    found = Filter(ALLOW)
    if lines(unit, "RestrictNamespaces") == ["yes"]:
        for bit in range(32):
            if NAMESPACES >> bit & 1:
                for call in ("clone", "unshare"):
                    found.add(refuse(1), call, Compared(0, MASKED, 1 << bit, 1 << bit))
    allowed = {FAMILIES[name] for words in lines(unit, "RestrictAddressFamilies") for name in words.split()}
    for family in set(range(64)) - allowed:
        found.add(refuse(97), "socket", Compared(0, EQUAL, family, 0))
    return found


def allowed_calls(unit: str) -> Filter:
    """The calls of the lines SystemCallFilter, of which later ones change what earlier ones have said."""
    allowed = {*calls("@default")}
    for words in lines(unit, "SystemCallFilter"):
        if words.startswith("~"):
            allowed -= {*calls(words[1:])}
        else:
            allowed |= {*calls(words)}
    found = Filter(refuse(1))
    for call in sorted(allowed):
        found.add(ALLOW, call)
    return found


def only_writable(folder: Path) -> None:
    """Mount everything but a folder such that nobody can write to it."""
    assert ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNS) == 0, os.strerror(ctypes.get_errno())
    for words in (
        ["--make-rprivate", "/"],
        ["--bind", folder, folder],
        ["-o", "remount,bind,ro=recursive", "/"],
        ["-o", "remount,bind,rw", folder],
    ):
        subprocess.run(["mount", *words], check=True)


def main(path: str, folder: str, *arguments: str) -> None:
    unit = Path(path).read_text()
    # All that it needs is imported before it becomes another user, who may not read the interpreter; what is imported
    # late is found by a check.
    is_root = os.geteuid() == 0
    last = allowed_calls(unit)
    if is_root:
        only_writable(Path(folder))
    assert ctypes.CDLL(None).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    families_and_namespaces(unit).load()
    import component_http.cli

    for module in walk_packages(component_http.__path__, "component_http."):
        import_module(module.name)
    import_module("twisted.scripts.twistd")
    from twisted.application.service import IServiceMaker
    from twisted.plugin import getPlugins

    list(getPlugins(IServiceMaker))
    component_http.cli.main(["check", *arguments[1:]])
    for codec in ("ascii", "idna", "latin-1", "utf-8"):
        codecs.lookup(codec)
    os.umask(int(lines(unit, "UMask")[0], 8))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if is_root:
        nobody = pwd.getpwnam("nobody")
        os.setgroups([])
        os.setgid(nobody.pw_gid)
        os.setuid(nobody.pw_uid)
    last.load()
    sys.exit(component_http.cli.main(arguments))


if __name__ == "__main__":
    main(*sys.argv[1:])
