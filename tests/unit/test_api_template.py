"""Templates of one's own, and what bounds them."""

from __future__ import annotations

from itertools import count

from twisted.trial.unittest import SynchronousTestCase

from component_http.api.template import MAX_CHARACTERS, MAX_SECONDS, MAX_VALUES, Template, TemplateFailed, shipped
from component_http.contract.objects import read_json
from component_http.errors import SettingsError


class TemplateTests(SynchronousTestCase):
    """A text of any JSON."""

    def rendered(self, text: str, payload: str = "{}") -> str:
        return Template(text, "own.j2").render(read_json(payload.encode()))

    def test_payload(self) -> None:
        """
        The JSON is there as `payload`, and its numbers can be calculated with.
        """
        self.assertEqual(
            "db1: 3.5", self.rendered("{{ payload.host }}: {{ payload.load + 1 }}", '{"host": "db1", "load": 2.5}')
        )

    def test_what_is_missing(self) -> None:
        """
        What is missing is empty, however deep.
        """
        self.assertEqual("[]", self.rendered("[{{ payload.a.b.c }}{% for x in payload.d %}{{ x }}{% endfor %}]"))

    def test_huge_numbers(self) -> None:
        """
        A number of a thousand digits stays text.
        """
        self.assertEqual("9" * 1000, self.rendered("{{ payload }}", "9" * 1000))

    def test_not_a_template(self) -> None:
        """
        What is no template is told with its line before anything runs.
        """
        error = self.assertRaises(SettingsError, Template, "one\n{% for %}", "api.hook builds: template_file")
        self.assertRegex(str(error), r"^api\.hook builds: template_file, line 2: not a Jinja2 template: ")

    def test_sandbox(self) -> None:
        """
        A template reaches nothing of Python's, and changes nothing.
        """
        for text in ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "{{ payload.update({1: 2}) }}"):
            with self.assertRaises(TemplateFailed):
                self.rendered(text)
        for text in ("{{ payload.__class__ }}", "{{ cycler.__init__.__globals__.os }}"):
            self.assertEqual("", self.rendered(text))
        for text in ("{% include '/etc/passwd' %}", "{% import 'x' as y %}"):
            with self.assertRaises(TemplateFailed):
                self.rendered(text)

    def test_long_text(self) -> None:
        """
        A text is cut where nobody reads on, and the template stopped soon after.
        """
        endless = "{% for x in range(99999) %}{% for y in range(99999) %}ab{% endfor %}{% endfor %}"
        text = self.rendered(endless)
        self.assertEqual((MAX_CHARACTERS, "…"), (len(text), text[-1]))

    def bounded(self, text: str, payload: object = None) -> str:
        """Render with a clock that goes on by a thousandth of the time with each look at it; say what stopped it."""
        moments = count()
        template = Template(text, "own.j2", lambda: next(moments) * MAX_SECONDS / 1000)
        error = self.assertRaises(TemplateFailed, template.render, payload)
        self.assertLess(next(moments), 1500)
        return str(error)

    def test_time(self) -> None:
        """
        A template that takes too long is stopped, also one that writes nothing: in its loops, calls and filters.
        """
        for text in (
            "{% for x in range(99999) %}{% for y in range(99999) %}{% endfor %}{% endfor %}",
            "{% for x in range(99999) if x < 0 %}{% endfor %}",
            "{% for x in range(99999) %}{% set y = payload | sort %}{% endfor %}",
            "{% for x in [1, 2] recursive %}{% if loop.depth < 60 %}{% set y = loop([1, 2]) %}{% endif %}{% endfor %}",
            "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
            "{{ range(99999) | map('string') | list }}",
            "{{ (payload * 1000) | select('in', payload * 1000) | list }}",
            "{{ (payload * 1000) | reject('lessthan', 2) | list }}",
            "{{ range(99999) | list | sum and range(99999) | map('string') | join }}",
        ):
            self.assertEqual("the template takes too long", self.bounded(text, [3, 2, 1]), text)

    def test_size(self) -> None:
        """
        No operation of a template makes a text or a list that is larger than anybody needs.
        """
        doubled = (
            "{% set ns = namespace(x=payload.x) %}{% for i in range(60) %}{% set ns.x = ns.x OP ns.x %}{% endfor %}"
        )
        for text in (
            doubled.replace("OP", "~"),
            doubled.replace("OP", "+"),
            doubled.replace("OP", "+").replace("payload.x", "[payload.x]"),
            "{{ 'a' * 1000 * 1000 * 1000 }}",
            "{{ 1000000000 * 'a' }}",
            "{{ [1] * 1000 * 1000 * 1000 }}",
            "{{ 'a' | center(1000000000) }}",
            "{{ 'a'.ljust(payload.n) }}",
            "{{ 'a'.zfill(payload.n) }}",
            "{{ payload.x | replace('', payload.x) }}",
            "{{ payload.x.replace('x', payload.x) }}",
            "{{ range(9999) | list | join(payload.x) }}",
            "{{ payload.x.join(range(9999) | list) }}",
            "{{ [payload] | tojson(indent=payload.n) }}",
            "{{ payload.x | indent(payload.n) }}",
            "{{ [1] | batch(payload.n, 'x') | list }}",
            "{{ [1] | slice(payload.n) | list }}",
            "{{ (payload.x * 99) | urlize }}",
            "{{ ([[1]] * 9999) | sum(start=[]) }}",
            "{% set x %}{% for i in range(999) %}{{ payload.x }}{% endfor %}{% endset %}{{ x | length }}",
            "{% macro f() %}{% for i in range(999) %}{{ payload.x }}{% endfor %}{% endmacro %}{{ f() | length }}",
        ):
            self.assertEqual(
                "the template makes too large a text or list",
                self.bounded(text, {"n": 10**9, "x": "x" * 9999}),
                text,
            )
        for text in (
            "{{ '%999999999d' % 1 }}",
            "{{ '%*d' % (payload, 1) }}",
            "{{ '%999999999d' | format(1) }}",
            "{{ '{:>999999999}'.format(1) }}",
            "{{ '{:>{}}'.format(1, payload) }}",
        ):
            self.assertIn("a width that may be large", self.bounded(text, 10**9))
        for text in (
            "{{ 10 ** 10 ** 9 }}",
            "{{ payload ** payload }}",
            "{% set ns = namespace(n=payload) %}{% for i in range(99) %}{% set ns.n = ns.n * ns.n %}{% endfor %}",
        ):
            self.assertIn("too large a number", self.bounded(text, 10**9))

    def test_large_comparison(self) -> None:
        """
        A test does not look through a text or a list that is too large.
        """
        for name in ("in", "eq", "lessthan"):
            self.assertIn(
                "too large", self.bounded(f"{{{{ [1] | select('{name}', payload) | list }}}}", "x" * 2_000_001)
            )

    def test_large_payload(self) -> None:
        """
        JSON of more values than a filter can go through at once is refused.
        """
        text = "{{ payload | length }}"
        self.assertEqual(str(MAX_VALUES - 1), Template(text, "own.j2").render([None] * (MAX_VALUES - 1)))
        self.assertIn("too many for a template", self.bounded(text, [None] * MAX_VALUES))

    def test_everyday_templates(self) -> None:
        """
        What templates do every day is not in the way of the bounds.
        """
        for expected, text, payload in (
            (
                "1/3, 2/3, 3/3",
                "{% for x in payload %}{{ loop.index }}/{{ loop.length }}{{ ', ' if not loop.last }}",
                "[1, 2, 3]",
            ),
            ("none", "{% for x in payload %}{{ x }}{% else %}none", "[]"),
            ("1700000000 1.70", "{{ '%d' % payload }} {{ '%.2f' | format(payload / 1000000000) }}", "1700000000"),
            ("1700000000", "{{ '{}'.format(payload) }}", "1700000000"),
            ("a-b-c", "{{ payload | sort | join('-') }}", '["c", "a", "b"]'),
            ("a: 1\nb: None", "{% for k, v in payload.items() %}{{ k ~ ': ' ~ v }}\n", '{"a": 1, "b": null}'),
            ("  x y", ">{{ payload | replace('-', ' ') | indent(2, first=true) }}", '"x-y"'),
        ):
            closed = text + "{% endfor %}" * text.count("{% for")
            self.assertEqual(expected, self.rendered(closed, payload).removeprefix(">"))

    def test_arithmetic(self) -> None:
        """
        Numbers from outside cannot fill the memory.
        """
        for text in ("{{ 'a' * payload }}", "{{ payload * [1] }}", "{{ 2 ** payload }}", "{{ range(payload) | list }}"):
            with self.assertRaises(TemplateFailed):
                self.rendered(text, "999999999")
        self.assertEqual("60000", self.rendered("{{ payload * 60 }}", "1000"))

    def test_json_for_people(self) -> None:
        """
        What a template shows as JSON is for a person and no browser: each character stands for itself.
        """
        made = Template(shipped("generic"), "generic").render({"labels": {"q": "it's <b> & München"}})
        self.assertEqual('labels: {"q": "it\'s <b> & München"}', made)
