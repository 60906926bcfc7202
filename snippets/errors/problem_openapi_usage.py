"""Read in the OpenAPI document what a client has to expect."""

from fastapi import FastAPI

from snippets.errors.error_registry import ErrorCode, Registry
from snippets.errors.problem_openapi import document_problems

TAKEN = ErrorCode("/problems/taken", 409, "It is taken", ("number",))


def main() -> None:
    """Document one operation."""
    app = FastAPI()
    document_problems(app, Registry(TAKEN))

    @app.put("/extensions/{number}")
    async def assign(number: int) -> int:
        return number

    document = app.openapi()
    answers = document["paths"]["/extensions/{number}"]["put"]["responses"]
    for status in sorted(answers):
        print(status, answers[status].get("$ref"))
        # > 200 None
        # > 422 #/components/responses/ValidationProblem
        # > 4XX #/components/responses/ProblemDetail
        # > 5XX #/components/responses/ProblemDetail
    print(list(document["components"]["responses"]["ProblemDetail"]["content"]))
    # > ['application/problem+json']
    print(sorted(document["components"]["schemas"]))
    # > ['FieldError', 'ProblemDetail', 'ValidationProblem']
    for problem in document["x-problem-types"]:
        print(*problem.values())
        # > /problems/taken 409 It is taken ['number']


if __name__ == "__main__":
    main()
