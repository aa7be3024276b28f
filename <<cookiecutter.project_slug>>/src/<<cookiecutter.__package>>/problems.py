"""Errors as problem documents (RFC 9457), with the request's id to quote."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import TypeVar

from flask import Flask, Response, abort, json, request
from pydantic import BaseModel, ValidationError
from werkzeug.exceptions import HTTPException

from .observability import request_id

Model = TypeVar("Model", bound=BaseModel)

MOST_ERRORS = 20


def problem(status: int, detail: str | None = None, **members: object) -> Response:
    """An answer of type application/problem+json; `members` are its extensions (section 3.2)."""
    body: dict[str, object] = {"type": "about:blank", "title": _title(status), "status": status}
    if detail:
        body["detail"] = detail
    body |= {"request_id": request_id(), **members}
    return Response(json.dumps(body), status, content_type="application/problem+json")


def read_body(model: type[Model]) -> Model:
    """The request's JSON body as `model`; one that does not fit is answered 400.

    `errors` has the first 20 things that are wrong, after RFC 9457's own example (section 3):
    `pointer`, where in the body (RFC 6901), and `detail`, what is wrong there, in the words of
    pydantic or of the model's own validator. The value itself is not added: it may be a secret.
    """
    try:
        return model.model_validate_json(request.get_data())
    except ValidationError as error:
        abort(problem(400, "The body is not valid.", errors=_errors(error)))


def init_problems(app: Flask) -> None:
    """Every error that Flask answers itself becomes a problem document."""

    @app.errorhandler(HTTPException)
    def as_problem(error: HTTPException) -> Response | HTTPException:
        if error.response is not None:
            return error
        answer = problem(error.code or 500, error.description)
        for name, value in error.get_headers():
            if name not in ("Content-Type", "Content-Length"):
                answer.headers[name] = value
        return answer


def _errors(error: ValidationError) -> list[dict[str, str]]:
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return [
        {"pointer": "#" + "".join(map(_pointer, wrong["loc"])), "detail": wrong["msg"]}
        for wrong in found[:MOST_ERRORS]
    ]


def _pointer(part: object) -> str:
    return "/" + str(part).replace("~", "~0").replace("/", "~1")


def _title(status: int) -> str:
    titles: Mapping[int, str] = {known.value: known.phrase for known in HTTPStatus}
    return titles.get(status, "Unknown")
