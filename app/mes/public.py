"""What partners do beside ordering: list and show orders, order many at once, and hear of them by webhooks.

All routes stand below `/v1/partners/{partner}`, where `app.access` lets a partner in by its own name only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Annotated, Literal
from uuid import uuid4

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response, UploadFile, status
from pydantic import AwareDatetime

from app.files import ModelStore, Upload, model_name, model_suffix
from app.flow.places import Places
from app.kit.clock import Clock
from app.kit.errors import AppError
from app.kit.problem import content_of, documented
from app.kit.strict import StrictRoute
from app.mes import repository
from app.mes.errors import IntakeFull, UnknownModel
from app.mes.intake import IntakeState, PartnerIntake, shown_waiting
from app.mes.outgoing import SendingFailed, WebhookSender
from app.mes.public_schemas import (
    Batch,
    BatchOrder,
    BatchResult,
    BatchResults,
    MadeWebhook,
    NewWebhook,
    PartnersOrder,
    PartnersOrderDetail,
    PartnersOrderPage,
    UploadedModel,
    WebhookReplayed,
    Webhooks,
    WebhookTested,
    WebhookView,
)
from app.mes.schemas import PartnerOrder
from app.mes.webhooks import TEST_TYPE, Endpoints, WebhookTarget, body_of, replay, send
from app.models.mes import Intake, MesOrderColumns
from app.models.status import Status
from app.orders import IdempotencyKeyReused, UnknownOrder
from app.schemas import (
    AFTER_TOKEN,
    Line,
    OrderIdPath,
    PageCursor,
    PageLimit,
    Reference,
)
from sharding.errors import CursorMalformed
from sharding.scatter import CursorKeys
from sharding.sessions import ShardedSessions

REPLAY_DAYS = 7
_MODEL = b"model upload"


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
        names = orders.selected_columns.keys()
        page = await self.sessions.scatter(orders, limit=limit, cursor=cursor, keys=self.keys)
        shown = [PartnersOrder.model_validate(dict(zip(names, row, strict=True))) for row in page.rows]
        return PartnersOrderPage(orders=shown, next_cursor=page.next_cursor)

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
        return PartnersOrderDetail.of(found, pricing=await self.places.of(found.order))

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
            model_key, name = await self._model_of(partner, wanted.model)
            request = PartnerOrder(partner=partner, **asked)
            taken = await self.intake.submit_stored(request, model_key, name, key=wanted.idempotency_key)
        except tuple(_OF_ONE) as error:
            code = _OF_ONE[type(error)]
            return BatchResult(status=code, problem=content_of(error, code, instance))
        return BatchResult(status=202 if taken.created else 200, order=taken.order)

    async def _model_of(self, partner: str, text: str) -> tuple[str, str]:
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
    tag = f'"{sha256(content.encode()).hexdigest()[:32]}"'
    headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
    if known is not None and _matches(known, tag):
        return Response(status_code=status.HTTP_304_NOT_MODIFIED, headers=headers)
    return Response(content, media_type="application/json", headers=headers)


def _matches(known: str, tag: str) -> bool:
    """Return whether `If-None-Match` names a tag, by the weak comparison of RFC 9110."""
    names = [each.strip().removeprefix("W/") for each in known.split(",")]
    return "*" in names or tag in names


@router.post("/models", status_code=status.HTTP_201_CREATED, responses=documented(404, 413, 415))
async def upload_model(api: Api, partner: Partner, file: UploadFile) -> UploadedModel:
    """Upload a 3D model that several orders may name, an STL, 3MF or OBJ file."""
    return await api.upload(partner, file, max_bytes=api.intake.max_upload_bytes)


@router.post("/orders/batch", status_code=status.HTTP_207_MULTI_STATUS, responses=documented(404, 413))
async def submit_orders(api: Api, partner: Partner, body: Batch, request: Request) -> BatchResults:
    """Order up to 20 times, by models that were uploaded before. Each is taken or refused by itself."""
    return await api.submit(partner, body, instance=request.url.path)


@router.post("/webhooks", status_code=status.HTTP_201_CREATED, responses=documented(404, 409))
async def create_webhook(api: Api, partner: Partner, body: NewWebhook) -> MadeWebhook:
    """Have events of your orders sent to a URL. The secret that signs them is shown this once."""
    return MadeWebhook.of(await api.endpoints.create(partner, body.url, body.events))


@router.get("/webhooks", responses=documented(404))
async def list_webhooks(api: Api, partner: Partner) -> Webhooks:
    """List your webhooks, with how well they do."""
    endpoints: Sequence[WebhookTarget] = await api.endpoints.list(partner)
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
