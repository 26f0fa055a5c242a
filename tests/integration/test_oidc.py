"""Staff log in at a real OpenID provider, npm's oidc-provider, with a browser's cookies."""

import asyncio
import json
import re
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient, AsyncHTTPTransport, Response
from joserfc.jwk import RSAKey
from pydantic import SecretStr

from app.access import identities
from app.access.endpoints import LOGIN_COOKIE
from app.access.enforce import COOKIE, Access
from app.access.oidc import AGAIN_SECONDS, SessionEnd
from app.crm.application import build
from app.kit.caller import Door, Role
from app.settings import Settings
from ops.ports import PortPicker
from readreplica.cluster import Cluster
from sharding.engines import open_cluster
from sharding.topology import Topology
from tests.integration.services_rig import client_of, fast_settings, ok, problem, save_map
from tests.needs import require
from tests.once import made_once

FILES = Path(__file__).parents[1] / "oidc"
CRM, PROXY = "https://crm.test", "127.0.0.1"
CALLBACK = f"{CRM}/v1/oidc/callback"
SECRET = "what the provider and the CRM know"


@dataclass
class Provider:
    """The provider, as a process that can be stopped and started with other keys."""

    folder: Path
    port: int
    ended_port: int
    process: subprocess.Popen[str] | None = None

    @property
    def issuer(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, *keys: Any) -> None:
        client = {
            "client_id": "crm",
            "client_secret": SECRET,
            "redirect_uris": [CALLBACK],
            "backchannel_logout_uri": f"http://127.0.0.1:{self.ended_port}/",
            "backchannel_logout_session_required": True,
        }
        jwks = {"keys": [key.as_dict(private=True) for key in keys]}
        config = {"issuer": self.issuer, "port": self.port, "client": client, "jwks": jwks}
        self.process = subprocess.Popen(
            ["node", "provider.mjs", json.dumps(config)],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


def install(folder: Path) -> None:
    for path in FILES.iterdir():
        if path.is_file():
            shutil.copy(path, folder)
    words = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
    subprocess.run(words, cwd=folder, check=True, capture_output=True, timeout=120)


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Provider]:
    require("npm")
    ports = PortPicker(Random())
    found = Provider(made_once(tmp_path_factory, "oidc", install), ports.pick(), ports.pick())
    found.start(RSAKey.generate_key(2048, {"kid": "first", "use": "sig", "alg": "RS256"}))
    yield found
    found.stop()


@dataclass
class Login:
    """The CRM, the provider that it knows, and the directory."""

    app: FastAPI
    provider: Provider
    directory: Cluster

    @asynccontextmanager
    async def browser(self) -> AsyncIterator[AsyncClient]:
        """Give a browser that goes to the CRM by the door of staff, and to the provider."""
        crm = ASGITransport(self.app, raise_app_exceptions=False, client=(PROXY, 4711))
        async with AsyncClient(
            mounts={CRM: crm, "http://": AsyncHTTPTransport()},
            headers={"X-Gateway-Door": Door.STAFF.value},
            follow_redirects=True,
        ) as browser:
            yield browser

    async def refresh(self) -> None:
        access: Access = self.app.state.access
        await access.registry.refresh()

    async def linked(self, name: str, subject: str) -> None:
        async def work(session: Any) -> None:
            await identities.create(session, name, Role.SELLER, by="test")
            await identities.link_subject(session, name, self.provider.issuer, subject)

        await self.directory.transact(work)
        await self.refresh()


def oidc_settings(topology: Topology, issuer: str) -> Settings:
    changes = {
        "trusted_proxies": PROXY,
        "oidc_issuer": issuer,
        "oidc_client_id": "crm",
        "oidc_client_secret": SecretStr(SECRET),
        "oidc_callback": CALLBACK.replace("crm", "{service}", 1),
    }
    return fast_settings(topology).model_copy(update=changes)


@pytest.fixture(scope="module")
async def login(module_topology: Topology, provider: Provider) -> AsyncIterator[Login]:
    await save_map(module_topology)
    app = build(oidc_settings(module_topology, provider.issuer), module_topology)
    async with (
        client_of(app),
        open_cluster(
            module_topology, "directory", role="directory_owner", application_name="test"
        ) as directory,
    ):
        found = Login(app, provider, directory)
        await found.refresh()
        yield found


async def log_in(browser: AsyncClient, who: str, *, to: str = "/") -> Response:
    """Go the whole way as somebody; return what the CRM answers at its end."""
    return await consent(browser, await identify(browser, who, to=to))


