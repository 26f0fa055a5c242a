"""What partners do beside ordering: list and show orders, order many at once, and hear of them by webhooks.

All routes stand below `/v1/partners/{partner}`, where `app.access` lets a partner in by its own name only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Annotated, Any, Literal, Self
from uuid import uuid4

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response, UploadFile, status
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, WithJsonSchema, field_validator
from pydantic_core import PydanticCustomError

from app.files import ModelStore, Upload, model_name, model_suffix
from app.flow.places import Places
from app.kit.caller import current_caller
from app.kit.clock import Clock
from app.kit.errors import AppError
from app.kit.etags import etag_of, is_known
from app.kit.problem import content_of, documented
from app.kit.strict import ANSWER_HEADERS, LimitsCallers, StrictRoute
from app.mes import repository
from app.mes.errors import IntakeFull, UnknownModel
from app.mes.intake import IntakeState, PartnerIntake, shown_waiting
from app.mes.outgoing import SendingFailed, WebhookSender
from app.mes.schemas import (
    PartnerOrder,
    PartnerOrderView,
    PartnersOrder,
    PartnersOrderDetail,
    PartnersOrderPage,
)
from app.mes.webhook_endpoints import Endpoints, KnownEndpoint, replay
from app.mes.webhooks import TEST_TYPE, body_of, send
from app.models.mes import Intake, MesOrderColumns
from app.models.reference import Finish, Material
from app.models.status import Status
from app.orders import IdempotencyKeyReused, UnknownOrder
from app.partner_events import TYPES
from app.schemas import (
    AFTER_TOKEN,
    Line,
    OrderIdPath,
    PageCursor,
    PageLimit,
    Quantity,
    Reference,
    View,
)
from sharding.errors import CursorMalformed
from sharding.scatter import CursorKeys
from sharding.sessions import ShardedSessions

MOST_ORDERS = 20
"""How many orders one request may make."""

REPLAY_DAYS = 7
_MODEL = b"model upload"


class UploadedModel(View):
    """A model that orders may name for as long as it is kept, which is a day at least."""

    model: str = Field(description="What an order names it by; only yours may.", examples=["AYd2Fq..."])
    name: str = Field(examples=["ring.stl"])
    size_bytes: int = Field(examples=[482_084])


class BatchOrder(BaseModel):
    """One of many orders, with an Idempotency-Key of its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    idempotency_key: str = Field(
        min_length=1, max_length=200, pattern=r"^[\x20-\x7e]+$", examples=["po-1017-1"]
    )
    model: str = Field(min_length=1, max_length=500, pattern=r"^[\x21-\x7e]+$", examples=["AYd2Fq..."])
    material: Material
    finish: Finish
    quantity: Quantity
    reference: Reference | None = Field(default=None, examples=["PO-1017"])


class Batch(BaseModel):
    """Many orders."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    orders: list[BatchOrder] = Field(min_length=1, max_length=MOST_ORDERS)

    @field_validator("orders")
    @classmethod
    def _has_each_key_once(cls, orders: list[BatchOrder]) -> list[BatchOrder]:
        if len({order.idempotency_key for order in orders}) < len(orders):
            raise PydanticCustomError("repeated_key", "each order has an idempotency_key of its own")
        return orders


class BatchResult(View):
    """What became of one order: as if it had come alone."""

    status: int = Field(description="202: taken in; 200: made before; else its problem.", examples=[202])
    order: PartnerOrderView | None = None
    problem: dict[str, Any] | None = None


class BatchResults(View):
    """What became of each order, in the order in which they came."""

    results: list[BatchResult]


EventType = Annotated[str, WithJsonSchema({"type": "string", "enum": list(TYPES)})]
"""The name of an event; what is none is refused by the name."""


class NewWebhook(BaseModel):
    """Where to send events, and which; none are all."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str = Field(min_length=1, max_length=2000, examples=["https://erp.example.com/hooks/orders"])
    events: list[EventType] = Field(default=[], max_length=len(TYPES), examples=[["order.price_calculated"]])

    @field_validator("events")
    @classmethod
    def _are_known(cls, events: list[str]) -> list[str]:
        if unknown := sorted(set(events) - set(TYPES)):
            raise PydanticCustomError(
                "unknown_event",
                "there is no event {unknown}, but {known}",
                {"unknown": unknown[0][:60], "known": ", ".join(TYPES)},
            )
        return events


