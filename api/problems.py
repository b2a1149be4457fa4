"""Every error is an RFC 9457 problem: a machine code, a sentence, and the fields at fault."""

import http
from collections.abc import Iterable, Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.responses import Response

from store import log
from store.errors import BudgetExceeded, Conflict, Invalid, NotFound, StoreError, Unavailable

_log = log.get("api")

MEDIA_TYPE = "application/problem+json"


class FieldProblem(BaseModel):
    """What is wrong with one field of the request."""

    field: str = Field(examples=["questions[0]"])
    code: str = Field(examples=["string_too_short"])
    message: str = Field(examples=["String should have at least 1 character"])


class ProblemBody(BaseModel):
    """An error in the form of RFC 9457; `code`, `errors` and `request_id` are extension members."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(examples=["urn:palimpsest:problem:unknown_model"])
    title: str = Field(examples=["Unprocessable Entity"])
    status: int = Field(examples=[422])
    detail: str = Field(examples=["No worker serves the model 'llama-9'."])
    instance: str = Field(examples=["/v1/jobs"])
    code: str = Field(examples=["unknown_model"])
    request_id: str | None = None
    errors: list[FieldProblem] = Field(default_factory=list)


class Problem(HTTPException):
    """An error response, raised anywhere in the API; `extra` holds further members, such as the known models.

    It is an HTTPException because FastAPI lets only those through while it reads a body.
    """

    detail: str

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        field: str | None = None,
        errors: Iterable[FieldProblem] = (),
        headers: Mapping[str, str] | None = None,
        **extra: Any,
    ) -> None:
        super().__init__(status, detail, dict(headers or {}))
        self.code = code
        self.errors = list(errors) or (
            [FieldProblem(field=field, code=code, message=detail)] if field else []
        )
        self.extra = extra


def answer(request: Request, problem: Problem) -> JSONResponse:
    """The response for a problem."""
    body = {
        "type": f"urn:palimpsest:problem:{problem.code}",
        "title": http.HTTPStatus(problem.status_code).phrase,
        "status": problem.status_code,
        "detail": problem.detail,
        "instance": request.url.path,
        "code": problem.code,
        "request_id": getattr(request.state, "request_id", None),
        "errors": [error.model_dump() for error in problem.errors],
        **problem.extra,
    }
    return JSONResponse(jsonable_encoder(body), problem.status_code, problem.headers, MEDIA_TYPE)


def field_name(location: tuple[int | str, ...]) -> str:
    """A location from pydantic (`body, questions, 0`) in the client's notation: `questions[0]`."""
    parts = location[1:] if location and location[0] in ("body", "query", "path", "header") else location
    name = ""
    for part in parts:
        name += f"[{part}]" if isinstance(part, int) else f".{part}" if name else part
    return name or "body"


def _of_validation(error: RequestValidationError) -> Problem:
    found = error.errors()
    if any(entry["type"] == "json_invalid" for entry in found):
        why = found[0].get("ctx", {}).get("error", "it cannot be parsed")
        return Problem(400, "malformed_json", f"The body is not valid JSON: {why}.", field="body")
    fields = [
        FieldProblem(field=field_name(entry["loc"]), code=entry["type"], message=entry["msg"])
        for entry in found
    ]
    shown = "; ".join(f"{entry.field}: {entry.message}" for entry in fields[:3])
    more = f" (and {len(fields) - 3} more)" if len(fields) > 3 else ""
    return Problem(422, "invalid_request", f"The request is not valid: {shown}{more}.", errors=fields)


_HTTP_CODES = {
    400: ("malformed_body", "The body cannot be read."),
    404: ("no_such_route", "There is no such route."),
    405: ("method_not_allowed", "This route does not support the method."),
}


# The status of a store error is that of the first class in its MRO listed here.
STATUSES: Mapping[type[StoreError], int] = {
    NotFound: 404,
    Conflict: 409,
    Invalid: 422,
    BudgetExceeded: 402,
    Unavailable: 503,
}


def status_of(error: type[StoreError]) -> int | None:
    """The HTTP status for an error of the store; None for one that no request should cause."""
    return next((STATUSES[base] for base in error.__mro__ if base in STATUSES), None)


def of_store(error: StoreError) -> Problem:
    """An error of the store as a problem."""
    headers = {"retry-after": str(error.retry_after_seconds)} if isinstance(error, Unavailable) else None
    status = status_of(type(error))
    assert status is not None, "only errors with a status are handled"
    return Problem(
        status,
        error.code,
        str(error),
        field=error.field,
        headers=headers,
        **error.extra,
    )


def install(app: FastAPI) -> None:
    """Makes `app` answer every error as a problem."""

    @app.exception_handler(Problem)
    def _problem(request: Request, error: Problem) -> Response:
        return answer(request, error)

    @app.exception_handler(RequestValidationError)
    def _invalid(request: Request, error: RequestValidationError) -> Response:
        return answer(request, _of_validation(error))

    @app.exception_handler(HTTPException)
    def _http(request: Request, error: HTTPException) -> Response:
        code, detail = _HTTP_CODES.get(error.status_code, (f"http_{error.status_code}", str(error.detail)))
        return answer(request, Problem(error.status_code, code, detail, headers=error.headers))

    def _store(request: Request, error: Exception) -> Response:
        assert isinstance(error, StoreError)
        return answer(request, of_store(error))

    for base in STATUSES:
        app.add_exception_handler(base, _store)

    @app.exception_handler(OperationalError)
    @app.exception_handler(InterfaceError)
    @app.exception_handler(PoolTimeout)
    def _no_database(request: Request, error: Exception) -> Response:
        _log.error("database unavailable", path=request.url.path, error=str(error))
        detail = "The database is unavailable and nothing was changed. Try again in a moment."
        headers = {"retry-after": str(Unavailable.retry_after_seconds)}
        return answer(request, Problem(503, "database_unavailable", detail, headers=headers))


def unexpected() -> Problem:
    """The problem for an unexpected error, whose cause goes to the log only."""
    return Problem(
        500, "internal_error", "An internal error occurred. The log has the details under the request id."
    )


_SCHEMA = "#/components/schemas/ProblemBody"


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` entry of a route for the problems it can return; see `describe`."""
    content = {MEDIA_TYPE: {"schema": {"$ref": _SCHEMA}}}
    return {
        status: {"description": http.HTTPStatus(status).phrase, "content": content} for status in statuses
    }


def describe(openapi: dict[str, Any]) -> dict[str, Any]:
    """Adds the problem's schema to an OpenAPI document, replacing FastAPI's own errors."""
    schemas = openapi["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    problem = ProblemBody.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(problem.pop("$defs"))
    schemas["ProblemBody"] = problem
    for operation in (method for methods in openapi["paths"].values() for method in methods.values()):
        for status, response in operation["responses"].items():
            if status == "422":
                response["content"] = documented(422)[422]["content"]
    return openapi
