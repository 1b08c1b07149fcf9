"""
The command `twistd component-http`, and its command line for `component-http run` and `check`.

The settings are checked here, before twistd goes into the background: each mistake is a sentence on standard error, and
exit status 78 (EX_CONFIG of sysexits.h) tells a service manager not to try again.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import re
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, succeed
from twisted.python import usage

from component_http._version import __version__
from component_http.clock import steady_reactor
from component_http.errors import SettingsError
from component_http.log import Logger
from component_http.operations.log_output import OUTPUT, observer
from component_http.operations.service_manager import ServiceManager, notify, watchdog_interval
from component_http.settings import SECRET_VARIABLE, Setting, Settings, reference, retired_flags, unknown_flag
from component_http.settings.values.value_type import shown

if TYPE_CHECKING:
    from component_http.gateway import Gateway

_log = Logger()

QUARANTINE = "quarantine-spool"
"""The only flag without a value."""

GC_THRESHOLDS = (700, 10, 20)
"""
When Python looks for cycles of objects: half as often as usual for those that have lived long.

Each look at all of them holds up everybody, with ten thousand stanzas pending for 60 ms. To look more seldom would cost
memory: the elements of a stanza know their parent, so a large one is a cycle that a look has to find.
"""


@contextmanager
def exit_on_settings_error() -> Iterator[None]:
    """Turn a `SettingsError` into its sentences on standard error, a line each, and a `SystemExit` with status 78."""
    try:
        yield
    except SettingsError as error:
        for sentence in error.sentences:
            print(f"component-http: {sentence}", file=sys.stderr)
        raise SystemExit(os.EX_CONFIG) from None


def _help(row: Setting) -> str:
    if row.default == "none":
        return row.about.help
    if row.default == "required":
        return f"{row.about.help} (required)"
    # As it would be typed: TOML's quotes and brackets are not for the shell.
    default = re.sub(r'[\[\]" ]', "", row.default)
    several = "; several with commas between them" if row.default.startswith("[") else ""
    return f"{row.about.help} (default {default}{several})"


def _parameters() -> list[list[str | None]]:
    """Make a flag for each setting, in the shape of `usage.Options`; a second name refers to the first in its help."""
    parameters: list[list[str | None]] = [["config", "c", None, "a settings file (TOML); flags override what it says"]]
    for row in reference():
        for name in row.flags:
            text = _help(row) if name == row.flags[0] else f"the same as {row.flags[0]}"
            parameters.append([name.removeprefix("--"), None, None, text])
    return parameters


class Options(usage.Options):
    """The command line: a mapping of each flag to its text, or to None if it was not given."""

    NOT_SETTINGS: tuple[str, ...] = ("config", QUARANTINE)
    """The flags that give no setting."""

    optParameters = _parameters()

    optFlags = [[QUARANTINE, None, "if the spool's file cannot be used: rename it, and begin with an empty one"]]

    synopsis = "[--config=FILE] [options]"

    longdesc = (
        "Serves an XMPP component by POSTing its stanzas to a webhook. The flags have the names of the settings file's"
        " keys, and for all but [component] its table in front. The component's secret comes from the file that"
        f" --secret-file names, or from the environment variable {SECRET_VARIABLE}."
    )

    def opt_version(self) -> None:
        """Print the version and exit."""
        print(f"component-http {__version__}")
        raise SystemExit(0)

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Read the command line; if it cannot be used, end with status 78 and a sentence on standard error."""
        arguments = list(sys.argv[1:] if options is None else options)
        with exit_on_settings_error():
            flags, words = self._sorted(arguments)
            try:
                super().parseOptions([*flags, "--", *words])
            except usage.UsageError as error:
                raise SettingsError(f"{error}; --help lists all flags") from None

    def _sorted(self, arguments: Sequence[str]) -> tuple[list[str], list[str]]:
        """
        Tell flags, with their values, from the other words. Only whole names are accepted: the beginning of a name
        could mean another flag in the next version.
        """
        takes_value = {name.removesuffix("="): name.endswith("=") for name in self.longOpt}
        retired = retired_flags()
        flags: list[str] = []
        words: list[str] = []
        problems: list[str] = []
        remaining = iter(arguments)
        for argument in remaining:
            if argument == "--":
                words += remaining
                continue
            if not argument.startswith("-") or argument == "-":
                words.append(argument)
                continue
            name, equals, text = argument.removeprefix("--").partition("=")
            if argument.startswith("--") and name in retired:
                self[name] = text if equals else next(remaining, "")
                continue
            flags.append(argument)
            if argument == "-c" or (argument.startswith("--") and takes_value.get(name) and not equals):
                value = next(remaining, None)
                if value is None:
                    problems.append(f"{argument} needs a value behind it")
                else:
                    flags.append(value)
            elif argument.startswith("--") and name not in takes_value and name != "_shell-completion":
                problems.append(unknown_flag(name, tuple(takes_value)))
        if problems:
            raise SettingsError(*problems)
        return flags, words

    def postOptions(self) -> None:
        """Write the log ourselves, where twistd would write it to the standard output."""
        twistd = self.parent
        if twistd is None or not twistd.get("nodaemon") or twistd.get("logger") or twistd.get("syslog"):
            return
        if twistd.get("logfile") in (None, "-"):
            twistd["logger"] = f"{observer.__module__}.{observer.__qualname__}"  # twistd imports it

    def parseArgs(self, *arguments: str) -> None:
        if arguments:
            raise usage.UsageError(f"{shown(arguments[0])} is not a flag: each has -- in front")

    def settings(self) -> Settings:
        """Read the settings from this command line and its file."""
        config = self["config"]
        return Settings.from_flags(
            {name: text for name, text in self.items() if text is not None and name not in self.NOT_SETTINGS}, config
        )


