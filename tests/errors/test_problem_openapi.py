"""What an application's OpenAPI document says of its errors."""

from typing import Annotated, Any

import pytest
from fastapi import APIRouter, FastAPI, Query
from pydantic import BaseModel

from catalogue.plugin import Proof
from snippets.errors.error_registry import ErrorCode, Registry
from snippets.errors.problem_details import ProblemDetail
from snippets.errors.problem_openapi import document_problems
from snippets.errors.problem_openapi_naive import PROBLEMS
from snippets.errors.validation_problems import ValidationProblem
from tests.support.problems import PROBLEM

TAKEN = ErrorCode("/problems/taken", 409, "It is taken", ("number",))
BUSY = ErrorCode("/problems/busy", 503, "The service is busy")
REGISTRY = Registry(TAKEN, BUSY)


class Reason(BaseModel):
    """What one operation says of its own accord."""

    reason: str


@pytest.fixture
def app() -> FastAPI:
    """An application whose operations say this and that of their errors."""
    app = FastAPI()
    document_problems(app, REGISTRY)
    router, callbacks = APIRouter(prefix="/included"), APIRouter()

    @callbacks.post("{$request.query.url}")
    def rung(number: int) -> int:
        return number

    @app.get("/calls", callbacks=callbacks.routes)
    @router.get("/calls")
    def calls(page: Annotated[int, Query(ge=1)] = 1) -> int:
        return page

    @app.get(
        "/own", responses={404: {"description": "No such"}, 409: {"model": Reason}}
    )
    def own() -> int:
        return 7

    @app.put("/own", responses={422: {"model": Reason}, "4XX": {"model": Reason}})
    def put(page: int) -> int:
        return page

    @app.webhooks.post("ringing")
    def ringing(number: int) -> int:
        return number

    app.include_router(router)
    return app


def operations(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the answers of each operation, by its name."""
    paths = document["paths"] | {"ringing": document["webhooks"]["ringing"]}
    callback = paths["/calls"]["get"]["callbacks"]["rung"]
    return {
        f"{method} {path}": operation["responses"]
        for path, item in {**paths, **callback}.items()
        for method, operation in item.items()
    }


def media_types(document: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    """Return the content of an answer, which may stand among the components."""
    if "$ref" in answer:
        name = answer["$ref"].removeprefix("#/components/responses/")
        answer = document["components"]["responses"][name]
    content: dict[str, Any] = answer["content"]
    return content


def test_every_operation_documents_problems_for_every_error(app: FastAPI) -> None:
    document = app.openapi()
    found = operations(document)
    assert len(found) == 6
    reference = {"$ref": "#/components/schemas/ProblemDetail"}
    for name, answers in found.items():
        assert media_types(document, answers["5XX"]) == {PROBLEM: {"schema": reference}}
        if name != "put /own":
            assert media_types(document, answers["4XX"])[PROBLEM]["schema"] == reference


def test_the_frameworks_model_of_a_422_is_gone(app: FastAPI) -> None:
    document = app.openapi()

    assert "HTTPValidationError" not in str(document)
    assert "ValidationError" not in document["components"]["schemas"]
    names = ("ValidationProblem", "ProblemDetail")  # what refuses a value may raise
    schema = {"anyOf": [{"$ref": f"#/components/schemas/{name}"} for name in names]}
    for name in ("get /calls", "get /included/calls", "post ringing"):
        answer = operations(document)[name]["422"]
        assert media_types(document, answer) == {PROBLEM: {"schema": schema}}


def test_what_an_operation_says_itself_is_kept(app: FastAPI) -> None:
    document = app.openapi()
    own, put = (operations(document)[name] for name in ("get /own", "put /own"))

    assert own["404"]["description"] == "No such"
    assert list(own["404"]["content"]) == [PROBLEM]
    for answer in (own["409"], put["422"], put["4XX"]):
        assert list(answer["content"]) == ["application/json"]


def test_schemas_are_those_of_the_models(app: FastAPI) -> None:
    schemas = app.openapi()["components"]["schemas"]
    for model in (ProblemDetail, ValidationProblem):
        assert schemas[model.__name__]["required"] == [
            name for name, field in model.model_fields.items() if field.is_required()
        ]
        assert schemas[model.__name__]["additionalProperties"] is True
    assert schemas["FieldError"]["properties"].keys() == {
        "location",
        "pointer",
        "type",
        "message",
    }


def test_the_list_of_types_is_the_registrys(app: FastAPI) -> None:
    assert app.openapi()["x-problem-types"] == REGISTRY.types()
    assert [one["type"] for one in REGISTRY.types()] == [BUSY.type, TAKEN.type]


def test_a_document_that_is_asked_for_again_is_the_same_until_a_route_is_added(
    app: FastAPI,
) -> None:
    first = app.openapi()
    assert app.openapi() is first

    app.add_api_route("/later", list)

    later = app.openapi()
    assert {"4XX", "5XX"} <= later["paths"]["/later"]["get"]["responses"].keys()
    assert later["x-problem-types"] == REGISTRY.types()


def test_a_model_of_the_services_own_with_the_frameworks_name_is_kept() -> None:
    app = FastAPI()
    document_problems(app, REGISTRY)
    own = type("ValidationError", (Reason,), {"__doc__": "One of ours."})
    app.add_api_route("/own", lambda: None, response_model=own)
    assert "ValidationError" in app.openapi()["components"]["schemas"]


@pytest.mark.parametrize("name", ["ProblemDetail", "ValidationProblem", "FieldError"])
def test_another_model_of_the_name_of_one_of_ours_is_refused_each_time(
    name: str,
) -> None:
    app = FastAPI()
    document_problems(app, REGISTRY)
    own = type(name, (Reason,), {"__doc__": "One of the service's."})
    app.add_api_route("/own", lambda: None, response_model=own)
    for _ in range(2):
        with pytest.raises(ValueError, match=name):
            app.openapi()


def test_a_route_may_use_the_models_itself() -> None:
    app = FastAPI()
    document_problems(app, REGISTRY)
    responses: dict[int | str, dict[str, Any]] = {
        404: {"model": ProblemDetail},
        409: {"model": ValidationProblem},
    }
    app.add_api_route("/own", lambda: None, responses=responses)
    schemas = app.openapi()["components"]["schemas"]
    assert {"ProblemDetail", "ValidationProblem", "FieldError"} <= schemas.keys()


def test_an_answer_that_is_no_error_is_given_no_content() -> None:
    app = FastAPI()
    document_problems(app, REGISTRY)
    responses: dict[int | str, dict[str, Any]] = {304: {"description": "Unchanged"}}
    app.add_api_route("/own", lambda: None, status_code=204, responses=responses)
    answers = app.openapi()["paths"]["/own"]["get"]["responses"]
    assert "content" not in answers["304"]
    assert "content" not in answers["204"]


def test_without_it_the_document_promises_other_errors(proof: Proof) -> None:
    app = FastAPI(responses=PROBLEMS)

    @app.get("/calls")
    def calls(page: int) -> int:
        return page

    document = app.openapi()
    answers = document["paths"]["/calls"]["get"]["responses"]
    assert "HTTPValidationError" in str(answers["422"])
    proof.breaks(
        "A client is generated from the document.",
        "It expects the framework's 422, which is never sent.",
    )
    assert list(answers["404"]["content"]) == ["application/json"]
    proof.breaks(
        "The document is asked for the media type of a 404.",
        "It says application/json.",
    )
    assert "405" not in answers
    assert not any("XX" in status for status in answers)
    proof.breaks(
        "A fuzzer compares answers with the document.",
        "Of a 405 or a 413 it says nothing.",
    )
