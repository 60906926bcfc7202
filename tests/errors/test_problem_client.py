"""What a client of another service is told of its errors."""

import gzip
import json
import tracemalloc
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from fastapi import FastAPI

from catalogue.plugin import Proof
from snippets.errors.error_registry import AppError, ErrorCode, Registry
from snippets.errors.problem_client import (
    MOST_BYTES,
    ProblemError,
    raise_for_problem,
)
from snippets.errors.problem_client_naive import code_of, raise_for_status
from snippets.errors.problem_details import (
    ProblemException,
    ProblemType,
    install_problem_handlers,
)
from tests.support.problems import CANARY, PROBLEM

HEADERS = {"content-type": PROBLEM}


class TakenError(ProblemError):
    """Somebody has the extension."""


class FreeError(AppError):
    """What the other service raises."""

    code = ErrorCode("/problems/taken", 409, "It is taken", ("number",))


class Chunks(httpx.AsyncByteStream):
    """A body in chunks, which knows how many were read and whether it was closed."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        """Serve these chunks."""
        self.chunks, self.read, self.closed = chunks, 0, False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the next one."""
        for chunk in self.chunks:
            self.read += 1
            yield chunk

    async def aclose(self) -> None:
        """Remember it."""
        self.closed = True


async def ask(response: httpx.Response) -> httpx.Response:
    """Return an answer that went through the hook."""
    hook = raise_for_problem({"/problems/taken": TakenError})
    transport = httpx.MockTransport(lambda _: response)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://pbx", event_hooks={"response": [hook]}
    ) as client:
        return await client.get("/extensions/1001")


async def raised(response: httpx.Response) -> ProblemError:
    """Return what is raised for an answer."""
    with pytest.raises(ProblemError) as error:
        await ask(response)
    return error.value


async def test_an_error_of_the_other_service_is_the_exception_of_its_type() -> None:
    service = FastAPI()
    Registry(FreeError.code).install(service)

    @service.get("/extensions/{number}")
    async def show(number: str) -> None:
        raise FreeError("for the log", number=number, tenant_id=CANARY)

    hook = raise_for_problem({"/problems/taken": TakenError})
    transport = httpx.ASGITransport(app=service)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://pbx", event_hooks={"response": [hook]}
    ) as client:
        with pytest.raises(TakenError) as error:
            await client.get("/extensions/1001")

    assert (error.value.status, error.value.type) == (409, "/problems/taken")
    assert (error.value.title, error.value.detail) == ("It is taken", None)
    assert error.value.members == {"number": "1001"}
    assert str(error.value) == "409 '/problems/taken'"


async def test_an_unknown_type_is_generic_and_keeps_its_words() -> None:
    document = {"type": "/problems/other", "title": "Other", "detail": "7", "a": 1}
    error = await raised(httpx.Response(403, json=document, headers=HEADERS))

    assert type(error) is ProblemError
    assert (error.status, error.type) == (403, "/problems/other")
    assert (error.title, error.detail, error.members) == ("Other", "7", {"a": 1})


@pytest.mark.parametrize("status", [200, 204, 304])
async def test_what_is_no_error_is_left_alone(status: int) -> None:
    content = b"" if status != 200 else b'{"type": "/problems/taken"}'
    response = await ask(httpx.Response(status, content=content, headers=HEADERS))
    assert (response.status_code, response.content) == (status, content)


async def test_an_answer_in_chunks_that_is_no_error_is_not_read() -> None:
    stream = Chunks(iter([b"first", b"second"]))
    hook = raise_for_problem({})
    await hook(httpx.Response(200, stream=stream))
    assert (stream.read, stream.closed) == (0, False)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"<html>",
        b"\xff\xfe",
        b"[1]",
        b'"text"',
        b"NaN",
        b"[" * 20_000,
        b"9" * 5000,
        b'{"type": 7, "title": ["x"], "detail": {}}',
    ],
    ids=lambda content: repr(content[:12]),
)
async def test_a_document_that_cannot_be_read_is_a_generic_error(
    content: bytes,
) -> None:
    error = await raised(httpx.Response(502, content=content, headers=HEADERS))
    assert type(error) is ProblemError
    assert (error.status, error.type) == (502, "about:blank")
    assert (error.title, error.detail, error.members) == (None, None, {})


async def test_what_is_no_problem_document_is_a_generic_error() -> None:
    document = {"type": "/problems/taken"}
    error = await raised(httpx.Response(502, json=document))
    assert type(error) is ProblemError
    assert error.type == "about:blank"


async def test_the_status_is_that_of_the_answer() -> None:
    document = {"type": "/problems/taken", "status": 200}
    error = await raised(httpx.Response(409, json=document, headers=HEADERS))
    assert error.status == 409
    assert "status" not in error.members


async def test_no_more_than_the_limit_is_read_and_the_body_is_closed() -> None:
    stream = Chunks(iter([b"x" * 1024] * 1000))
    error = await raised(httpx.Response(500, stream=stream, headers=HEADERS))
    assert error.type == "about:blank"
    assert stream.read == MOST_BYTES // 1024 + 1
    assert stream.closed


@pytest.mark.parametrize(
    ("length", "known"), [(MOST_BYTES, True), (MOST_BYTES + 1, False)]
)
@pytest.mark.parametrize("packed", [True, False])
async def test_the_limit_is_that_of_the_document_packed_or_not(
    length: int, *, known: bool, packed: bool
) -> None:
    document = json.dumps({"type": "/problems/taken", "x": ""}).encode()
    content = document.replace(b'""', b'"' + b"x" * (length - len(document)) + b'"')
    assert len(content) == length
    headers = {**HEADERS, "content-encoding": "gzip"} if packed else HEADERS
    stream = Chunks(iter([gzip.compress(content) if packed else content]))

    error = await raised(httpx.Response(409, stream=stream, headers=headers))

    assert isinstance(error, TakenError) is known


