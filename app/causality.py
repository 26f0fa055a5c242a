"""Where services keep causal tokens that no client brings, and refuse one (docs/explanation/replicas.md)."""

from typing import cast

from fastapi import Request
from redis.asyncio import Redis
from starlette.types import ASGIApp, Scope

from app.kit import problem
from readreplica.errors import TokenMalformed
from readreplica.redis import TokenStore
from readreplica.signing import TOKEN_HEADER


def open_callers(redis: Redis, *, keep_seconds: int) -> TokenStore:
    """Keep the tokens of callers by their names."""
    return TokenStore(redis, prefix="causal:", keep_seconds=keep_seconds)


def open_learned(redis: Redis, service: str, *, keep_seconds: int) -> TokenStore:
    """Keep what a service has learned of each order, by the order's id.

    A message's transaction is no client's request, so no client has its token; and only a node that has
    replayed it knows the order, so the token cannot stand in the order's row.
    """
    return TokenStore(redis, prefix=f"causal-order:{service}:", keep_seconds=keep_seconds)


def store_of(scope: Scope) -> TokenStore | None:
    """Return the callers' store of the application that a request is for; None where it has none."""
    return cast("TokenStore | None", scope["app"].state.token_store)


def refuse(scope: Scope, fault: TokenMalformed) -> ASGIApp:
    """Answer a token that is not good, as the services answer every fault."""
    return problem.refused_token(Request(scope), fault, header=TOKEN_HEADER)
