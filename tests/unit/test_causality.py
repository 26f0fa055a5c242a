"""Causal tokens on their way, without servers: texts, keys, contexts, the client's hooks."""

import asyncio
import random

import pytest
from httpx import Request, Response

from app.messaging.message import Message, decode
from app.settings import SettingsInvalid, load_settings
from readreplica.context import causality, learn, record_commit, required_token
from readreplica.errors import TokenForged, TokenKeyUnknown, TokenMalformed, TokenUnsigned
from readreplica.httpx import CausalClient
from readreplica.signing import MOST_TOKENS, TOKEN_HEADER, TokenText, parse_keys
from readreplica.token import CausalToken
from readreplica.wal import UNKNOWN_SYSTEM, Lsn, Position

OLD, NEW = "old=" + "o" * 16, "new=" + "n" * 16


def token(cluster: str, lsn: int, *, timeline: int = 1) -> CausalToken:
    return CausalToken({cluster: Position(7, timeline, Lsn(lsn))})


def test_keys_are_rotated_by_putting_a_new_one_first() -> None:
    before, during = TokenText(parse_keys(OLD)), TokenText(parse_keys(f"{NEW}, {OLD}"))
    after = TokenText(parse_keys(NEW))
    old, new = before.write(token("mes_0", 5)), during.write(token("mes_0", 5))
    assert during.read(old) == during.read(new) == after.read(new)
    with pytest.raises(TokenKeyUnknown, match="'old'"):
        after.read(old)
    with pytest.raises(TokenUnsigned):
        after.read(token("mes_0", 5).encode())
    with pytest.raises(TokenForged):
        after.read(new.replace(".5!", ".6!"))