class FileOptions(Options):
    """The command line where the settings file may stand without `--config` in front."""

    def parseArgs(self, *arguments: str) -> None:
        if len(arguments) > 1:
            raise usage.UsageError(f"{shown(arguments[1])} is one word too many, for there is one settings file")
        if arguments:
            if self["config"] is not None:
                raise usage.UsageError(f"the settings file is named twice, as {arguments[0]} and by --config")
            self["config"] = arguments[0]


class RunOptions(FileOptions):
    """The command line of `component-http run`."""

    synopsis = "Usage: component-http run [FILE] [options]"

    def for_twistd(self) -> list[str]:
        """Write this command line for the plugin of twistd."""
        named = [f"--{name}={text}" for name, text in self.items() if text is not None and name != QUARANTINE]
        return [*named, f"--{QUARANTINE}"] if self[QUARANTINE] else named


def makeService(options: Options) -> Gateway:
    """
    Make the service that twistd runs.

    If the settings or the spool cannot be used, end with status 78; the sentences are on standard error by then.
    """
    from twisted.internet import reactor

    from component_http.gateway import Gateway

    collect_rarely()
    leave_no_core()
    with exit_on_settings_error():
        settings = options.settings()
        if options.parent is None or options.parent.get("logger") is observer:
            use_log(settings)
        elif settings.log.format != "text" or settings.log.file is not None:
            _log.warn("log.format and log.file are not used, because twistd writes the log: it was told to")
        gateway = Gateway(settings, reactor)
        # The spool's lock survives the fork into the background, and `twistd --uid` changes the user only then.
        user = None if options.parent is None else options.parent.get("uid")
        gateway.prepare(set_aside=bool(options[QUARANTINE]), user=user)
    served = Served(gateway, reactor, options.settings, starts_anew=True)
    reactor.callWhenRunning(served.heed_signals)
    reactor.callWhenRunning(notify, "READY=1")
    if "NOTIFY_SOCKET" in os.environ:
        reactor.callWhenRunning(served.tell_service_manager)
    reactor.addSystemEventTrigger("before", "shutdown", notify, "STOPPING=1")
    reactor.addSystemEventTrigger("before", "shutdown", served.stopped)
    return gateway


def use_log(settings: Settings) -> None:
    """Write the log as the settings say from now on. Raises `SettingsError` if it cannot be opened."""
    log = settings.log
    try:
        OUTPUT.use(log.format, log.file)
    except OSError as error:
        key = "log.format is journald" if log.file is None else f"log.file is {shown(log.file)}"
        raise SettingsError(f"{key}, but that cannot be opened: {error.strerror}") from None


