"""What an order looks like to its callers."""

from decimal import Decimal
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Currency = Literal["CHF", "EUR", "GBP", "USD"]
Source = Literal["web", "mobile", "partner"]
LARGEST_ID = 2**31 - 1
Amount = Annotated[Decimal, Field(gt=0, max_digits=12, decimal_places=2)]


class NewOrder(BaseModel):
    """The body of a POST. What is bounded here is what metrics may have as labels."""

    model_config = ConfigDict(extra="forbid")

    customer: str = Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")
    amount: Amount
    currency: Currency
    source: Source = "web"


class Order(NewOrder):
    id: int