class WebhookView(View):
    """An endpoint. `disabled_reason` says why nothing is sent there any more."""

    webhook_id: str = Field(examples=["wh_6sJq0c1Qv0m3n8X1yR2aFw"])
    url: str
    events: list[str] = Field(description="None are all.")
    created_at: datetime
    failing_since: datetime | None = Field(description="Nothing has come through since; null while it does.")
    last_error: str | None
    disabled_at: datetime | None
    disabled_reason: str | None

    @classmethod
    def of(cls, endpoint: KnownEndpoint) -> Self:
        """Show an endpoint."""
        return cls(webhook_id=endpoint.endpoint_id, **_fields_of(endpoint))


class MadeWebhook(WebhookView):
    """A new endpoint. Its secret is shown this once."""

    secret: str = Field(
        description="Verifies the signature.", examples=["whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"]
    )

    @classmethod
    def of(cls, endpoint: KnownEndpoint) -> Self:
        """Show a new endpoint."""
        return cls(webhook_id=endpoint.endpoint_id, secret=endpoint.secret, **_fields_of(endpoint))


def _fields_of(endpoint: KnownEndpoint) -> dict[str, Any]:
    shown = {name: getattr(endpoint, name) for name in WebhookView.model_fields if name != "webhook_id"}
    return {**shown, "events": list(endpoint.events)}


class Webhooks(View):
    """The endpoints of a partner."""

    webhooks: list[WebhookView]


class WebhookTested(View):
    """Whether a test event came through; if it did, the endpoint is enabled."""

    delivered: bool
    status: int | None = Field(description="By which it was answered.", examples=[204])
    error: str | None


class WebhookReplayed(View):
    """How many events are sent again."""

    events: int
    next_since: datetime | None = Field(description="From where to ask again, if there are more.")


@dataclass(frozen=True, kw_only=True)
class OrderFilter:
    """Which orders of a partner are listed; None is any."""

    status: Status | None = None
    reference: str | None = None
    is_archived: bool = False


