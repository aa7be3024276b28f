"""HTTP for orders."""

from typing import Any, get_args

from flask import Blueprint, Response, jsonify, request, url_for

<% if cookiecutter.cache == 'redis' %>
from ..cache import cache
<% endif %>
from ..observability import counter, get_logger, identify_user
from ..problems import problem, read_body
from . import store
from .schema import LARGEST_ID, Currency, NewOrder, Source

<% if cookiecutter.cache == 'redis' %>
CACHE_SECONDS = 60

<% endif %>
orders = Blueprint("orders", __name__, url_prefix="/api/v1/orders")
log = get_logger(__name__)

orders_created = counter("orders_created_total", "Orders created.", ["source"])
order_value = counter("order_value_total", "Value of the orders created.", ["currency"])
order_lookups = counter("order_lookups_total", "Orders looked up, by answer.", ["status"])

# Series that are there from the start, at 0: a rate sees what a counter adds, not where it begins.
for source in get_args(Source):
    orders_created.labels(source)
for currency in get_args(Currency):
    order_value.labels(currency)
for status in (200, 404):
    order_lookups.labels(status)


@orders.post("")
def create_order() -> Response:
    new = read_body(NewOrder)
    identify_user(new.customer)
    order = store.create(new)
    orders_created.labels(order.source).inc()
    order_value.labels(order.currency).inc(float(order.amount))
    log.info("order created", order_id=order.id, amount=str(order.amount), currency=order.currency)
    answer = jsonify(order.model_dump(mode="json"))
    answer.status_code = 201
    answer.headers["Location"] = url_for("orders.read_order", order_id=order.id)
    return answer


@orders.get("/<int:order_id>")
def read_order(order_id: int) -> Response:
    body = _read(order_id)
    missing = f"There is no order {order_id}."
    answer = problem(404, missing) if body is None else jsonify(body)
    order_lookups.labels(answer.status_code).inc()
    return answer


def _read(order_id: int) -> dict[str, Any] | None:
    """An order as its callers see it, or None where there is no such order."""
<% if cookiecutter.cache == 'redis' %>
    known: dict[str, Any] | None = cache().get(f"order:{order_id}")
    if known is not None:
        return known
<% endif %>
    order = store.read(order_id) if order_id <= LARGEST_ID else None
    if order is None:
        return None
    body = order.model_dump(mode="json")
<% if cookiecutter.cache == 'redis' %>
    cache().set(f"order:{order_id}", body, CACHE_SECONDS)
<% endif %>
    return body


@orders.get("")
def list_orders() -> Response:
    """The latest orders, at most `limit` (100 at the most)."""
    limit = request.args.get("limit", 20, type=int)
    latest = store.latest(min(max(limit, 1), 100))
    return jsonify(orders=[order.model_dump(mode="json") for order in latest])
