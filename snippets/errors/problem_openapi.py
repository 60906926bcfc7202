"""Say in an application's OpenAPI document what its errors look like.

Each operation documents every 4xx and 5xx as a problem document, and FastAPI's own
model of a 422 is gone. What an operation says of a status itself is kept; where it
names no content, that is a problem document too. The types of a registry are listed
under `x-problem-types`.
"""

from collections.abc import Iterator
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
MODELS = (ProblemDetail, ValidationProblem)


def document_problems(app: FastAPI, registry: Registry) -> None:
    """Change what `app.openapi` returns; routes may be added before or after."""
    original = app.openapi

    def openapi() -> dict[str, Any]:
        document = original()
        if "x-problem-types" not in document:  # FastAPI keeps it until a route is added
            document["x-problem-types"] = registry.types()
            _document(document)
        return document

    vars(app)["openapi"] = openapi  # as `app.openapi = openapi`, which mypy refuses


def _document(document: dict[str, Any]) -> None:
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    responses = components.setdefault("responses", {})
    for model in MODELS:
        name = model.__name__
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(schema.pop("$defs", {}))
        schemas[name] = schema
        content = {MEDIA_TYPE: {"schema": {"$ref": f"#/components/schemas/{name}"}}}
        responses[name] = {"description": "A problem (RFC 9457)", "content": content}
    paths, webhooks = document.get("paths", {}), document.get("webhooks", {})
    for operation in chain(_operations(paths), _operations(webhooks)):
        answers = operation["responses"]
        if "HTTPValidationError" in str(answers.get("422")):
            answers["422"] = _reference("ValidationProblem")
        for status in ("4XX", "5XX"):
            answers.setdefault(status, _reference("ProblemDetail"))
        for status, answer in answers.items():
            if status[0] in "45" and not answer.keys() & {"content", "$ref"}:
                answer["content"] = responses["ProblemDetail"]["content"]
    for name, default in DEFAULTS.items():
        if schemas.get(name) == default:
            del schemas[name]


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
