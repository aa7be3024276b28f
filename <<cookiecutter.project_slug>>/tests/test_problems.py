"""Errors are problem documents (RFC 9457), with the request's id to quote."""

from typing import Any

import pytest
from flask import Response, abort
from pydantic import BaseModel, ConfigDict
from werkzeug.exceptions import HTTPException, NotFound

from <<cookiecutter.__package>>.problems import MOST_ERRORS, problem, read_body

from .support import Service


class Size(BaseModel):
    model_config = ConfigDict(extra="forbid")

    height_mm: int
    width_mm: int = 1


class Parcel(BaseModel):
    sizes: list[Size]
    pin: int = 0


def test_a_page_that_does_not_exist(service: Service) -> None:
    answer = service.client.get("/no/such/page", headers={"X-Request-ID": "r-1"})
    assert answer.status_code == 404
    assert answer.content_type == "application/problem+json"
    body = answer.get_json(force=True)
    assert body.pop("detail")
    assert body == {"type": "about:blank", "title": "Not Found", "status": 404, "request_id": "r-1"}


def test_a_method_that_is_not_allowed_says_which_are(service: Service) -> None:
    answer = service.client.delete("/")
    assert answer.status_code == 405
    assert set(answer.headers["Allow"].split(", ")) == {"GET", "HEAD", "OPTIONS"}
    assert answer.content_type == "application/problem+json"
    assert answer.content_length == len(answer.data)


def test_a_failure_tells_its_id_and_nothing_else(service: Service) -> None:
    @service.app.get("/fails")
    def fails() -> str:
        raise RuntimeError("password=hunter2")

    answer = service.client.get("/fails", headers={"X-Request-ID": "r-1"})
    assert answer.status_code == 500
    assert answer.content_type == "application/problem+json"
    assert answer.get_json(force=True)["request_id"] == "r-1"
    for secret in ("hunter2", "RuntimeError", "Traceback", "fails"):
        assert secret not in answer.text


@pytest.mark.parametrize("status", [400, 401, 403, 409, 415, 418, 422, 429, 500, 503])
def test_an_abort_is_a_problem(service: Service, status: int) -> None:
    service.app.get("/aborts")(lambda: abort(status, "because"))
    answer = service.client.get("/aborts")
    assert answer.status_code == status
    body = answer.get_json(force=True)
    assert (body["status"], body["detail"]) == (status, "because")
    assert body["title"]


def test_headers_of_an_abort_are_kept(service: Service) -> None:
    class TooMany(HTTPException):
        code = 429

        def get_headers(self, *_: object) -> list[tuple[str, str]]:
            return [("Content-Type", "text/html"), ("Retry-After", "7")]

    @service.app.get("/aborts")
    def aborts() -> str:
        raise TooMany("slow down")

    answer = service.client.get("/aborts")
    assert answer.headers["Retry-After"] == "7"
    assert answer.headers.getlist("Content-Type") == ["application/problem+json"]


def test_an_abort_with_an_answer_is_that_answer(service: Service) -> None:
    @service.app.get("/raises")
    def raises() -> str:
        raise NotFound(response=Response("mine", 404))

    service.app.get("/aborts")(lambda: abort(Response("mine", 409)))
    for path, status in (("/aborts", 409), ("/raises", 404)):
        answer = service.client.get(path)
        assert (answer.status_code, answer.text) == (status, "mine")


def test_a_redirect_is_not_a_problem(service: Service) -> None:
    service.app.get("/folder/")(lambda: "here")
    answer = service.client.get("/folder")
    assert answer.status_code == 308
    assert answer.headers["Location"].endswith("/folder/")


def test_a_problem_can_have_members_of_its_own(service: Service) -> None:
    service.app.get("/poor")(lambda: problem(403, "Not enough.", balance=30, accounts=["a"]))
    body = service.client.get("/poor").get_json(force=True)
    assert (body["balance"], body["accounts"], body["title"]) == (30, ["a"], "Forbidden")


def test_a_status_without_a_name_has_a_title(service: Service) -> None:
    service.app.get("/odd")(lambda: problem(499))
    body = service.client.get("/odd").get_json(force=True)
    assert body["title"]
    assert "detail" not in body


@pytest.fixture
def parcels(service: Service) -> Service:
    """The service, with a view that takes in a parcel."""

    @service.app.post("/parcels")
    def add() -> dict[str, Any]:
        return read_body(Parcel).model_dump()

    return service


def test_a_body_is_read_as_its_model(parcels: Service) -> None:
    answer = parcels.client.post("/parcels", data=b'{"sizes": [{"height_mm": 7}]}')
    assert answer.get_json() == {"sizes": [{"height_mm": 7, "width_mm": 1}], "pin": 0}


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "#/sizes"),
        ({"sizes": [{"height_mm": 7}, {"height_mm": "x"}]}, "#/sizes/1/height_mm"),
        ({"sizes": [{"height_mm": 7, "a/b~c": 1}]}, "#/sizes/0/a~1b~0c"),
        ([], "#"),
    ],
)
def test_a_body_that_does_not_fit_says_where(parcels: Service, body: Any, pointer: str) -> None:
    answer = parcels.client.post("/parcels", json=body, headers={"X-Request-ID": "r-1"})
    assert answer.status_code == 400
    assert answer.content_type == "application/problem+json"
    said = answer.get_json(force=True)
    assert (said["status"], said["request_id"]) == (400, "r-1")
    assert [wrong["pointer"] for wrong in said["errors"]] == [pointer]
    assert all(wrong["detail"] for wrong in said["errors"])
    assert parcels.line("security event")["event_name"] == "input_validation_fail"


@pytest.mark.parametrize("body", [b"", b"{", b"null", b"\xff", b'"\\ud800"', b"[" * 100_000])
def test_what_is_no_json_of_the_model_is_refused(parcels: Service, body: bytes) -> None:
    answer = parcels.client.post("/parcels", data=body)
    assert answer.status_code == 400
    assert answer.get_json(force=True)["errors"]


def test_a_value_that_does_not_fit_is_not_repeated(parcels: Service) -> None:
    answer = parcels.client.post("/parcels", json={"sizes": "hunter2", "pin": "hunter3"})
    assert len(answer.get_json(force=True)["errors"]) == 2
    for written in (answer.text, parcels.written()):
        assert "hunter" not in written


def test_no_more_errors_than_a_person_reads_are_listed(parcels: Service) -> None:
    answer = parcels.client.post("/parcels", json={"sizes": [{}] * 1000})
    assert len(answer.get_json(force=True)["errors"]) == MOST_ERRORS


def test_a_model_that_an_answer_does_not_fit_is_a_failure_of_ours(service: Service) -> None:
    service.app.get("/fails")(lambda: Parcel.model_validate({}).model_dump())
    assert service.client.get("/fails").status_code == 500
