"""
Programs of other people that these tests run: XMPP servers and interpreters from the distribution's packages.

Without one of them its tests are skipped and the summary says so in so many words;
with COMPONENT_HTTP_REQUIRE_SERVERS=1 (as in CI) that is a failure.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

__all__ = ["MISSING", "need", "need_library", "unusable"]

MISSING = "MISSING COUNTERPART"
"""How the reason of such a skip begins; `tests/conftest.py` looks for it."""


def unusable(reason: str) -> NoReturn:
    """Skip the test loudly, or fail it where the counterparts are required."""
    if os.environ.get("COMPONENT_HTTP_REQUIRE_SERVERS") == "1":
        pytest.fail(f"{MISSING}: {reason}", pytrace=False)
    pytest.skip(f"{MISSING}: {reason}")


def need(program: str, package: str) -> str:
    """
    Find a program.

    Args:
        program: Its name on the PATH; the system administrator's folders are searched too.
        package: The Debian package that has it, for the message.

    Returns:
        Its full path.
    """
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"])
    found = shutil.which(program, path=path)
    if found is None:
        unusable(f"{program} is not installed (Debian package {package})")
    return found


def need_library(pattern: str, package: str) -> str:
    """
    Find a shared library.

    Args:
        pattern: Its path below the folders of libraries, in which * stands for any one name.
        package: The Debian package that has it, for the message.

    Returns:
        Its full path.
    """
    for folder in ("/usr/lib", "/usr/lib64", "/usr/local/lib"):
        for found in sorted(Path(folder).glob(pattern)):
            return str(found)
    unusable(f"{pattern.rpartition('/')[2]} is not installed (Debian package {package})")