async def test_what_unpacks_to_far_too_much_is_not_unpacked() -> None:
    packed = gzip.compress(bytes(50_000_000))
    assert len(packed) < MOST_BYTES
    headers = {**HEADERS, "content-encoding": "gzip"}
    response = httpx.Response(409, stream=Chunks(iter([packed])), headers=headers)

    tracemalloc.start()
    try:
        await raised(response)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 20 * MOST_BYTES


@pytest.mark.parametrize(
    "packed",
    [
        gzip.compress(b'{"type": "/problems/taken"}' + b" " * 10_000_000),
        gzip.compress(b'{"type": "/problems/taken"}')[:-8],
        gzip.compress(b'{"type": "/problems/taken"}')[:-1],
    ],
    ids=["white space", "no trailer", "half a trailer"],
)
async def test_a_packed_document_that_is_cut_off_is_a_generic_error(
    packed: bytes,
) -> None:
    headers = {**HEADERS, "content-encoding": "gzip"}
    error = await raised(
        httpx.Response(409, stream=Chunks(iter([packed])), headers=headers)
    )
    assert type(error) is ProblemError


async def test_names_of_media_types_and_encodings_have_no_case() -> None:
    packed = gzip.compress(b'{"type": "/problems/taken"}')
    headers = {
        "content-type": "Application/Problem+JSON; charset=utf-8",
        "content-encoding": "GZIP",
    }
    error = await raised(
        httpx.Response(409, stream=Chunks(iter([packed])), headers=headers)
    )
    assert isinstance(error, TakenError)


async def test_a_challenge_is_raised_before_digest_sees_it_unless_called_by_hand() -> (
    None
):
    def challenge(request: httpx.Request) -> httpx.Response:
        if "authorization" in request.headers:
            body = {"type": "/problems/taken"}
            return httpx.Response(409, json=body, headers=HEADERS)
        digest = 'Digest realm="pbx", nonce="7", qop="auth"'
        return httpx.Response(401, headers={"www-authenticate": digest})

    transport, auth = httpx.MockTransport(challenge), httpx.DigestAuth("ada", "pin")
    check = raise_for_problem({"/problems/taken": TakenError})
    hooks = {"response": [check]}
    async with httpx.AsyncClient(transport=transport, event_hooks=hooks) as client:
        with pytest.raises(ProblemError) as error:
            await client.get("http://pbx", auth=auth)
        assert error.value.status == 401

    async with (
        httpx.AsyncClient(transport=transport) as client,
        client.stream("GET", "http://pbx", auth=auth) as response,
    ):
        with pytest.raises(TakenError):
            await check(response)


@pytest.mark.parametrize("encoding", ["br", "gzip", "deflate"])
async def test_an_encoding_that_is_not_gzip_or_no_true_gzip_is_a_generic_error(
    encoding: str,
) -> None:
    headers = {**HEADERS, "content-encoding": encoding}
    stream = Chunks(iter([b'{"type": "/problems/taken"}']))
    error = await raised(httpx.Response(409, stream=stream, headers=headers))
    assert type(error) is ProblemError


async def test_words_of_the_other_side_make_no_second_line_of_a_log() -> None:
    document = {"type": "x\r\nERROR forged", "title": "\n"}
    error = await raised(httpx.Response(409, json=document, headers=HEADERS))
    assert "\n" not in str(error)
    assert "\r" not in str(error)


async def test_without_it_the_caller_is_not_told_the_code(proof: Proof) -> None:
    document = {"type": "/problems/taken"}
    answers = iter(
        [
            httpx.Response(409, json=document, headers=HEADERS),
            httpx.Response(502, text="<html>", headers=HEADERS),
        ]
    )
    transport = httpx.MockTransport(lambda _: next(answers))
    hooks = {"response": [raise_for_status]}
    async with httpx.AsyncClient(transport=transport, event_hooks=hooks) as client:
        with pytest.raises(httpx.HTTPStatusError) as error:
            await client.get("http://pbx")
        assert "taken" not in str(error.value)
        proof.breaks(
            "A service says that an extension is taken.",
            "The exception knows the status, not the type: the caller must read again.",
        )
        with pytest.raises(httpx.HTTPStatusError) as error:
            await client.get("http://pbx")
        with pytest.raises(json.JSONDecodeError):
            await code_of(error.value)
        proof.breaks(
            "A proxy answers with a page of its own.",
            "Reading the code raises a decoding error instead.",
        )


async def test_words_of_a_problem_exception_arrive_on_the_other_side() -> None:
    service = FastAPI()
    install_problem_handlers(service)

    @service.get("/calls")
    async def calls() -> None:
        kind = ProblemType("/problems/no-credit", "No credit")
        raise ProblemException(
            403, "30 are missing", kind=kind, members={"missing": 30}
        )

    transport = httpx.ASGITransport(app=service)
    hooks = {"response": [raise_for_problem({})]}
    async with httpx.AsyncClient(
        transport=transport, base_url="http://pbx", event_hooks=hooks
    ) as client:
        with pytest.raises(ProblemError) as error:
            await client.get("/calls")

    found = error.value
    assert (found.status, found.type) == (403, "/problems/no-credit")
    assert (found.title, found.detail) == ("No credit", "30 are missing")
    assert found.members == {"missing": 30}
