"""Text for a terminal."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from component_http.operations.terminal import age, cut, moment, on_one_line, printable, size, table, width

NASTY = st.text(st.sampled_from("a日\u0301\x1b\x07\r\n\t\u202e\x9b\ud800 é\u200d…") | st.characters(), max_size=40)


class HarmlessTests(SynchronousTestCase):
    """What a stranger wrote does not drive the terminal."""

    @given(NASTY)
    def test_printable(self, text: str) -> None:
        """
        Nothing is left but what is printed, and line ends.
        """
        for char in printable(text):
            self.assertTrue(char.isprintable() or char in "\n\t\u200c\u200d" or char.isspace(), ascii(char))
            self.assertNotIn(char, "\x1b\x07\r\x9b\u202e\ud800")

    @given(NASTY)
    def test_one_line(self, text: str) -> None:
        """
        On one line there is no end of a line.
        """
        self.assertNotRegex(on_one_line(text), r"[\n\t\r\v\f\x1c-\x1e\x85\u2028\u2029]")

    def test_escaped(self) -> None:
        """
        What is not printed is shown by its number.
        """
        self.assertEqual("\\x1b[31mred \\u202e日", on_one_line("\x1b[31mred\n\u202e日"))


class TableTests(SynchronousTestCase):
    """Columns stand below each other."""

    @given(st.lists(st.tuples(NASTY, NASTY, NASTY), max_size=5), st.integers(1, 20), st.integers(1, 20))
    def test_whatever_is_in_it(self, rows: list[tuple[str, str, str]], first: int, second: int) -> None:
        """
        A line for each row, none wider than the terminal, each column where it belongs, whatever the cells hold.
        """
        lines = table(("A", "B", "C"), rows, (first, second), columns=60).split("\n")
        self.assertEqual("", lines.pop())
        self.assertEqual(1 + len(rows), len(lines))
        for line in lines:
            self.assertLessEqual(width(line), 60)
            self.assertEqual(printable(line), line)

    def test_aligned(self) -> None:
        """
        A column is as wide as what is in it, up to its limit; wide characters count twice, combined ones not.
        """
        self.assertEqual(
            "ID   FROM   TEXT\nd1   日本…  é\nd22  alic…  hello world, how a…\n",
            table(
                ("ID", "FROM", "TEXT"),
                [
                    ("d1", "日本語日本", "e\u0301".replace("e\u0301", "é")),
                    ("d22", "alice@example.org", "hello world,\nhow are you"),
                ],
                (8, 5),
                columns=31,
            ),
        )

    @given(NASTY, st.integers(1, 30))
    def test_cut(self, text: str, columns: int) -> None:
        """
        A text that is cut fits, and one that fits is not cut.
        """
        shown = cut(text, columns)
        self.assertLessEqual(width(shown), columns)
        self.assertEqual(width(text) <= columns, shown == text)


class FiguresTests(SynchronousTestCase):
    """Times and sizes as a person says them."""

    def test_age(self) -> None:
        """
        A time is said in its largest unit; one that is still to come is none.
        """
        self.assertEqual(
            ["0 s", "0 s", "59 s", "1 min", "59 min", "1 h", "23 h", "1 d", "400 d"],
            [age(seconds) for seconds in (-5, 0, 59.9, 60, 3599, 3600, 86_399, 86_400, 400 * 86_400)],
        )

    def test_size(self) -> None:
        """
        A size is said with one decimal.
        """
        self.assertEqual(
            ["0 B", "1023 B", "1.0 KiB", "1.5 MiB", "2048.0 GiB"],
            [size(count) for count in (0, 1023, 1024, 1536 * 1024, 2 * 1024**4)],
        )

    def test_moment(self) -> None:
        """
        A moment is said in UTC.
        """
        self.assertEqual("2026-11-22 12:30:45 UTC", moment(1_795_350_645.9))
