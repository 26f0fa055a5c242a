"""The order system's tables in the directory: what may be sent to the MES and why, and who may call."""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    ColumnElement,
    DateTime,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    Text,
    case,
    func,
    text,
)
from sqlalchemy import Identity as IdentityColumn
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

from app.models.base import AuditRow, AuditSealRow, new_metadata


class DirectoryBase(DeclarativeBase):
    """Everything of the order system in the directory."""

    metadata = new_metadata()


class BoundedTime(TypeDecorator[datetime]):
    """A moment that may be `infinity` in the database: it is read as the last year that Python has."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def column_expression(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        """Return what is selected: psycopg raises on what Python cannot show, and then no row is read."""
        first, last = (text(f"timestamptz '{year}-01-01 00:00:00+00'") for year in ("0002", "9999"))
        return case((column.is_not(None), func.least(func.greatest(column, first), last)))


class FlowOverride(DirectoryBase):
    """What a person has ordered for a sender, until it ends by itself."""

    __tablename__ = "flow_overrides"
    __table_args__ = (CheckConstraint("per_second >= 0", name="per_second"),)

    sender: Mapped[str] = mapped_column(Text, primary_key=True)
    per_second: Mapped[float] = mapped_column(Double)
    until: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    reason: Mapped[str] = mapped_column(Text)
    made_by: Mapped[str] = mapped_column(Text)
    made_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())


class FlowLeader(DirectoryBase):
    """Which process of the MES grants, and what it has measured: one row."""

    __tablename__ = "flow_control"
    __table_args__ = (CheckConstraint("singleton = 1", name="singleton"),)

    singleton: Mapped[int] = mapped_column(Integer, primary_key=True, server_default=text("1"))
    leader: Mapped[str] = mapped_column(Text)
    renewed_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    signals: Mapped[dict[str, Any]] = mapped_column(JSONB)


class FlowGrant(DirectoryBase):
    """What is granted to a sender now."""

    __tablename__ = "flow_grants"

    sender: Mapped[str] = mapped_column(Text, primary_key=True)
    per_second: Mapped[float] = mapped_column(Double)
    burst: Mapped[int] = mapped_column(Integer)
    reason: Mapped[str] = mapped_column(Text)
    paused: Mapped[bool]
    issued_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class Identity(DirectoryBase):
    """A partner, a member of staff or a service: who calls.

    What was signed for it before `valid_after` is good no more.
    """

    __tablename__ = "identities"

    identity_id: Mapped[int] = mapped_column(BigInteger, IdentityColumn(always=True), primary_key=True)
    name: Mapped[str] = mapped_column(Text, unique=True)
    role: Mapped[str] = mapped_column(Text)
    sandbox: Mapped[bool] = mapped_column(Boolean, server_default=text("false"))
    password_hash: Mapped[str | None] = mapped_column(Text)
    limits: Mapped[dict[str, Any] | None] = mapped_column(JSONB)
    created_by: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    valid_after: Mapped[datetime] = mapped_column(BoundedTime(), server_default=func.now())
    revoked_at: Mapped[datetime | None] = mapped_column(BoundedTime())


class IdentityKey(DirectoryBase):
    """An API key of an identity: the id that may be shown, and the SHA-256 of the rest."""

    __tablename__ = "identity_keys"
    __table_args__ = (
        Index(None, "identity_id"),
        CheckConstraint("octet_length(digest) = 32", name="digest"),
    )

    key_id: Mapped[str] = mapped_column(Text, primary_key=True)
    identity_id: Mapped[int] = mapped_column(BigInteger, ForeignKey(Identity.identity_id))
    digest: Mapped[bytes] = mapped_column(LargeBinary)
    scopes: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default="{}")
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    expires_at: Mapped[datetime | None] = mapped_column(BoundedTime())
    revoked_at: Mapped[datetime | None] = mapped_column(BoundedTime())
    last_used_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


class IdentitySubject(DirectoryBase):
    """Who a person is to an OpenID provider, and which identity he logs in as."""

    __tablename__ = "identity_subjects"
    __table_args__ = (Index(None, "identity_id"),)

    issuer: Mapped[str] = mapped_column(Text, primary_key=True)
    subject: Mapped[str] = mapped_column(Text, primary_key=True)
    identity_id: Mapped[int] = mapped_column(BigInteger, ForeignKey(Identity.identity_id))
    linked_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())


class SessionEnding(DirectoryBase):
    """What a person has ended by logging out: here, or at an OpenID provider, by its logout token.

    It is kept for as long as a session may last.
    """

    __tablename__ = "session_endings"

    issuer: Mapped[str] = mapped_column(Text, primary_key=True)
    jti: Mapped[str] = mapped_column(Text, primary_key=True)
    subject: Mapped[str | None] = mapped_column(Text)
    sid: Mapped[str | None] = mapped_column(Text)
    ended_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=text("clock_timestamp()")
    )


class IdentitiesVersion(DirectoryBase):
    """How often identities and keys were changed: raised in the transaction of each change."""

    __tablename__ = "identities_version"
    __table_args__ = (CheckConstraint("singleton = 1", name="singleton"),)

    singleton: Mapped[int] = mapped_column(Integer, primary_key=True, server_default=text("1"))
    version: Mapped[int] = mapped_column(BigInteger)


class WebhookEndpoint(DirectoryBase):
    """Where a partner wants to hear of its orders; `secret` signs what is sent there.

    `failing_since` is when the first of the sendings failed after which none has come through.
    """

    __tablename__ = "webhook_endpoints"
    __table_args__ = (Index(None, "partner"),)

    endpoint_id: Mapped[str] = mapped_column(Text, primary_key=True)
    partner: Mapped[str] = mapped_column(Text)
    url: Mapped[str] = mapped_column(Text)
    secret: Mapped[str] = mapped_column(Text)
    events: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{}'"))
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    failing_since: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    last_error: Mapped[str | None] = mapped_column(Text)
    disabled_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    disabled_reason: Mapped[str | None] = mapped_column(Text)


class AuditHead(DirectoryBase):
    """The digest of a seal of a database's audit log, kept apart from it; only ever appended."""

    __tablename__ = "audit_heads"

    database: Mapped[str] = mapped_column(Text, primary_key=True)
    seal_no: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    digest: Mapped[bytes] = mapped_column(LargeBinary)
    recorded_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=text("clock_timestamp()")
    )


class DirectoryAuditLine(AuditRow, DirectoryBase):
    """Who has changed an identity, a webhook or an order to the flow."""


class DirectoryAuditSeal(AuditSealRow, DirectoryBase):
    """The seals of those lines."""