@pytest.mark.parametrize("text", ["k", "k=short", "=" + "x" * 16, f"{OLD},{OLD}"])
def test_keys_that_are_none(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MES_STORAGE_TOPOLOGY", "topology.toml")
    monkeypatch.setenv("MES_STORAGE_TOKEN_KEYS", text)
    with pytest.raises(SettingsInvalid, match="MES_STORAGE_TOKEN_KEYS: ") as caught:
        load_settings()
    assert "o" * 16 not in str(caught.value)


def test_a_header_of_several_tokens_is_merged() -> None:
    text = TokenText(parse_keys(NEW))
    several = ", ".join(text.write(token(*at)) for at in (("mes_0", 5), ("mes_0", 9), ("crm", 2)))
    assert text.read_all(several) == token("mes_0", 9).merge(token("crm", 2))
    with pytest.raises(TokenMalformed, match="more than"):
        text.read_all(",".join([text.write(token("crm", 2))] * (MOST_TOKENS + 1)))


async def test_contexts_do_not_leak() -> None:
    async def request(number: int) -> None:
        with causality(token("mes_0", number)) as here:

            async def child(shard: int) -> None:
                await asyncio.sleep(0)
                record_commit(token(f"mes_{shard}", 1000 + number))

            await asyncio.gather(*(child(shard) for shard in range(1, 4)))
            assert required_token() == here.token
            written = {name: position.lsn for name, position in here.gained.positions.items()}
            assert written == {f"mes_{shard}": 1000 + number for shard in range(1, 4)}
            assert here.token.positions["mes_0"].lsn == number

    await asyncio.gather(*(request(number) for number in range(200)))
    assert required_token() is None
    record_commit(token("mes_0", 1))  # outside of every request: nothing to add it to
    assert required_token() is None


UNKNOWN = CausalToken({"mes_0": Position(UNKNOWN_SYSTEM, 1, Lsn(50))})


async def noted(token: CausalToken) -> None:
    record_commit(token)


async def test_a_commit_of_the_request_comes_after_what_the_request_has_brought() -> None:
    with causality(UNKNOWN) as here:
        learn(token("mes_0", 5))
        assert here.token == UNKNOWN
        assert not here.gained
    with causality(UNKNOWN) as here:
        record_commit(token("mes_0", 60))
        assert here.token == here.gained == token("mes_0", 60)
        # Two tasks of one request commit side by side: neither is known to be the later one.
        await asyncio.gather(noted(UNKNOWN), noted(token("mes_0", 70)))
        assert here.token == UNKNOWN
    with causality(CausalToken()) as here:
        record_commit(UNKNOWN)
        assert here.token == here.gained == UNKNOWN
        record_commit(token("mes_0", 60))
        assert here.token == here.gained == token("mes_0", 60)
    with causality(token("mes_0", 5)) as here:
        learn(UNKNOWN)
        record_commit(token("mes_0", 70))
        assert here.token == here.gained == UNKNOWN


def answer(text: str, *, to: Request | None = None) -> Response:
    return Response(200, headers={TOKEN_HEADER: text}, request=to)


def sent_by(client: CausalClient) -> str | None:
    request = Request("GET", "http://service/")
    client.send_token(request)
    header: str | None = request.headers.get(TOKEN_HEADER)
    return header


def test_the_client_keeps_the_furthest_in_whatever_order_answers_come() -> None:
    text, client = TokenText(parse_keys(NEW)), CausalClient()
    assert sent_by(client) is None
    came = [token(f"mes_{shard}", lsn) for shard in range(3) for lsn in range(20)]
    random.Random(4).shuffle(came)
    for one in came:
        client.keep_token(answer(text.write(one)))
    header = sent_by(client)
    assert header is not None
    assert header.count(",") == 2
    assert {position.lsn for position in text.read_all(header).positions.values()} == {19}


def test_the_client_sends_what_a_header_may_hold() -> None:
    text, client = TokenText(parse_keys(NEW)), CausalClient()
    databases = [f"mes_{number}" for number in range(MOST_TOKENS + 1)]
    for name in databases:
        position = Position(2**63, 1, Lsn(2**40 - 1))
        client.keep_token(answer(text.write(CausalToken({name: position}))))
    header = sent_by(client) or ""
    assert len(header) < 10_000
    sent = text.read_all(header)
    assert [*sent.positions] == databases[:0:-1]  # without the oldest
    # The service answers with all of it as one text, and then there is room for the oldest.
    some = CausalToken(dict([*sent.positions.items()][:50]))
    client.keep_token(answer(text.write(some)))
    assert text.read_all(sent_by(client) or "").positions.keys() == {*databases}

    own = ",".join(text.write(token("crm", lsn)) for lsn in range(MOST_TOKENS - 1))
    request = Request("GET", "http://service/", headers={TOKEN_HEADER: own})
    client.send_token(request)
    assert text.read_all(request.headers[TOKEN_HEADER]).positions.keys() == {"crm", *some.positions}


def test_the_client_gives_a_position_of_no_known_system_up_for_an_answer_to_a_request_with_it() -> None:
    text, client = TokenText(parse_keys(NEW)), CausalClient()
    early, late = Request("GET", "http://service/"), Request("GET", "http://service/")
    client.send_token(early)
    client.keep_token(answer(text.write(UNKNOWN)))
    client.send_token(late)
    # Begun before the commit was acknowledged: it may be of an older commit.
    client.keep_token(answer(text.write(token("mes_0", 60)), to=early))
    assert text.read_all(sent_by(client) or "") == UNKNOWN
    client.keep_token(answer(text.write(token("mes_0", 70)), to=late))
    assert text.read_all(sent_by(client) or "") == token("mes_0", 70)
    client.keep_token(answer(text.write(UNKNOWN)))
    client.keep_token(answer(text.write(token("mes_0", 80)), to=late))
    assert text.read_all(sent_by(client) or "") == UNKNOWN


def test_the_client_forgets_what_is_refused_and_follows_a_failover() -> None:
    text, client = TokenText(parse_keys(NEW)), CausalClient()
    client.keep_token(answer(text.write(token("mes_0", 900, timeline=1))))
    client.keep_token(answer(text.write(token("mes_0", 500, timeline=2))))
    client.keep_token(answer(text.write(token("mes_0", 950, timeline=1))))
    client.keep_token(answer("9~of-a-later-version"))
    assert text.read_all(sent_by(client) or "") == token("mes_0", 500, timeline=2)
    client.keep_token(answer(""))
    assert sent_by(client) is None


def test_a_service_calls_another_in_the_name_of_its_request() -> None:
    text = TokenText(parse_keys(NEW))
    client = CausalClient(text=text)
    with causality(token("crm", 3)) as here:
        assert text.read_all(sent_by(client) or "") == token("crm", 3)
        client.keep_token(answer(text.write(token("mes_0", 8))))
        assert here.gained == token("mes_0", 8)
        client.keep_token(answer(TokenText(parse_keys(OLD)).write(token("mes_1", 8))))
        assert "mes_1" not in here.token.positions
    # Nothing of that request goes along with another's.
    with causality(CausalToken()):
        assert sent_by(client) is None


ENTRY = {
    "id": "8ebc62f4-a16a-45a1-be20-c1f6b0663ae5",
    "source": "mes_0",
    "type": "order.shipped",
    "subject": "17",
    "time": "2026-11-25T00:00:00Z",
    "data": '{"actor": "Rosa"}',
}


def test_a_message_carries_a_token_and_is_none_the_worse_without() -> None:
    def of(**more: str) -> Message:
        return decode({**ENTRY, **more})

    assert of(causaltoken=token("mes_0", 5).encode()).token == token("mes_0", 5)
    assert of().token == of(causaltoken="9~later").token == CausalToken()