async def identify(browser: AsyncClient, who: str, *, to: str = "/") -> Response:
    """Go to the provider, and say there who one is; return its next page."""
    page = await browser.get(f"{CRM}/v1/oidc/login", params={"to": to})
    assert "/interaction/" in page.url.path, page.text
    return await browser.post(page.url, data={"prompt": "login", "login": who, "password": "x"})


async def consent(browser: AsyncClient, page: Response) -> Response:
    """Let the provider go on to the CRM."""
    assert "/interaction/" in page.url.path, page.text
    return await browser.post(page.url, data={"prompt": "consent"})


async def test_who_is_linked_logs_in_and_no_one_else(login: Login) -> None:
    async with login.browser() as browser:
        stranger = problem(await log_in(browser, "eve"), 403)
        assert stranger["type"].endswith(":oidc-unlinked")
        assert (stranger["issuer"], stranger["subject"]) == (login.provider.issuer, "eve")
        assert COOKIE not in browser.cookies
    await login.linked("Sara", "sara-at-work")
    async with login.browser() as browser:
        problem(await browser.get(f"{CRM}/v1/orders"), 401)
        answer = await log_in(browser, "sara-at-work", to="/v1/orders?a=1&b=2")
        assert answer.status_code == 200
        assert 'url=/v1/orders?a=1&amp;b=2"' in answer.text
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        said = [line for line in answer.headers.get_list("Set-Cookie") if line.startswith(COOKIE)]
        assert all(word in said[0] for word in ("HttpOnly", "Secure", "SameSite=strict", "Path=/"))
        assert LOGIN_COOKIE not in browser.cookies
        ok(await browser.get(f"{CRM}/v1/orders"))
        # Whose link is removed is out within a second, like who is revoked.
        await login.directory.transact(partial(identities.unlink_subjects, name="Sara"))
        await login.refresh()
        problem(await browser.get(f"{CRM}/v1/orders"), 401)
        # And what has ended is no hindrance to log in again.
        assert (await log_in_again(browser)).json()["type"].endswith(":oidc-unlinked")


async def log_in_again(browser: AsyncClient) -> Response:
    """Go the way of one whom the provider knows already: it asks nothing."""
    return await browser.get(f"{CRM}/v1/oidc/login")


async def test_a_code_is_good_once_and_for_the_browser_that_asked(login: Login) -> None:
    await login.linked("Olga", "olga")
    async with login.browser() as browser, login.browser() as other:
        answer = await log_in(browser, "olga")
        # What the browser had on the way: the cookie of this login, and the address with the code.
        sent = answer.request.headers["Cookie"]
        address = str(answer.request.url)
        assert answer.status_code == 200
        again = problem(await other.get(address, headers={"Cookie": sent}), 401)
        assert (again["type"].rpartition(":")[2], again["error"]) == ("oidc-refused", "invalid_grant")
        assert COOKIE not in other.cookies
        # Another's browser did not begin it, and a page that sends it there logs in no one.
        stolen = problem(await other.get(address), 400)
        assert stolen["type"].endswith(":oidc-state-wrong")
        changed = re.sub("state=..", "state=AA", address)
        problem(await other.get(changed, headers={"Cookie": sent}), 400)
        # The cookie of a login opens nothing by itself.
        token = sent.partition(f"{LOGIN_COOKIE}=")[2].partition(";")[0]
        problem(await other.get(f"{CRM}/v1/orders", headers={"Authorization": f"Bearer {token}"}), 401)
        problem(await other.get(f"{CRM}/v1/orders", headers={"Cookie": f"{COOKIE}={token}"}), 401)


async def test_who_turns_back_at_the_provider_is_answered(login: Login) -> None:
    async with login.browser() as browser:
        page = await browser.get(f"{CRM}/v1/oidc/login")
        answer = problem(await browser.get(f"{page.url}/abort"), 401)
        assert (answer["type"].rpartition(":")[2], answer["error"]) == ("oidc-refused", "access_denied")


