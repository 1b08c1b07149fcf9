"""Dead letters in a spool's file, for another program than its gateway."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Timer

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from component_http.contract.address import Address
from component_http.errors import SettingsError, SpoolError, SpoolUnusable
from component_http.spool.database import lock
from component_http.spool.dead_letters import OUTCOMES, Letters, Which
from component_http.spool.pending import Pending, Waiting
from component_http.spool.schema import SCHEMA
from component_http.spool.visit import Holder, Kept, Visit, holder, status
from tests.unit.dead_letters import REPLY, add, changing, look, new_spool
from tests.users import refusal_as

NOW = 100_000.0


class SpoolCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.enterContext(TemporaryDirectory()))
        self.path = new_spool(self.folder / "spool.sqlite3")

    def letters(self, *, patience: float = 5.0) -> Letters:
        letters = Letters(self.path, patience=patience, now=lambda: NOW)
        self.addCleanup(letters.close)
        return letters

    def waiting(self) -> list[Waiting]:
        with Pending(self.path) as pending:
            return list(pending.read(pending.names()))


class RetryTests(SpoolCase):
    """Delivering once more what was given up."""

    def test_delivery(self) -> None:
        """
        The letter is a delivery again, with its id, its bytes and the time of its acceptance, as if never tried.
        """
        add(self.path, "d1", body=b"{}", size=2)
        self.assertEqual({"d1": None}, self.letters().retry(["d1"]))
        self.assertEqual([], self.letters().ids())
        self.assertEqual(
            [
                (
                    *("d1", "message", "chat", "m1", "alice@example.org/x", "bot@bot.example.org", 0),
                    *("jabber:component:accept", 1000.0, NOW + 86_400, 0, 0, 2, b"{}"),
                )
            ],
            look(
                self.path,
                "SELECT id, kind, type, stanza_id, sender, recipient, through_room, uri, accepted, deadline, tries,"
                " attempts, size, body FROM deliveries",
            ),
        )
        self.assertEqual([("deliver", "d1")], look(self.path, "SELECT verb, argument FROM commands"))

    def test_order(self) -> None:
        """
        Letters go behind what is in the spool, in the order in which they were given up.
        """
        add(self.path, "d1")
        self.letters().retry(["d1"])
        add(self.path, "d3", kind="presence")
        add(self.path, "d2")
        letters = self.letters()
        letters.retry(letters.ids())
        self.assertEqual(["d1", "d3", "d2"], [each.id for each in self.waiting()])

    def test_stanza_that_did_not_leave(self) -> None:
        """
        It leaves once more as it was, with a new time to do so, and still belongs to its delivery.
        """
        add(self.path, "d1.7", unsent=True, outcome="reply_expired")
        self.assertEqual({"d1.7": None}, self.letters().retry(["d1.7"]))
        [(number, *rest)] = look(self.path, "SELECT * FROM departures")
        self.assertEqual(["d1", "message", NOW, NOW + 86_400, 1, REPLY, None, 0, None, None], rest)
        self.assertEqual([("depart", str(number))], look(self.path, "SELECT verb, argument FROM commands"))
        self.assertEqual([], self.letters().ids())

    def test_lifetimes(self) -> None:
        """
        Presence has a minute, but what is about a subscription a day; what answers no delivery has none afterwards.
        """
        for number, stanza_type in enumerate(("", "unavailable", "subscribed")):
            add(self.path, f"departure.{number}", unsent=True, kind="presence", type=stanza_type)
        self.letters().retry(self.letters().ids())
        self.assertEqual(
            [(None, 60.0), (None, 60.0), (None, 86_400.0)],
            look(self.path, "SELECT delivery_id, expires - stored FROM departures ORDER BY number"),
        )

    def test_some_are_refused(self) -> None:
        """
        An iq, what is under way, what nothing is left of and what is gone are left alone; the others are not.
        """
        add(self.path, "i1", kind="iq", type="get")
        add(self.path, "i1.1", unsent=True, kind="iq", type="result")
        add(self.path, "d1")
        self.letters().retry(["d1"])
        add(self.path, "d1")
        add(self.path, "d2", body=None)
        add(self.path, "d3")
        iq = "an iq has one answer, and who asked has had it or waits no more"
        self.assertEqual(
            {
                "i1": iq,
                "i1.1": iq,
                "d1": "it is under way already",
                "d2": "nothing of it was kept",
                "d3": None,
                "d4": "it is gone",
            },
            self.letters().retry(["i1", "i1.1", "d1", "d2", "d3", "d4"]),
        )
        self.assertEqual(["i1", "i1.1", "d1", "d2"], self.letters().ids())

    def test_whole_or_not_at_all(self) -> None:
        """
        If the file fails in the middle, nothing has moved and no gateway is told.
        """
        add(self.path, "d1")
        add(self.path, "d2")
        with changing(self.path) as other:
            other.execute(
                "CREATE TRIGGER broken BEFORE DELETE ON letters WHEN old.id = 'd2' BEGIN SELECT raise(ABORT, 'no'); END"
            )
        letters = self.letters()
        error = self.assertRaises(SpoolError, letters.retry, ["d1", "d2"])
        self.assertEqual(f"the spool {self.path} cannot be used now: no", str(error))
        self.assertEqual(["d1", "d2"], letters.ids())
        self.assertEqual([], self.waiting())
        self.assertEqual([], look(self.path, "SELECT verb FROM commands"))
        self.assertEqual({"d1": None}, letters.retry(["d1"]))


class DropTests(SpoolCase):
    """Deleting letters."""

    def test_drop(self) -> None:
        """
        Those that are named go, and nothing else does.
        """
        for letter_id in ("d1", "d2", "d3"):
            add(self.path, letter_id)
        self.assertEqual({"d3": None, "d9": "it is gone", "d1": None}, self.letters().drop(["d3", "d9", "d1"]))
        self.assertEqual(["d2"], self.letters().ids())
        self.assertEqual([], self.waiting())
        self.assertEqual([], look(self.path, "SELECT verb FROM commands"))


class ReadTests(SpoolCase):
    """Looking at letters."""

    def test_read(self) -> None:
        """
        A letter has all that was kept; one that is gone meanwhile is left out.
        """
        add(self.path, "d1")
        add(self.path, "d2", unsent=True)
        first, second = self.letters().read(["d1", "d9", "d2"])
        self.assertEqual(
            ("d1", "bounced", "the webhook said 404", 404, "text/plain", b"no such bot", None, 3, 1000.0, 1900.0),
            (
                *(first.id, first.outcome, first.note, first.status, first.media_type, first.response, first.reply),
                *(first.tries, first.accepted, first.ended),
            ),
        )
        self.assertEqual((None, None, None, REPLY), (second.body, second.status, second.response, second.reply))
        self.assertNotIn("hello", repr(first))

    def test_slow_reader(self) -> None:
        """
        Who takes long to read the letters keeps the gateway neither from writing nor from emptying its log.
        """
        for number in range(5):
            add(self.path, f"d{number}")
        letters = self.letters()
        reading = letters.read(letters.ids())
        next(reading)
        add(self.path, "d9")
        self.assertEqual([(0, 0, 0)], look(self.path, "PRAGMA wal_checkpoint(TRUNCATE)"))
        self.assertEqual(4, len(list(reading)))


ADDRESSES = ["a@example.org", "a@example.org/x", "a@example.org/xy", "aa@example.org/x", "example.org", "example.org/x"]
ROWS = st.lists(
    st.tuples(
        st.sampled_from(OUTCOMES),
        st.sampled_from(["message", "presence", "iq"]),
        st.sampled_from(ADDRESSES),
        st.sampled_from(ADDRESSES),
        st.integers(0, 5).map(float),
    ),
    max_size=8,
)
FILTERS = st.builds(
    Which,
    outcomes=st.lists(st.sampled_from(OUTCOMES), max_size=2),
    kinds=st.lists(st.sampled_from(["message", "presence", "iq"]), max_size=2),
    sender=st.none() | st.sampled_from(ADDRESSES).map(Address.parse),
    recipient=st.none() | st.sampled_from(ADDRESSES).map(Address.parse),
    since=st.none() | st.floats(-1, 6) | st.just(float("-inf")),
    until=st.none() | st.floats(-1, 6),
)


def is_of(address: str, wanted: Address | None) -> bool:
    found = Address.parse(address)
    return wanted is None or wanted in ((found, found.bare) if wanted.resource is None else (found,))


def fits(row: tuple[str, str, str, str, float], which: Which) -> bool:
    """Whether a letter is meant, said in another way."""
    outcome, kind, sender, recipient, ended = row
    return (
        (not which.outcomes or outcome in which.outcomes)
        and (not which.kinds or kind in which.kinds)
        and is_of(sender, which.sender)
        and is_of(recipient, which.recipient)
        and (which.since is None or which.since <= ended)
        and (which.until is None or ended <= which.until)
    )


class WhichTests(SpoolCase):
    """Which letters are meant."""

    def fill(self, rows: Sequence[tuple[str, str, str, str, float]]) -> None:
        with changing(self.path) as other:
            other.execute("DELETE FROM letters")
        for number, (outcome, kind, sender, recipient, ended) in enumerate(rows):
            add(self.path, f"d{number}", outcome=outcome, kind=kind, sender=sender, recipient=recipient, ended=ended)

    @settings(deadline=None, max_examples=60)
    @given(ROWS, FILTERS)
    def test_filters(self, rows: list[tuple[str, str, str, str, float]], which: Which) -> None:
        """
        Those that fit all of it are meant, oldest first.
        """
        self.fill(rows)
        expected = [f"d{number}" for number, row in enumerate(rows) if fits(row, which)]
        with closing(Letters(self.path)) as letters:
            self.assertEqual(expected, letters.ids(which))
            self.assertEqual(expected[:1], letters.ids(evolve(which, ids=expected[:1])) if expected else [])

    def test_bare_and_full(self) -> None:
        """
        A bare address is all its resources, a full one only itself; neither is another's beginning.
        """
        self.fill([("bounced", "message", address, "example.org", 0.0) for address in ADDRESSES])
        letters = self.letters()
        for wanted, expected in (("A@example.org", ["d0", "d1", "d2"]), ("a@example.org/x", ["d1"])):
            self.assertEqual(expected, letters.ids(Which(sender=Address.parse(wanted))))

    @settings(deadline=None, max_examples=60)
    @given(st.sets(st.text("ab.%_*", min_size=1, max_size=4), max_size=6), st.text("ab.%_*", min_size=1, max_size=3))
    def test_beginnings(self, ids: set[str], beginning: str) -> None:
        """
        The beginning of an id means every letter that begins so, and a whole id only its own.
        """
        with changing(self.path) as other:
            other.execute("DELETE FROM letters")
        for letter_id in ids:
            add(self.path, letter_id)
        expected = sorted(letter_id for letter_id in ids if letter_id.startswith(beginning))
        with closing(Letters(self.path)) as letters:
            self.assertEqual([beginning] if beginning in ids else expected, letters.named(beginning))


class TogetherTests(SpoolCase):
    """While a gateway writes."""

    def test_waits_for_a_moment(self) -> None:
        """
        While another program writes for a moment, it is waited for.
        """
        add(self.path, "d1")
        other = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        self.addCleanup(other.close)
        other.execute("BEGIN IMMEDIATE")
        timer = Timer(0.05, other.execute, ["COMMIT"])
        timer.start()
        self.addCleanup(timer.join)
        self.assertEqual({"d1": None}, self.letters().retry(["d1"]))

    def test_not_for_ever(self) -> None:
        """
        If it takes long, one sentence says so, and nothing is done; reading goes on meanwhile.
        """
        add(self.path, "d1")
        letters = self.letters(patience=0.01)
        with changing(self.path) as other:
            other.execute("BEGIN IMMEDIATE")
            for call in (letters.retry, letters.drop):
                sentence = str(self.assertRaises(SpoolError, call, ["d1"]))
                self.assertIn(f"the spool {self.path} is busy: another program has been writing to it for ", sentence)
                self.assertIn(" 0.01 seconds; try again", sentence)
            self.assertEqual(["d1"], letters.ids())
            other.execute("COMMIT")
        self.assertEqual({"d1": None}, letters.drop(["d1"]))

    def test_full(self) -> None:
        """
        When there is no room for what is to be moved, the sentence says so.
        """
        with Visit(self.path) as found:
            found.connection.execute("PRAGMA max_page_count = 1")
            with self.assertRaises(SpoolError) as caught, found.transaction():
                found.connection.execute("INSERT INTO facts VALUES ('x', ?)", ("x" * 100_000,))
        self.assertEqual(f"the spool {self.path} cannot be written to: the disk is full", str(caught.exception))


class VisitTests(SpoolCase):
    """Files that are none of this version's spools."""

    def refusal(self, path: Path, error: type[SettingsError] = SettingsError) -> str:
        return str(self.assertRaises(error, Visit, path))

    def test_not_there(self) -> None:
        """
        A file that is not there is told by name, with what to do, and not made.
        """
        for path in (self.folder / "other", self.folder / "none" / "other", self.path / "other"):
            self.assertEqual(
                f"there is no spool {path}: name the gateway's settings file with --config, or the spool's own with"
                " --spool; a service of systemd has it in the folder of its StateDirectory",
                self.refusal(path),
            )
            self.assertFalse(path.exists())

    def test_not_a_file(self) -> None:
        """
        A folder is no spool.
        """
        self.assertEqual(f"the spool {self.folder} is not a file", self.refusal(self.folder))

    def test_of_somebody_else(self) -> None:
        """
        A file that this user may not touch is told with who may.
        """
        self.path.chmod(0)
        # Root may read what nobody may, so this is done by somebody else.
        sentence = refusal_as(65534, lambda: Visit(self.path))
        self.assertTrue(sentence.startswith(f"the spool {self.path} cannot be "), sentence)
        self.assertTrue(sentence.endswith("; do this as the user that the gateway runs as, or as root"), sentence)

    def test_empty(self) -> None:
        """
        An empty file is none yet, and stays empty.
        """
        path = self.folder / "empty"
        path.touch()
        self.assertEqual(f"the spool {path} is an empty file: no gateway has used it yet", self.refusal(path))
        self.assertEqual(0, path.stat().st_size)

    def test_no_database(self) -> None:
        """
        A file of another kind is refused, and not touched.
        """
        path = self.folder / "notes"
        path.write_text("# my notes\n" * 100)
        self.assertEqual(
            f"the spool {path} is damaged, or is no spool (file is not a database)", self.refusal(path, SpoolUnusable)
        )
        self.assertEqual("# my notes\n" * 100, path.read_text())

    def test_another_programs_database(self) -> None:
        """
        A database of another program is refused, and not touched.
        """
        path = self.folder / "prosody"
        with changing(path) as other:
            other.execute("CREATE TABLE letters (host TEXT)")
        before = path.read_bytes()
        self.assertEqual(
            f"the file {path} is a database of another program, and no spool", self.refusal(path, SpoolUnusable)
        )
        self.assertEqual(before, path.read_bytes())

    def test_versions(self) -> None:
        """
        A file of an earlier or of a later version is told with what to do, and its schema stays what it is.
        """
        for version, expected in (
            (max(SCHEMA) - 1, "an earlier version of component-http: start the gateway of this version once"),
            (max(SCHEMA) + 1, "a later version of component-http: use that version"),
        ):
            with changing(self.path) as other:
                other.execute(f"PRAGMA user_version = {version}")
            self.assertIn(f"the spool {self.path} was written by {expected}", self.refusal(self.path))
            self.assertEqual([(version,)], look(self.path, "PRAGMA user_version"))

    def test_damaged(self) -> None:
        """
        Where the file is damaged, a call says so.
        """
        for number in range(50):
            add(self.path, f"d{number}", body=b"x" * 5000)
        whole = self.path.read_bytes()
        self.path.write_bytes(whole[:8192] + b"\xff" * (len(whole) - 8192))

        def read() -> None:
            with closing(Letters(self.path)) as letters:
                list(letters.read(letters.ids()))

        self.assertIn("is damaged", str(self.assertRaises(SpoolUnusable, read)))

    def test_odd_name(self) -> None:
        """
        A file may have any name.
        """
        path = new_spool(self.folder / "a b?mode=ro#%20ä")
        add(path, "d1")
        with closing(Letters(path)) as letters:
            self.assertEqual(["d1"], letters.ids())


