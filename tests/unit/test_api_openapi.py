"""The description for machines says what the API does."""

from __future__ import annotations

import json
import re
from typing import Any

from component_http.contract.stanza import TYPES
from tests.unit.api_world import ApiTestCase
from tests.unit.test_docs import DOCS, table


class OpenApiTests(ApiTestCase):
    """GET /v1/openapi.json."""

    def setUp(self) -> None:
        super().setUp()
        answer = self.answer_to("GET", "/v1/openapi.json", token=None)
        self.document: dict[str, Any] = json.loads(answer.body)

    def operations(self) -> list[tuple[str, str, dict[str, Any]]]:
        return [
            (method.upper(), path, operation)
            for path, methods in self.document["paths"].items()
            for method, operation in methods.items()
        ]

    def test_routes(self) -> None:
        """
        It has each path and method that there is, and no other.
        """
        self.assertEqual(
            {(route.method, route.path) for route in self.api.routes},
            {(method, path) for method, path, _ in self.operations()},
        )

    def test_version(self) -> None:
        """
        It names its own version and the program's.
        """
        self.assertEqual(("3.1.0", "1.2.3"), (self.document["openapi"], self.document["info"]["version"]))

    def test_references(self) -> None:
        """
        Whatever it refers to is in it.
        """
        text = json.dumps(self.document)
        for reference in set(re.findall(r'"\$ref": "#/([^"]+)"', text)):
            found = self.document
            for part in reference.split("/"):
                found = found[part]

    def test_parameters(self) -> None:
        """
        Each part of a path that has a name is described.
        """
        for method, path, operation in self.operations():
            with self.subTest(method=method, path=path):
                named = {
                    parameter["name"] for parameter in operation.get("parameters", []) if parameter.get("in") == "path"
                }
                self.assertEqual(set(re.findall(r"\{(\w+)\}", path)), named)

    def test_properties(self) -> None:
        """
        A stanza has the properties of a reply, as the contract's page lists them.
        """
        documented = {name for name, _, _ in table(DOCS / "webhook.md", "property", "belongs to", "value")}
        described = self.document["components"]["schemas"]["Stanza"]["properties"]
        self.assertEqual(documented, set(described))
        self.assertEqual(sorted(TYPES), sorted(described["kind"]["enum"]))

    def test_statuses(self) -> None:
        """
        What comes of good and of bad requests is a status that it names, in a media type that it names.
        """
        bodies: list[tuple[Any, str]] = [
            (b'{"to": "a@b", "body": "x"}', "application/json"),
            (b"{", "application/json"),
            (b"{}", "application/json"),
            (None, "application/json"),
            (b"<iq to='a@b' type='get'><ping xmlns='urn:xmpp:ping'/></iq>", "application/xmpp+xml"),
            (b"to=a%40b&body=x", "application/x-www-form-urlencoded"),
            (b"x", "text/plain"),
            (b"x", "image/png"),
        ]
        for method, path, operation in self.operations():
            for token in (True, False):
                for full in (False, True):
                    for body, media_type in bodies:
                        self.sender.full = self.sender.offline = full
                        target = re.sub(r"\{\w+\}", "iq" if path.endswith("{to}") else "a@b", path)
                        options = {} if token else {"token": None}
                        answer = self.answer_to(method, target, body, {"content-type": media_type}, **options)
                        with self.subTest(method=method, target=target, body=body, status=answer.status):
                            described = operation["responses"][str(answer.status)]
                            if answer.body:
                                self.assertIn(answer.media_type.partition(";")[0], described["content"])
