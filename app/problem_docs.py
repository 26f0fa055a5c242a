"""The shape of a problem, and how the OpenAPI documents tell of it."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel, ConfigDict

MEDIA_TYPE = "application/problem+json"


def problem_type(title: str) -> str:
    """Make the `type` of a problem: a name that programs compare, not an address."""
    return f"urn:mes-storage:problem:{title.lower().replace(' ', '-')}"


class Problem(BaseModel):
    """An error, as the client gets it; facts about it may stand beside these fields."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    instance: str


_EXAMPLES: Mapping[int, tuple[str, str]] = {
    400: ("Malformed request", "header Idempotency-Key: Field required"),
    404: ("Unknown order", "there is no order 17: check the id"),
    409: ("Illegal transition", "order 17 is SHIPPED and cannot become PACKAGING"),
    413: ("Model too large", "the model is larger than 20971520 bytes"),
    415: ("Unsupported model type", "'ring.step' is not a 3D model"),
    422: ("Invalid request", "body quantity: Input should be greater than or equal to 1"),
    503: ("Temporarily unavailable", "something that this needs cannot be reached"),
}


def described(status: int) -> dict[str, Any]:
    """Describe an error answer for the OpenAPI document."""
    title, detail = _EXAMPLES[status]
    example = {
        "type": problem_type(title),
        "title": title,
        "status": status,
        "detail": detail,
        "instance": "/v1/orders/17",
    }
    content = {MEDIA_TYPE: {"schema": Problem.model_json_schema(), "example": example}}
    return {"description": HTTPStatus(status).phrase, "content": content}


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe the error answers of an endpoint; 400, 422 and 503 can always come."""
    return {status: described(status) for status in sorted({*statuses, 400, 422, 503})}