class StatusTests(SpoolCase):
    """How things stand with a spool."""

    def test_empty(self) -> None:
        """
        A new file has nothing in it, and nobody has it.
        """
        found = status(self.path)
        self.assertEqual((max(SCHEMA), Holder(False), None), (found.schema, found.holder, found.webhook))
        self.assertEqual([Kept(0, 0, None)] * 3, [found.deliveries, found.outbound_stanzas, found.letters])
        self.assertEqual((self.path.stat().st_size, None), (found.file_bytes, found.ballast_bytes))

    def test_counts(self) -> None:
        """
        What is kept is counted with its bytes, and the oldest of it is known.
        """
        add(self.path, "d1", accepted=500.0)
        add(self.path, "d2.1", unsent=True)
        self.letters().retry(["d1", "d2.1"])
        add(self.path, "d3", body=b"12", response=b"345", ended=800.0)
        add(self.path, "d4", unsent=True, reply=b"6", ended=700.0)
        with changing(self.path) as other:
            other.execute("INSERT INTO facts VALUES ('webhook', 'half_open')")
            Path(f"{self.path}.ballast").write_bytes(b"x" * 1000)
            found = status(self.path)
        self.assertEqual(Kept(1, 20, 500.0), found.deliveries)
        self.assertEqual(Kept(1, len(REPLY), NOW), found.outbound_stanzas)
        self.assertEqual(Kept(2, 6, 700.0), found.letters)
        self.assertEqual(("half_open", 1000), (found.webhook, found.ballast_bytes))
        self.assertLess(0, found.log_bytes)

    def test_holder(self) -> None:
        """
        A gateway that has the spool is told with its process, and is not kept from it by who looks.
        """
        held = lock(self.path)
        self.assertEqual(Holder(True, os.getpid()), holder(self.path))
        held.release()
        self.assertEqual(Holder(False), holder(self.path))
        lock(self.path).release()

    def test_unknown_holder(self) -> None:
        """
        A lock without a number in it is told without one, and one that cannot be looked at as that.
        """
        held = lock(self.path)
        Path(f"{self.path}.lock").write_text("")
        self.assertEqual(Holder(True), holder(self.path))
        held.release()
        Path(f"{self.path}.lock").unlink()
        Path(f"{self.path}.lock").mkdir()
        self.assertEqual(Holder(None), holder(self.path))
