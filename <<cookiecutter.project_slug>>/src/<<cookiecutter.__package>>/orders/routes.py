"""HTTP for orders."""

from flask import Blueprint, Response, jsonify, request, url_for

<% if cookiecutter.cache == 'redis' %>
from ..cache import cache
<% endif %>
from ..observability import counter, get_logger, identify_user, metrics
from ..problems import problem, read_body
from . import store
from .schema import LARGEST_ID, NewOrder

<% if cookiecutter.cache == 'redis' %>
CACHE_SECONDS = 60

<% endif %>
orders = Blueprint("orders", __name__, url_prefix="/api/v1/orders")
log = get_logger(__name__)

orders_created = counter("orders_created_total", "Orders created.", ["source"])
order_value = counter("order_value_total", "Value of the orders created.", ["currency"])


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
@metrics.counter(  # type: ignore[untyped-decorator]
    "order_lookups_total",
    "Orders asked for, by the answer's status.",
    labels={"status": lambda answer: answer.status_code},
)
def read_order(order_id: int) -> Response:
<% if cookiecutter.cache == 'redis' %>
    known = cache().get(f"order:{order_id}")
    if known is not None:
        return jsonify(known)
<% endif %>
    order = store.read(order_id) if order_id <= LARGEST_ID else None
    if order is None:
        return problem(404, f"There is no order {order_id}.")
    body = order.model_dump(mode="json")
<% if cookiecutter.cache == 'redis' %>
    cache().set(f"order:{order_id}", body, CACHE_SECONDS)
<% endif %>
    return jsonify(body)


@orders.get("")
def list_orders() -> Response:
    """The latest orders, at most `limit` (100 at the most)."""
    limit = request.args.get("limit", 20, type=int)
    latest = store.latest(min(max(limit, 1), 100))
    return jsonify(orders=[order.model_dump(mode="json") for order in latest])
