"""Templates of one's own, and what bounds them."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from component_http.api.template import MAX_CHARACTERS, MAX_SECONDS, Template, TemplateFailed, shipped
from component_http.contract.reply import read_json
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

    def test_time(self) -> None:
        """
        A template that takes too long is stopped.
        """
        moments = iter([0.0, MAX_SECONDS, MAX_SECONDS + 0.1])
        template = Template("{% for x in 'abc' %}{{ x }}{% endfor %}", "own.j2", lambda: next(moments))
        with self.assertRaises(TemplateFailed):
            template.render({})

    def test_arithmetic(self) -> None:
        """
        Numbers from outside cannot fill the memory.
        """
        for text in ("{{ 'a' * payload }}", "{{ payload * [1] }}", "{{ 2 ** payload }}", "{{ range(payload) | list }}"):
            with self.assertRaises(TemplateFailed):
                self.rendered(text, "999999999")
        self.assertEqual("60000", self.rendered("{{ payload * 60 }}", "1000"))

    def test_shipped(self) -> None:
        """
        The templates that come along are templates, and bear whatever is thrown at them.
        """
        for name in ("alertmanager", "generic"):
            template = Template(shipped(name), name)
            for payload in ("{}", "[]", "null", "7", '"x"', '{"alerts": [{}, [], null, 7]}', '{"alerts": {"a": {}}}'):
                try:
                    self.assertIsInstance(template.render(read_json(payload.encode())), str)
                except TemplateFailed as failed:
                    self.assertIn("cannot do with this", str(failed))

    def test_json_for_people(self) -> None:
        """
        What a template shows as JSON is for a person and no browser: each character stands for itself.
        """
        made = Template(shipped("generic"), "generic").render({"labels": {"q": "it's <b> & München"}})
        self.assertEqual('labels: {"q": "it\'s <b> & München"}', made)