@dataclass(frozen=True, kw_only=True)
class PublicApi:
    """What the routes of partners work with."""

    sessions: ShardedSessions
    intake: PartnerIntake
    state: IntakeState
    places: Places
    models: ModelStore
    keys: CursorKeys
    endpoints: Endpoints
    sender: WebhookSender
    now: Clock

    async def page(
        self, partner: str, which: OrderFilter, *, limit: int, cursor: str | None
    ) -> PartnersOrderPage:
        """Read a page of a partner's orders over all shards, newest first."""
        orders = repository.orders_of_partner(
            partner, status=which.status, reference=which.reference, is_archived=which.is_archived
        )
        rows, following = await repository.read_page(
            self.sessions, orders, limit=limit, cursor=cursor, keys=self.keys
        )
        return PartnersOrderPage(orders=list(map(PartnersOrder.model_validate, rows)), next_cursor=following)

    async def show(self, partner: str, order_id: int) -> PartnersOrderDetail:
        """Read an order of a partner, waiting, live or archived.

        Raises:
            UnknownOrder: there is none; another partner's is as none.
        """
        async with self.sessions.read(order_id) as session:
            # The intake first: what is placed between the two statements is found by the second.
            waiting = await session.get(Intake, order_id)
            if waiting is not None and waiting.partner == partner:
                shown = await shown_waiting(session, waiting, self.state)
                return PartnersOrderDetail.of_waiting(waiting, shown)
            found = await repository.find_all(session, order_id)
        _check_owner(partner, found.order)
        pricing = await self.places.of(found.order)
        return PartnersOrderDetail.of(found.order, found.items, found.events, pricing=pricing)

    async def upload(self, partner: str, file: Upload, *, max_bytes: int) -> UploadedModel:
        """Store a model, and return what the partner's orders name it by.

        Raises:
            UnsupportedModelType, ModelTooLarge, ContentMismatch: and nothing is stored.
        """
        name = model_name(file.filename or "")
        stored = await self.models.put(file, model_suffix(name), max_bytes)
        return UploadedModel(
            model=self.keys.seal(_bound_to(partner), [stored.key, name]), name=name, size_bytes=stored.size
        )

    async def submit(self, partner: str, batch: Batch, *, instance: str) -> BatchResults:
        """Take orders in, one after the other; what is refused of one does not touch the others."""
        return BatchResults(results=[await self._submit(partner, each, instance) for each in batch.orders])

    async def _submit(self, partner: str, wanted: BatchOrder, instance: str) -> BatchResult:
        asked = wanted.model_dump(include={"material", "finish", "quantity", "reference"})
        try:
            model_key, name = await self.model_of(partner, wanted.model)
            request = PartnerOrder(partner=partner, **asked)
            taken = await self.intake.submit_stored(request, model_key, name, key=wanted.idempotency_key)
        except tuple(_OF_ONE) as error:
            code = _OF_ONE[type(error)]
            return BatchResult(status=code, problem=content_of(error, code, instance))
        return BatchResult(status=202 if taken.created else 200, order=taken.order)

    async def model_of(self, partner: str, text: str) -> tuple[str, str]:
        """Return the key and the name of a model that the partner has uploaded.

        Raises:
            UnknownModel: there is none, or it is another's.
        """
        try:
            model_key, name = self.keys.open(text, _bound_to(partner))
        except CursorMalformed:
            raise UnknownModel(text) from None
        if not await self.models.has(model_key):
            raise UnknownModel(text)
        return model_key, name

    async def test(self, partner: str, webhook_id: str) -> WebhookTested:
        """Send a test event now, and enable the endpoint if it comes through.

        Raises:
            UnknownWebhook: the partner has none of this id.
        """
        endpoint = await self.endpoints.find(partner, webhook_id)
        body = body_of(TEST_TYPE, self.now(), {"webhook_id": webhook_id})
        try:
            answer = await send(self.sender, endpoint, event_id=str(uuid4()), body=body)
        except SendingFailed as error:
            return WebhookTested(delivered=False, status=error.status, error=str(error))
        await self.endpoints.note_success(webhook_id)
        return WebhookTested(delivered=True, status=answer, error=None)

    async def replay(self, partner: str, webhook_id: str, since: datetime) -> WebhookReplayed:
        """Send what has happened since a moment again.

        Raises:
            UnknownWebhook: the partner has none of this id.
        """
        endpoint = await self.endpoints.find(partner, webhook_id)
        earliest = self.now() - timedelta(days=REPLAY_DAYS)
        again = await replay(self.sessions, endpoint, since=max(since, earliest))
        return WebhookReplayed(events=again.events, next_since=again.next_since)


_OF_ONE: dict[type[AppError], int] = {UnknownModel: 422, IdempotencyKeyReused: 422, IntakeFull: 429}
"""What is a matter of one order among many, by its status; anything else ends the request."""


def _bound_to(partner: str) -> bytes:
    """Return what a model's text is sealed with, so that no other partner can order by it."""
    return sha256(_MODEL + partner.encode()).digest()[:12]


def _check_owner(partner: str, order: MesOrderColumns) -> None:
    """Refuse an order of another than the path names: an admin sees all, and below each path its own."""
    if order.partner != partner:
        raise UnknownOrder(order.order_id)


router = APIRouter(prefix="/v1/partners/{partner}", tags=["partners"], route_class=StrictRoute)


def _api(request: Request) -> PublicApi:
    api: PublicApi = request.app.state.parts.public
    return api


Api = Annotated[PublicApi, Depends(_api)]
Partner = Annotated[Line, Path(description="The partner's name.", examples=["atelier-nord"])]
WebhookId = Annotated[
    str, Path(max_length=40, pattern=r"^wh_[\w-]{1,36}$", examples=["wh_6sJq0c1Qv0m3n8X1yR2aFw"])
]


def _order_filter(
    wanted: Annotated[Status | None, Query(alias="status", description="Only those in this status.")] = None,
    reference: Annotated[Reference | None, Query(description="Only those of this reference.")] = None,
    archived: Annotated[
        Literal["true", "false"], Query(description="Those that ended more than 30 days ago, instead.")
    ] = "false",
) -> OrderFilter:
    return OrderFilter(status=wanted, reference=reference, is_archived=archived == "true")


