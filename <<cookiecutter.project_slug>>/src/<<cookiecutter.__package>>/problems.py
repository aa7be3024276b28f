"""Errors as problem documents (RFC 9457), with the request's id to quote."""

from collections.abc import Mapping
from http import HTTPStatus

from flask import Flask, Response, json
from werkzeug.exceptions import HTTPException

from .observability import request_id


def problem(status: int, detail: str | None = None, **members: object) -> Response:
    """An answer of type application/problem+json; `members` are its extensions (section 3.2)."""
    body: dict[str, object] = {"type": "about:blank", "title": _title(status), "status": status}
    if detail:
        body["detail"] = detail
    body |= {"request_id": request_id(), **members}
    return Response(json.dumps(body), status, content_type="application/problem+json")


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


def _title(status: int) -> str:
    titles: Mapping[int, str] = {known.value: known.phrase for known in HTTPStatus}
    return titles.get(status, "Unknown")
