"""Wire body limits into FastAPI: a small one for all, others where they are needed."""

from typing import Annotated

from fastapi import APIRouter, FastAPI, Request, UploadFile
from pydantic import BaseModel, StringConstraints

from snippets.middleware.body_limit import BodyLimitMiddleware
from snippets.middleware.header_context import RequestIDMiddleware

KIB = 1024


class Extension(BaseModel):
    """A number that rings at somebody's desk."""

    number: Annotated[str, StringConstraints(pattern=r"^\d{2,6}$")]
    label: str = ""


events = APIRouter(prefix="/events", max_body_size=KIB)


@events.post("/calls")
async def report_call(request: Request) -> dict[str, int]:
    """Take an event of at most 1 KiB."""
    return {"bytes": len(await request.body())}


def create_app() -> FastAPI:
    """Return an application whose refusals all carry the request's id."""
    app = FastAPI()
    app.include_router(events)

    @app.post("/extensions")
    async def add(extension: Extension) -> Extension:
        return extension

    @app.post("/voicemails", max_body_size=512 * KIB)
    async def leave(recording: UploadFile) -> dict[str, int | None]:
        return {"bytes": recording.size}

    app.add_middleware(BodyLimitMiddleware, max_body_size=16 * KIB)
    app.add_middleware(RequestIDMiddleware)
    return app