@router.get("/orders", responses=documented(404), dependencies=[AFTER_TOKEN])
async def list_partners_orders(
    api: Api,
    partner: Partner,
    which: Annotated[OrderFilter, Depends(_order_filter)],
    limit: PageLimit = 50,
    cursor: PageCursor = None,
) -> PartnersOrderPage:
    """List your orders, newest first. One that waits to be placed is not on it yet, but shown by its id."""
    return await api.page(partner, which, limit=limit, cursor=cursor)


@router.get(
    "/orders/{order_id}",
    response_model=PartnersOrderDetail,
    responses={304: {"description": "It is as `If-None-Match` has it."}, **documented(404)},
    dependencies=[AFTER_TOKEN],
)
async def show_partners_order(
    api: Api,
    partner: Partner,
    order_id: OrderIdPath,
    known: Annotated[
        str | None,
        Header(alias="If-None-Match", max_length=1000, description="The `ETag` of an answer before."),
    ] = None,
) -> Response:
    """Show an order of yours from the first moment on, with its price, its history and where it waits."""
    content = (await api.show(partner, order_id)).model_dump_json()
    tag = etag_of(content)
    headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
    if known is not None and is_known(known, tag):
        return Response(status_code=status.HTTP_304_NOT_MODIFIED, headers=headers)
    return Response(content, media_type="application/json", headers=headers)


@router.post("/models", status_code=status.HTTP_201_CREATED, responses=documented(404, 413, 415))
async def upload_model(api: Api, partner: Partner, file: UploadFile) -> UploadedModel:
    """Upload a 3D model that several orders may name, an STL, 3MF or OBJ file."""
    return await api.upload(partner, file, max_bytes=api.intake.max_upload_bytes)


@router.post("/orders/batch", status_code=status.HTTP_207_MULTI_STATUS, responses=documented(404, 413))
async def submit_orders(api: Api, partner: Partner, body: Batch, request: Request) -> BatchResults:
    """Order up to 20 times, by models that were uploaded before. Each is taken or refused by itself."""
    limits: LimitsCallers = request.app.state.limits
    request.scope[ANSWER_HEADERS].update(await limits.take_orders(current_caller(), len(body.orders)))
    return await api.submit(partner, body, instance=request.url.path)


@router.post("/webhooks", status_code=status.HTTP_201_CREATED, responses=documented(404, 409))
async def create_webhook(api: Api, partner: Partner, body: NewWebhook) -> MadeWebhook:
    """Have events of your orders sent to a URL. The secret that signs them is shown this once."""
    return MadeWebhook.of(await api.endpoints.create(partner, body.url, body.events))


@router.get("/webhooks", responses=documented(404))
async def list_webhooks(api: Api, partner: Partner) -> Webhooks:
    """List your webhooks, with how well they do."""
    endpoints: Sequence[KnownEndpoint] = await api.endpoints.list(partner)
    return Webhooks(webhooks=[WebhookView.of(each) for each in endpoints])


@router.delete("/webhooks/{webhook_id}", status_code=status.HTTP_204_NO_CONTENT, responses=documented(404))
async def delete_webhook(api: Api, partner: Partner, webhook_id: WebhookId) -> None:
    """Delete a webhook. What is owed to it is not sent any more."""
    await api.endpoints.delete(partner, webhook_id)


@router.post("/webhooks/{webhook_id}/test", responses=documented(404))
async def test_webhook(api: Api, partner: Partner, webhook_id: WebhookId) -> WebhookTested:
    """Send a test event to a webhook now. If it comes through, a disabled webhook is enabled."""
    return await api.test(partner, webhook_id)


@router.post("/webhooks/{webhook_id}/replay", status_code=status.HTTP_202_ACCEPTED, responses=documented(404))
async def replay_webhook(
    api: Api,
    partner: Partner,
    webhook_id: WebhookId,
    since: Annotated[
        AwareDatetime, Query(description="At most 7 days ago.", examples=["2026-12-01T00:00:00Z"])
    ],
) -> WebhookReplayed:
    """Send the events since a moment again, with their ids of then."""
    return await api.replay(partner, webhook_id, since)
