"""Taken for a message or an acknowledgement is only what a service of ours has signed for that stream."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from app.messaging.errors import (
    EntryForged,
    EntryMisdirected,
    EntryRefused,
    EntryUnsigned,
    MessageKeysMissing,
    SigningKeyUnknown,
)
from app.messaging.events import OrderApproved, OrderSubmitted
from app.messaging.routing import ServiceName, destinations_of, may_send, peers_of
from app.messaging.signing import EntrySigner, Refusals, _canonical, parse_peer_keys
from tests.message_keys import peer_keys, signer_of

SHOP, CRM, MES, BOARD = ServiceName.SHOP, ServiceName.CRM, ServiceName.MES, ServiceName.BOARD
ENTRY = {"id": "7", "type": "order.approved", "subject": "1", "data": '{"actor": "Sara"}'}
SIGNED = signer_of(CRM).sign(ENTRY, kind="message", destination="mes", peer=MES)


def verify(entry: dict[str, str], signer: EntrySigner | None = None) -> tuple[ServiceName, dict[str, str]]:
    return (signer or signer_of(MES)).verify(entry, kind="message", destination="mes")


def test_what_is_signed_is_read_as_it_was_written() -> None:
    assert verify(SIGNED) == (CRM, ENTRY)


@given(entry=st.dictionaries(st.text(), st.text()))
def test_what_is_signed_is_one_text_of_json(entry: dict[str, str]) -> None:
    """The releases before wrote it so, and verify what this one signs."""
    assert _canonical(entry, "message", MES) == json.dumps(["message", "mes", sorted(entry.items())])


def changed(**changes: str) -> dict[str, str]:
    return {**SIGNED, **changes}


@pytest.mark.parametrize(
    ("entry", "error", "said"),
    [
        (ENTRY, EntryUnsigned, "message id=7 type=order.approved subject=1: no service that this one hears"),
        (changed(signature=""), EntryUnsigned, "signer=crm destination=mes: no service"),
        (changed(signer="bakery"), EntryUnsigned, "signer=bakery"),
        (changed(destination="shop"), EntryMisdirected, "destination=shop: it was signed for another"),
        (changed(signature="k9.AAAA"), SigningKeyUnknown, "key 'k9' of crm is not among MES_STORAGE_MESSAGE"),
        (changed(signature="k1.AAAA"), EntryForged, "its signature by key 'k1' of crm is wrong"),
        (changed(signature="k1.\xff{key}"), EntryForged, "is wrong"),
        (changed(subject="2"), EntryForged, "subject=2"),
        (changed(data='{"actor": "Eve"}'), EntryForged, "is wrong"),
        (changed(colour="red"), EntryForged, "is wrong"),
        (changed(id="{key} {0}"), EntryForged, "id={key} {0} "),
        ({key: value for key, value in SIGNED.items() if key != "subject"}, EntryForged, "is wrong"),
        (changed(signer="shop"), EntryForged, "key 'k1' of shop"),
    ],
)
def test_what_is_not_signed_so_is_refused_by_name(
    entry: dict[str, str], error: type[EntryRefused], said: str
) -> None:
    with pytest.raises(error) as raised:
        verify(entry)
    assert said in str(raised.value)
    assert "secret" not in str(raised.value)


def test_a_copy_on_another_stream_is_refused() -> None:
    with pytest.raises(EntryMisdirected):
        signer_of(SHOP).verify(
            signer_of(MES).sign(ENTRY, kind="message", destination="crm", peer=CRM),
            kind="message",
            destination="shop",
        )


def test_a_message_is_no_acknowledgement_and_none_that_was_sent_is_taken_back() -> None:
    with pytest.raises(EntryForged):
        signer_of(MES).verify(SIGNED, kind="acknowledgement", destination="mes")
    with pytest.raises(EntryUnsigned):  # a service does not hear from itself
        signer_of(CRM).verify({**SIGNED, "destination": "crm"}, kind="message", destination="crm")


def test_a_service_cannot_sign_in_the_name_of_another() -> None:
    # The Shop has its own keys, and knows how the CRM's messages look.
    forged = signer_of(SHOP).sign(ENTRY, kind="message", destination="mes", peer=MES) | {"signer": "crm"}
    with pytest.raises(EntryForged):
        verify(forged)


def test_the_first_key_signs_and_all_verify() -> None:
    old, both, new = signer_of(MES, "k1"), signer_of(MES, "k1", "k2"), signer_of(MES, "k2")
    by_new = signer_of(CRM, "k2", "k1").sign(ENTRY, kind="message", destination="mes", peer=MES)

    assert by_new["signature"].startswith("k2.")
    assert verify(SIGNED, both) == verify(by_new, both) == verify(by_new, new) == (CRM, ENTRY)
    for entry, signer in ((by_new, old), (SIGNED, new)):
        with pytest.raises(SigningKeyUnknown):
            verify(entry, signer)


def test_a_service_without_keys_does_not_start() -> None:
    with pytest.raises(MessageKeysMissing, match="mes shares no key with crm, shop: set MES_STORAGE_"):
        EntrySigner(MES, {})
    with pytest.raises(MessageKeysMissing, match="shop shares no key with mes"):
        EntrySigner(SHOP, parse_peer_keys(peer_keys(SHOP, "k1").partition(",")[0]))


@pytest.mark.parametrize(
    "text",
    [
        "crm",
        "crm=0123456789abcdef",
        "bakery:k1=0123456789abcdef",
        "crm:k1=short",
        "crm:=0123456789abcdef",
        "crm:k1=0123456789abcdef,crm:k1=0123456789abcdef",
        "crm:a b=0123456789abcdef",
    ],
)
def test_keys_that_are_written_wrongly(text: str) -> None:
    with pytest.raises(
        ValueError, match=r"PEER:NAME=SECRET|the key 'k1' has 5 bytes|is no name of a key"
    ) as raised:
        parse_peer_keys(text)
    assert "0123456789abcdef" not in str(raised.value)
    assert "short" not in str(raised.value)


def test_only_the_crm_may_approve() -> None:
    approved = OrderApproved(actor="Sara")

    assert [service for service in ServiceName if may_send(service, approved, MES)] == [CRM]
    assert may_send(MES, approved, SHOP)
    assert not may_send(CRM, approved, SHOP)
    assert not may_send(SHOP, approved, CRM)
    assert {service: destinations_of(service) for service in ServiceName} == {
        SHOP: {CRM, MES, BOARD},
        CRM: {MES, BOARD},
        MES: {SHOP, CRM, BOARD},
        BOARD: set(),
    }
    assert peers_of(CRM) == {SHOP, MES, BOARD}
    assert OrderSubmitted.type == "order.submitted"


def test_refusals_are_counted_and_few_are_logged() -> None:
    refusals = Refusals()
    with capture_logs() as logs:
        for _ in range(250):
            refusals.note(EntryUnsigned("message", {"id": "7"}))
        refusals.note(EntryForged("message", SIGNED))

    assert refusals.counts == {"unsigned": 250, "forged": 1}
    assert [(log["reason"], log["count"]) for log in logs] == [
        ("unsigned", 1),
        ("unsigned", 10),
        ("unsigned", 100),
        ("forged", 1),
    ]
