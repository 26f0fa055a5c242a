"""What a partner asks the price of without an order: `app.quotes` by HTTP."""

import asyncio
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import Annotated, Literal, Self
from urllib.parse import quote

from fastapi import APIRouter, Depends, Form, Path, Response, UploadFile, status
from pydantic import Field

from app.files import model_name, model_suffix
from app.kit.errors import AppError
from app.kit.problem import Statuses, documented
from app.kit.strict import StrictRoute
from app.mes.public import Api, Partner, PublicApi
from app.models.mes import PartnerQuote
from app.models.reference import Finish, Material
from app.quotes import (
    Asked,
    TooManyQuotes,
    UnknownQuote,
    ask_for_quote,
    find_quote,
    quote_id_of,
    quote_name,
)
from app.schemas import Quantity, View
from readreplica.sessions import WriteSession

ANSWERED_WITHIN_SECONDS = 1.0
"""How long a request waits for the price: a model that was measured before has one in this time."""
_LOOK_SECONDS = 0.1


class ModelOrFile(AppError):
    """A quote is asked for by a model that was uploaded or by a file, and this has both or none."""

    def __init__(self) -> None:
        super().__init__("send a file, or a model that POST /models has given; one of them")


QUOTE_STATUSES: Statuses = {UnknownQuote: 404, ModelOrFile: 422, TooManyQuotes: 429}
"""What they are worth in HTTP."""


class PartnersQuote(View):
    """A price without an order. An order for the same gets it, if it is priced before `valid_until`."""

    quote_id: str = Field(examples=["q_07c1a3f25e9b4d60"])
    state: Literal["waiting", "priced", "refused"]
    model_name: str = Field(examples=["ring.stl"])
    material: Material
    finish: Finish
    quantity: int = Field(examples=[2])
    unit_price: Decimal | None = Field(examples=["206.25"])
    price: Decimal | None = Field(description="Of all pieces.", examples=["412.50"])
    currency: Literal["EUR"] = "EUR"
    valid_until: datetime | None = Field(description="Until when the price is good; null without one.")
    reason: str | None = Field(description="Why there is no price: the model cannot be made.")
    asked_at: datetime

    @classmethod
    def of(cls, quote: PartnerQuote) -> Self:
        """Show a quote."""
        is_priced = quote.price is not None
        return cls(
            quote_id=quote_name(quote.quote_id),
            state="priced" if is_priced else "refused" if quote.answered_at is not None else "waiting",
            model_name=quote.model_name,
            material=Material(quote.material),
            finish=Finish(quote.finish),
            quantity=quote.quantity,
            unit_price=quote.unit_price,
            price=quote.price,
            valid_until=quote.ends_at if is_priced else None,
            reason=quote.reason,
            asked_at=quote.asked_at,
        )


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    material: Material
    finish: Finish
    quantity: int


def _wanted(
    material: Annotated[Material, Form()],
    finish: Annotated[Finish, Form()],
    quantity: Annotated[Quantity, Form()],
) -> _Wanted:
    return _Wanted(material=material, finish=finish, quantity=quantity)


def _model(
    file: UploadFile | None = None,
    model: Annotated[
        str | None,
        Form(
            min_length=1,
            max_length=500,
            pattern=r"^[\x21-\x7e]+$",
            description="What `POST /models` has given, in place of a file.",
            examples=["AYd2Fq..."],
        ),
    ] = None,
) -> UploadFile | str:
    if file is not None and model is None:
        return file
    if model is not None and file is None:
        return model
    raise ModelOrFile


async def _stored(api: PublicApi, partner: str, file: UploadFile | str) -> tuple[str, str]:
    """Return the key and the name of the model, which is stored by then."""
    if isinstance(file, str):
        return await api.model_of(partner, file)
    name = model_name(file.filename or "")
    stored = await api.models.put(file, model_suffix(name), api.intake.max_upload_bytes)
    return stored.key, name


async def _ask(api: PublicApi, asked: Asked, name: str) -> PartnersQuote:
    """Have a quote made, and wait a moment for its price."""

    async def ask(session: WriteSession) -> PartnersQuote:
        return PartnersQuote.of(await ask_for_quote(session, asked, model_name=name, now=api.now()))

    shown = (await api.sessions.transact(asked.quote_id, ask)).value
    loop = asyncio.get_running_loop()
    ends = loop.time() + ANSWERED_WITHIN_SECONDS
    while shown.state == "waiting" and loop.time() < ends:
        await asyncio.sleep(_LOOK_SECONDS)
        shown = await _find(api, asked.partner, asked.quote_id) or shown
    return shown


async def _find(api: PublicApi, partner: str, quote_id: int) -> PartnersQuote | None:
    # Of the primary: who asks again wants to see what has changed since.
    find = partial(find_quote, quote_id=quote_id, now=api.now())
    found = (await api.sessions.transact(quote_id, find)).value
    return PartnersQuote.of(found) if found is not None and found.partner == partner else None


router = APIRouter(prefix="/v1/partners/{partner}", tags=["partners"], route_class=StrictRoute)
QuoteName = Annotated[
    str, Path(pattern="^q_[0-7][0-9a-f]{15}$", description="`quote_id`.", examples=["q_07c1a3f25e9b4d60"])
]


@router.post(
    "/quotes",
    responses={
        202: {
            "model": PartnersQuote,
            "description": "Its model is measured; `Location` is where the price will be.",
        },
        **documented(404, 413, 415, 429),
    },
)
async def ask_for_partners_quote(
    api: Api,
    partner: Partner,
    wanted: Annotated[_Wanted, Depends(_wanted)],
    model: Annotated[UploadFile | str, Depends(_model)],
    response: Response,
) -> PartnersQuote:
    """Ask for the price of a model, and order nothing. Who asks the same again gets the same quote."""
    model_key, name = await _stored(api, partner, model)
    asked = Asked(
        partner=partner,
        model_key=model_key,
        material=wanted.material,
        finish=wanted.finish,
        quantity=wanted.quantity,
    )
    shown = await _ask(api, asked, name)
    if shown.state == "waiting":
        response.status_code = status.HTTP_202_ACCEPTED
        response.headers["Location"] = f"/v1/partners/{quote(partner)}/quotes/{shown.quote_id}"
        response.headers["Retry-After"] = "1"
    return shown


@router.get("/quotes/{quote_id}", responses=documented(404))
async def show_partners_quote(api: Api, partner: Partner, quote_id: QuoteName) -> PartnersQuote:
    """Show a quote of yours, until it ends."""
    shown = await _find(api, partner, quote_id_of(quote_id))
    if shown is None:
        raise UnknownQuote(quote_id)
    return shown
