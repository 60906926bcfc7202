"""Say in an application's OpenAPI document what its errors look like.

Each operation documents every 4xx and 5xx as a problem document, and FastAPI's own
model of a 422 is gone. What an operation says of a status itself is kept; where it
names no content, that is a problem document too. A 422 is a `ValidationProblem`, or
what a constraint or an endpoint answers with that status. The types of a registry are
listed under `x-problem-types`.
"""

from collections.abc import Iterator
from copy import deepcopy
from itertools import chain
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import (
    validation_error_definition,
    validation_error_response_definition,
)

from snippets.errors.error_registry import Registry
from snippets.errors.problem_details import MEDIA_TYPE, ProblemDetail
from snippets.errors.validation_problems import ValidationProblem

DEFAULTS = {
    "ValidationError": validation_error_definition,
    "HTTPValidationError": validation_error_response_definition,
}
PROBLEM = {"$ref": "#/components/schemas/ProblemDetail"}
INVALID = {"anyOf": [{"$ref": "#/components/schemas/ValidationProblem"}, PROBLEM]}
RESPONSES = {
    name: {
        "description": "A problem (RFC 9457)",
        "content": {MEDIA_TYPE: {"schema": schema}},
    }
    for name, schema in (("ProblemDetail", PROBLEM), ("ValidationProblem", INVALID))
}


def document_problems(app: FastAPI, registry: Registry) -> None:
    """Change what `app.openapi` returns; routes may be added before or after.

    It raises `ValueError` if the service has another model with a name of ours.
    """
    original = app.openapi

    def openapi() -> dict[str, Any]:
        document = original()
        if "x-problem-types" not in document:  # FastAPI keeps it until a route is added
            _document(document)
            document["x-problem-types"] = registry.types()
        return document

    vars(app)["openapi"] = openapi  # as `app.openapi = openapi`, which mypy refuses


def _document(document: dict[str, Any]) -> None:
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    ours = _schemas()
    if others := [name for name in ours if schemas.get(name, ours[name]) != ours[name]]:
        raise ValueError(f"other models have names of ours: {others}")
    schemas |= ours
    components.setdefault("responses", {}).update(deepcopy(RESPONSES))
    paths, webhooks = document.get("paths", {}), document.get("webhooks", {})
    for operation in chain(_operations(paths), _operations(webhooks)):
        answers = operation["responses"]
        if "HTTPValidationError" in str(answers.get("422")):
            answers["422"] = _reference("ValidationProblem")
        for status in ("4XX", "5XX"):
            answers.setdefault(status, _reference("ProblemDetail"))
        for status, answer in answers.items():
            if status[0] in "45" and not answer.keys() & {"content", "$ref"}:
                answer["content"] = deepcopy(RESPONSES["ProblemDetail"]["content"])
    for name, default in DEFAULTS.items():
        if schemas.get(name) == default:
            del schemas[name]


def _schemas() -> dict[str, Any]:
    """Return those of our models as FastAPI writes them, to be compared."""
    app = FastAPI()
    models: dict[int | str, dict[str, Any]] = {
        400: {"model": ProblemDetail},
        422: {"model": ValidationProblem},
    }
    app.add_api_route("/", lambda: None, responses=models)
    schemas: dict[str, Any] = app.openapi()["components"]["schemas"]
    return schemas


def _reference(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/responses/{name}"}


def _operations(paths: dict[str, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield each operation, and those of its callbacks."""
    for item in paths.values():
        for operation in item.values():
            if isinstance(operation, dict) and "responses" in operation:
                yield operation
                for callback in operation.get("callbacks", {}).values():
                    yield from _operations(callback)