async def test_who_logs_out_at_the_provider_is_logged_out_here_and_no_one_else(login: Login) -> None:
    await login.linked("Vera", "vera")
    async with login.browser() as here, login.browser() as there, login.browser() as stranger:
        for browser in (here, there):
            assert (await log_in(browser, "vera")).status_code == 200
            ok(await browser.get(f"{CRM}/v1/orders"))
        sent = await logged_out(login.provider, here)
        forged = {"logout_token": sent["logout_token"][:-4] + "AAAA"}
        wrong = problem(await stranger.post(f"{CRM}/v1/oidc/logout", data=forged), 400)
        assert wrong["type"].endswith(":oidc-logout-wrong")
        ok(await here.get(f"{CRM}/v1/orders"))
        # Fields that are not known are ignored, as the standard asks.
        answer = await stranger.post(f"{CRM}/v1/oidc/logout", data={**sent, "later": "field"})
        assert (answer.status_code, answer.headers["Cache-Control"]) == (200, "no-store")
        problem(await here.get(f"{CRM}/v1/orders"), 401)
        ok(await there.get(f"{CRM}/v1/orders"))
        # A token that is sent again ends nothing that has begun since.
        assert (await log_in(here, "vera")).status_code == 200
        assert (await stranger.post(f"{CRM}/v1/oidc/logout", data=sent)).status_code == 200
        ok(await here.get(f"{CRM}/v1/orders"))
        # Without a session all of the person's end, in every process: each looks at the directory.
        access: Access = login.app.state.access
        ending = SessionEnd("all", "vera", None)
        issuer = login.provider.issuer
        await login.directory.transact(partial(identities.end_session, issuer=issuer, ended=ending))
        await access.registry.refresh()
        for browser in (here, there):
            problem(await browser.get(f"{CRM}/v1/orders"), 401)


async def logged_out(provider: Provider, browser: AsyncClient) -> dict[str, str]:
    """Log out at the provider; return what it sends to the CRM."""
    sent: asyncio.Queue[bytes] = asyncio.Queue()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        sent.put_nowait(await reader.readexactly(int(head.partition("content-length: ")[2].split()[0])))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(take, "127.0.0.1", provider.ended_port):
        page = await browser.get(f"{provider.issuer}/session/end")
        found = re.search(r'name="xsrf" value="([^"]+)"', page.text)
        assert found is not None, page.text
        form = {"xsrf": found[1], "logout": "yes"}
        await browser.post(f"{provider.issuer}/session/end/confirm", data=form)
        return dict(parse_qsl((await asyncio.wait_for(sent.get(), 15)).decode()))


async def test_the_providers_keys_are_rotated_while_the_service_runs(login: Login) -> None:
    await login.linked("Nora", "nora")
    async with login.browser() as browser:
        assert (await log_in(browser, "nora")).status_code == 200
    login.provider.stop()
    oidc = login.app.state.access.oidc
    oidc._clock = lambda: time.monotonic() + AGAIN_SECONDS
    try:
        login.provider.start(RSAKey.generate_key(2048, {"kid": "second", "use": "sig", "alg": "RS256"}))
        async with login.browser() as browser:
            assert (await log_in(browser, "nora")).status_code == 200
    finally:
        oidc._clock = time.monotonic


async def test_a_provider_that_is_away_is_503_and_local_login_goes_on(
    login: Login, module_topology: Topology
) -> None:
    async with login.browser() as browser:
        page = await identify(browser, "nora")
        # Where the provider would send the browser; it is away when the CRM asks it.
        browser.follow_redirects = False
        answer = await browser.post(page.url, data={"prompt": "consent"})
        while urlsplit(answer.headers["Location"]).netloc != "crm.test":
            answer = await browser.get(answer.headers["Location"])
        with stopped(login.provider):
            refused = await browser.get(answer.headers["Location"])
            problem(refused, 503)
            assert int(refused.headers["Retry-After"]) > 0
            app = build(oidc_settings(module_topology, login.provider.issuer), module_topology)
            fresh = Login(app, login.provider, login.directory)
            async with client_of(app), fresh.browser() as other:
                await fresh.refresh()
                problem(await other.get(f"{CRM}/v1/oidc/login"), 503)
                problem(await other.post(f"{CRM}/v1/login", json={"name": "Nora", "password": "x"}), 401)


@contextmanager
def stopped(provider: Provider) -> Iterator[None]:
    provider.stop()
    try:
        yield
    finally:
        provider.start(RSAKey.generate_key(2048, {"kid": "third", "use": "sig", "alg": "RS256"}))


@pytest.mark.parametrize(
    "to", ["https://evil.example", "//evil.example", "/\\evil.example", "x", "/a\nb", ""]
)
async def test_the_way_on_stays_in_the_house(login: Login, to: str) -> None:
    async with login.browser() as browser:
        problem(await browser.get(f"{CRM}/v1/oidc/login", params={"to": to}), 422)


async def test_at_other_doors_no_one_logs_in(login: Login) -> None:
    async with login.browser() as browser:
        for door in (Door.EXTERNAL, Door.CUSTOMER):
            browser.headers["X-Gateway-Door"] = door.value
            problem(await browser.get(f"{CRM}/v1/oidc/login"), 401)
