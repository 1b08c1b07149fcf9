"""
What is installed is what works: the wheel, and an editable install.

The package is built from a copy of the sources and installed into fresh environments, which borrow everything it
depends on from this one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
import twisted

from component_http import __version__

SOURCES = Path(__file__).parents[2]

DEPENDENCIES = Path(twisted.__file__).parents[1]
"""Where this environment has what the package depends on."""

if not (SOURCES / "setup.cfg").exists():
    pytest.skip("these tests run without the sources", allow_module_level=True)


def run(*command: str | Path, folder: Path) -> str:
    """Run a program that has to succeed, outside the sources and without their influence; return what it printed."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    ended = subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, f"{command}\n{ended.stdout}\n{ended.stderr}"
    return ended.stdout


class Environment:
    """A fresh environment; its interpreter is `python`."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, symlinks=True)
        self.folder = folder
        self.python = folder / "bin" / "python"
        (self.site_packages,) = folder.glob("lib/python*/site-packages")
        # A folder on the path by such a file comes last, and the .pth files in it do not count: an editable install
        # in this environment is not seen.
        (self.site_packages / "borrowed.pth").write_text(f"{DEPENDENCIES}\n")

    def install(self, *what: str | Path, folder: Path) -> None:
        """Install with this environment's own pip."""
        run(
            sys.executable,
            "-m",
            "pip",
            "--python",
            self.python,
            "install",
            "-q",
            "--no-deps",
            "--ignore-installed",
            *what,
            folder=folder,
        )

    def twistd(self, *arguments: str) -> str:
        """What twistd prints, run in the root of the file system."""
        code = "import sys; sys.argv[0] = 'twistd'; from twisted.scripts.twistd import run; run()"
        return run(self.python, "-c", code, *arguments, folder=Path("/"))

    def origin(self) -> Path:
        """Where `component_http` is imported from."""
        code = "import component_http; print(component_http.__file__)"
        return Path(run(self.python, "-c", code, folder=Path("/")).strip()).parents[1]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the package is built from, so that building leaves nothing in the sources."""
    copy = tmp_path_factory.mktemp("sources")
    for name in ["setup.cfg", "pyproject.toml", "MANIFEST.in", "LICENSE", "README.md"]:
        shutil.copy(SOURCES / name, copy)
    for name in ["component_http", "twisted", "docs/man"]:
        shutil.copytree(SOURCES / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "dropin.cache"))
    return copy


@pytest.fixture(scope="module")
def wheel(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, sources, folder=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with the wheel."""
    environment = Environment(tmp_path_factory.mktemp("installed") / "env")
    environment.install(wheel, folder=environment.folder)
    assert environment.origin() == environment.site_packages
    return environment


def test_content_of_the_wheel(wheel: Path, sources: Path) -> None:
    """
    The wheel has every module, the templates, the examples, the plugin, the manual pages and the mark of a typed
    package, and nothing of Twisted's own.
    """
    content = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    files = (path for end in ("*.py", "*.j2", "examples/*") for path in (sources / "component_http").rglob(end))
    modules = {str(path.relative_to(sources)) for path in files}
    data = f"component_http-{__version__}.data/data/share/man"
    pages = {f"{data}/man1/component-http.1", f"{data}/man5/component-http.toml.5"}
    assert content == modules | pages | {"component_http/py.typed", "twisted/plugins/component_http_plugin.py"}


def test_twistd_lists_the_plugin(installed: Environment) -> None:
    """
    After an install of the wheel, twistd --help lists component-http from any folder.
    """
    assert "component-http" in installed.twistd("--help")


def test_version(installed: Environment) -> None:
    """
    twistd component-http --version and component-http --version print the version of the wheel.
    """
    expected = f"component-http {__version__}\n"
    assert installed.twistd("component-http", "--version") == expected
    assert run(installed.folder / "bin" / "component-http", "--version", folder=Path("/")) == expected
    code = "import importlib.metadata; print(importlib.metadata.version('component-http'))"
    assert run(installed.python, "-c", code, folder=Path("/")) == f"{__version__}\n"


def test_examples(installed: Environment, tmp_path: Path) -> None:
    """
    The examples are written out of the wheel, without the sources.
    """
    command = installed.folder / "bin" / "component-http"
    run(command, "example", "python", "settings", "systemd", "--into", tmp_path, folder=Path("/"))
    for source in (
        "examples/echo_bot.py",
        "docs/examples/component-http.toml",
        "docs/examples/component-http@.service",
    ):
        path = SOURCES / source
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_module(installed: Environment) -> None:
    """
    python -m component_http is the command component-http.
    """
    expected = f"component-http {__version__}\n"
    assert run(installed.python, "-m", "component_http", "--version", folder=Path("/")) == expected
    code = "import sys; sys.argv = ['x', 'run', '--version']; from component_http.cli import main; main()"
    assert run(installed.python, "-c", code, folder=Path("/")) == expected


def test_public_names(installed: Environment) -> None:
    """
    The names for applications can be imported from the wheel.
    """
    run(installed.python, "-c", "from component_http import Gateway, Settings, StanzaIntake", folder=Path("/"))


def test_editable_install(sources: Path, tmp_path: Path) -> None:
    """
    An editable install shows the plugin to twistd too.
    """
    environment = Environment(tmp_path / "env")
    environment.install("--editable", sources, folder=tmp_path)
    assert environment.origin() == sources
    assert "component-http" in environment.twistd("--help")
    assert environment.twistd("component-http", "--version") == f"component-http {__version__}\n"
