"""Orders: created, read and listed, counted, and refused where they are not valid."""

from typing import Any

import pytest
from werkzeug.test import TestResponse

from ..support import Service, samples_of

URL = "/api/v1/orders"
ORDER = {"customer": "c-1", "amount": "12.50", "currency": "EUR", "source": "mobile"}


def create(shop: Service, **changes: Any) -> TestResponse:
    return shop.client.post(URL, json={**ORDER, **changes})


def total_of(shop: Service, name: str, **labels: str) -> float:
    """What a scrape says of a metric, which lives as long as the process."""
    samples = samples_of(shop.client.get("/metrics").text).get(name, [])
    return sum(value for found, value in samples if found == labels)


def test_an_order_is_created_and_can_be_read(shop: Service) -> None:
    answer = create(shop)
    assert answer.status_code == 201
    order = answer.get_json()
    assert order == {**ORDER, "id": order["id"]}
    assert answer.headers["Location"] == f"{URL}/{order['id']}"
    for _ in range(2):
        read = shop.client.get(answer.headers["Location"])
        assert (read.status_code, read.get_json()) == (200, order)


def test_the_source_is_web_unless_said(shop: Service) -> None:
    order = {name: value for name, value in ORDER.items() if name != "source"}
    assert shop.client.post(URL, json=order).get_json()["source"] == "web"


def test_the_latest_orders_are_listed_first(shop: Service) -> None:
    ids = [create(shop).get_json()["id"] for _ in range(25)]
    listed = [order["id"] for order in shop.client.get(URL).get_json()["orders"]]
    assert listed == ids[:4:-1]
    assert len(shop.client.get(f"{URL}?limit=3").get_json()["orders"]) == 3


@pytest.mark.parametrize(
    ("limit", "length"), [("0", 1), ("-5", 1), ("100000", 2), ("x", 2), ("", 2)]
)
def test_an_odd_limit_is_bounded(shop: Service, limit: str, length: int) -> None:
    create(shop)
    create(shop)
    assert len(shop.client.get(f"{URL}?limit={limit}").get_json()["orders"]) == length


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"amount": "0"}, "#/amount"),
        ({"amount": "-1"}, "#/amount"),
        ({"amount": "1.005"}, "#/amount"),
        ({"amount": "1e20"}, "#/amount"),
        ({"amount": "NaN"}, "#/amount"),
        ({"amount": "Infinity"}, "#/amount"),
        ({"amount": None}, "#/amount"),
        ({"amount": "many"}, "#/amount"),
        ({"currency": "XXX"}, "#/currency"),
        ({"currency": "eur"}, "#/currency"),
        ({"source": "elsewhere"}, "#/source"),
        ({"customer": ""}, "#/customer"),
        ({"customer": "a b"}, "#/customer"),
        ({"customer": "c-1\n"}, "#/customer"),
        ({"customer": "x" * 65}, "#/customer"),
        ({"customer": 7}, "#/customer"),
        ({"extra": 1}, "#/extra"),
    ],
)
def test_what_is_wrong_with_an_order_is_said(
    shop: Service, changes: dict[str, Any], pointer: str
) -> None:
    answer = create(shop, **changes)
    assert answer.status_code == 400
    assert answer.content_type == "application/problem+json"
    body = answer.get_json(force=True)
    assert body["request_id"] == answer.headers["X-Request-ID"]
    assert [wrong["pointer"] for wrong in body["errors"]] == [pointer]
    assert all(wrong["detail"] for wrong in body["errors"])
    assert shop.client.get(URL).get_json()["orders"] == []


@pytest.mark.parametrize("number", ["999999", "2147483647", "2147483648", "9" * 30, "0"])
def test_an_order_that_does_not_exist(shop: Service, number: str) -> None:
    answer = shop.client.get(f"{URL}/{number}")
    assert answer.status_code == 404
    assert answer.content_type == "application/problem+json"
    assert number in answer.get_json(force=True)["detail"]


@pytest.mark.parametrize("number", ["x", "-1", "1.5", "%31x"])
def test_what_is_no_number_is_no_route(shop: Service, number: str) -> None:
    assert shop.client.get(f"{URL}/{number}").status_code == 404
    assert shop.line("request")["route"] == "<unmatched>"


def test_orders_and_their_value_are_counted(shop: Service) -> None:
    created = total_of(shop, "orders_created_total", source="partner")
    value = total_of(shop, "order_value_total", currency="CHF")
    for amount in ("1.50", "2.25"):
        create(shop, amount=amount, currency="CHF", source="partner")
    create(shop, currency="CHF", source="partner", amount="0")
    assert total_of(shop, "orders_created_total", source="partner") == created + 2
    assert total_of(shop, "order_value_total", currency="CHF") == value + 3.75


def test_look_ups_are_counted_by_their_answer(shop: Service) -> None:
    found = total_of(shop, "order_lookups_total", status="200")
    missed = total_of(shop, "order_lookups_total", status="404")
    shop.client.get(create(shop).headers["Location"])
    shop.client.get(f"{URL}/999999")
    assert total_of(shop, "order_lookups_total", status="200") == found + 1
    assert total_of(shop, "order_lookups_total", status="404") == missed + 1


def test_an_order_is_a_line_with_its_customer(shop: Service) -> None:
    order = create(shop).get_json()
    line = shop.line("order created")
    assert (line["order_id"], line["amount"], line["currency"]) == (order["id"], "12.50", "EUR")
    assert line["user_id"] == "c-1"
    assert shop.line("request")["route"] == URL


def test_a_bad_order_is_a_security_event(shop: Service) -> None:
    create(shop, amount="-1")
    assert shop.line("security event")["event_name"] == "input_validation_fail"
<% if cookiecutter.cache == 'redis' %>


def test_an_order_that_was_read_is_read_from_the_cache(
    shop: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    location = create(shop).headers["Location"]
    order = shop.client.get(location).get_json()

    def away(_: int) -> None:
        raise AssertionError("the store was asked again")

    monkeypatch.setattr("<<cookiecutter.__package>>.orders.store.read", away)
    assert shop.client.get(location).get_json() == order
<% endif %>
