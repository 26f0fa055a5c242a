"""The order system's tables in the directory, beside the library's: what may be sent to the MES, and why."""

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, DateTime, Double, Integer, Text, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from app.models.base import new_metadata


class DirectoryBase(DeclarativeBase):
    """Everything of the order system in the directory."""

    metadata = new_metadata()


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
