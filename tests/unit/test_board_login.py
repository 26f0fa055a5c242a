"""The board's page of the login: whom it sends where."""

from types import SimpleNamespace

import pytest
from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient

from app.board.pages.entry import files_router


async def shown(*, has_provider: bool, back: str, language: str = "en") -> str:
    app = FastAPI()
    app.include_router(files_router)
    app.state.access = SimpleNamespace(oidc=object() if has_provider else None)
    async with AsyncClient(transport=ASGITransport(app), base_url="https://board") as client:
        answer = await client.get("/login", params={"back": back}, headers={"Accept-Language": language})
    assert answer.status_code == 200
    return answer.text


async def test_the_login_leads_to_the_provider_where_one_is_set() -> None:
    assert "/v1/oidc/login" not in await shown(has_provider=False, back="/work")
    assert "account" in await shown(has_provider=True, back="/work")
    assert "через учётную запись" in await shown(has_provider=True, back="/work", language="ru")


@pytest.mark.parametrize(
    ("back", "to"),
    [
        ("/work?sort=price&all=1", "%2Fwork%3Fsort%3Dprice%26all%3D1"),
        ("//evil.example", "%2F"),
        ("https://evil.example", "%2F"),
        ("/\\evil.example", "%2F"),
        ("/search?q=кольцо", "%2F"),
    ],
)
async def test_it_leads_back_to_a_page_of_ours(back: str, to: str) -> None:
    assert f'href="/v1/oidc/login?to={to}"' in await shown(has_provider=True, back=back)