def leave_no_core() -> None:
    """Let a crash write nothing of the memory to the disk, because it holds secrets, and what users write."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # A program that the kernel gives cores to (core_pattern) gets them whatever the limit is: let them be empty.
    with suppress(OSError), open("/proc/self/coredump_filter", "w") as mappings:
        mappings.write("0")


def collect_rarely() -> None:
    """Let Python look for cycles less often (`GC_THRESHOLDS`), and never again at the modules loaded by now."""
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def heed_signals(gateway: Gateway, reactor: Any, settings: Callable[[], Settings] | None = None) -> None:
    """
    Leave the first SIGTERM or SIGINT to Twisted, and let each later one end the drain; Twisted's own handlers object.

    The reactor must run already, because it sets its own handlers when it starts: pass this function to
    `callWhenRunning`.

    Args:
        settings: Reads the settings again when SIGHUP asks for it; None: SIGHUP is not heeded.
    """
    Served(gateway, reactor, settings).heed_signals()


class Served:
    """
    The gateway of a process, which heeds the signals.

    Args:
        settings: Reads the settings again when SIGHUP asks for it; None: SIGHUP is not heeded.
        starts_anew: Put another gateway in its place where a change needs that; else the log says that it does.
    """

    def __init__(
        self,
        gateway: Gateway,
        reactor: Any,
        settings: Callable[[], Settings] | None = None,
        *,
        starts_anew: bool = False,
    ) -> None:
        self._gateway = gateway
        self._reactor = reactor
        self._settings = settings
        self._starts_anew = starts_anew
        self._has_terminal = False
        self._ends = False
        # The reload that is under way, and whether another one was asked for meanwhile.
        self._reloading: Deferred[None] | None = None
        self._once_more = False

    def heed_signals(self) -> None:
        """Put handlers in the place of those that the reactor has set."""
        if self._settings is not None:
            # nohup wants it to go on without its terminal.
            self._has_terminal = signal.getsignal(signal.SIGHUP) != signal.SIG_IGN and _has_terminal()
            signal.signal(signal.SIGHUP, lambda number, frame: self._reactor.callFromThread(self._hung_up))
        if OUTPUT.in_use:
            signal.signal(signal.SIGUSR1, lambda number, frame: self._reactor.callFromThread(reopen_log))
        handlers: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def arrived(number: int, frame: object) -> None:
            if self._ends:
                self._reactor.callFromThread(self._hurry, number)
            else:
                self._ends = True
                handlers[number](number, frame)

        for number, handler in handlers.items():
            if callable(handler):  # else it is ignored on purpose, as by nohup
                signal.signal(number, arrived)

    def tell_service_manager(self) -> None:
        """Keep the service manager informed until the process ends."""
        interval = watchdog_interval(os.environ, os.getpid())
        if interval is not None and sys.__stderr__ is not None:
            # The SIGABRT of systemd's watchdog then says where each thread hangs.
            faulthandler.enable(sys.__stderr__)
        ServiceManager(
            steady_reactor(self._reactor),
            lambda: self._gateway.in_a_sentence(),
            lambda: self._gateway.spool_answers(),
            interval,
        )

    def _hung_up(self) -> None:
        """Reload; but stop if SIGHUP says that the terminal has gone."""
        if self._has_terminal and not _has_terminal():
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            self.reload()

    def _hurry(self, number: int) -> None:
        _log.info("{signal} again: stopping at once", signal=signal.Signals(number).name)
        self._gateway.drain(0)

    def reload(self) -> None:
        """Go by the settings as they are now; where they cannot be used, say why, and change nothing."""
        if self._ends:
            return
        if self._reloading is not None:
            self._once_more = True
            return
        # Source: sd_notify(3), systemd.service(5) on Type=notify-reload.
        notify(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")
        self._reloading = Deferred.fromCoroutine(self._reload())
        self._reloading.addErrback(lambda failure: _log.failure("cannot reload", failure=failure))
        self._reloading.addCallback(self._reloaded)

    def _reloaded(self, _: None) -> None:
        self._reloading = None
        notify("READY=1")
        if self._once_more:
            self._once_more = False
            self.reload()

    def stopped(self) -> Deferred[None]:
        """Fire when no gateway is being replaced, so that the process may end."""
        self._ends = True
        return succeed(None) if self._reloading is None else self._reloading.addCallback(lambda _: None)

    async def _reload(self) -> None:
        from component_http.gateway import Gateway

        assert self._settings is not None
        former = self._gateway
        try:
            settings = self._settings()
            following = Gateway(settings, self._reactor) if self._starts_anew else None
            if OUTPUT.in_use:
                use_log(settings)
            left = former.reload(settings)
        except SettingsError as error:
            self._refuse(error)
            return
        if following is None or not left:
            for name in left:
                _log.warn("{name} has changed, which applies only after a restart", name=name)
            return
        _log.info("starting anew, because of changes: {names}", names=", ".join(left))
        parent = former.parent
        await former.disownServiceParent()
        if self._ends:
            return
        notify("WATCHDOG=1")  # nothing turns while a large spool is read
        try:
            following.prepare()
        except SettingsError as error:
            self._refuse(error)
            following = former
        self._gateway = following
        following.setServiceParent(parent)

    def _refuse(self, error: SettingsError) -> None:
        self._gateway.counters.count("reload_refused")
        for sentence in error.sentences:
            _log.error("the settings stay as they were: {sentence}", sentence=sentence)


def reopen_log() -> None:
    """Open the log's file again, for somebody has moved it."""
    try:
        OUTPUT.reopen()
    except OSError as error:
        _log.error("the log's file cannot be opened again, so it is written as before: {reason}", reason=error.strerror)


def _has_terminal() -> bool:
    """Tell whether the process belongs to a terminal that is still there."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
