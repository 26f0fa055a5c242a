"""`mesctl identities`: who may call, and by which API keys.

A key is shown once, when it is made; only its SHA-256 is stored. Services hear of every change within a
second.
"""

import asyncio
import getpass
import json
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any, TypeVar

import typer
from pydantic import TypeAdapter, ValidationError
from sqlalchemy import func, select

from app.access import identities
from app.access.credentials import ApiKey, TokenKeys, TokenUse
from app.access.errors import IdentityExists, SubjectRefused, TooManyKeys, UnknownCredential, UnknownIdentity
from app.kit.caller import Role, calling, shell_user
from app.models.directory import Identity, IdentityKey
from app.schemas import Line
from app.topology import is_sandbox
from ops.errors import ExitStatus, OpsError
from ops.fleet import naming, open_engine
from ops.options import DryRun, Options, options_of, parse_duration
from ops.output import literal_of, note, print_json, print_table, report
from readreplica.sessions import WriteSession
from sharding.engines import open_cluster
from sharding.topology import Topology

app = typer.Typer(help="Show and change who may call, and by which API keys.", no_args_is_help=True)

ACCESS_KEYS = "MES_STORAGE_ACCESS_KEYS"

T = TypeVar("T")


class GivenRole(StrEnum):
    """The roles that an identity may have; a customer is known by a link."""

    PARTNER = "partner"
    OPERATOR = "operator"
    SELLER = "seller"
    AUDITOR = "auditor"
    DBA = "dba"
    ADMIN = "admin"
    SERVICE = "service"


class KeyScope(StrEnum):
    """What of its role a key is good for."""

    READ = "read"
    WRITE = "write"


class IdentityRefused(OpsError):
    """A change of identities was refused, and nothing is changed."""

    exit_status = ExitStatus.REFUSED


class AccessKeysMissing(OpsError):
    """Tokens are signed by keys, and none was given."""

    exit_status = ExitStatus.USAGE

    def __init__(self) -> None:
        super().__init__(f"set {ACCESS_KEYS} as the services have it: tokens are signed with it")


Name = Annotated[str, typer.Argument(help="Its name, as histories show it.", show_default=False)]
Scopes = Annotated[
    list[KeyScope] | None, typer.Option("--scope", help="What the key is good for; all without.")
]


async def _in_directory(topology: Topology, work: Callable[[WriteSession], Awaitable[T]]) -> T:
    directory = topology.directory_of("mes")
    async with open_cluster(
        topology, directory.name, role=directory.owner, application_name="mesctl identities"
    ) as cluster:
        return (await cluster.transact(work)).value


def _change(topology: Topology, work: Callable[[WriteSession], Awaitable[T]]) -> T:
    try:
        with calling(shell_user()):
            return asyncio.run(_in_directory(topology, work))
    except (IdentityExists, SubjectRefused, TooManyKeys, UnknownIdentity, UnknownCredential) as error:
        raise IdentityRefused(str(error)) from error


def create_all(topology: Topology, roles: Mapping[str, Role]) -> dict[str, str]:
    """Make identities of these roles, and return the API key of each; used where a platform is set up."""

    async def work(session: WriteSession) -> dict[str, str]:
        made = {}
        for name, role in roles.items():
            key = await identities.create(
                session, name, role, by=getpass.getuser(), in_sandbox=is_sandbox(topology)
            )
            made[name] = key.text
        return made

    return _change(topology, work)


@app.command("create")
def create(
    context: typer.Context,
    name: Name,
    role: Annotated[GivenRole, typer.Option(help="What it may do.")],
    *,
    scopes: Scopes = None,
    sandbox: Annotated[bool, typer.Option("--sandbox", help="Its orders are for trying out.")] = False,
    password: Annotated[
        bool, typer.Option("--password", help="Ask for a password too, for staff who log in.")
    ] = False,
    oidc: Annotated[
        tuple[str, str] | None,
        typer.Option(
            "--oidc", metavar="ISSUER SUBJECT", help="Who it is at an OpenID provider, as by `oidc`."
        ),
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Make an identity with its first API key, which is shown once."""
    options = options_of(context)
    name = _checked(name)
    link = None if oidc is None else (_checked(oidc[0]), _checked(oidc[1]))
    if dry_run:
        _print_sql(
            f"INSERT INTO identities (name, role, sandbox, created_by) VALUES ({literal_of(name)}, "
            f"'{role}', {str(sandbox).lower()}, {literal_of(getpass.getuser())});"
        )
        if link is not None:
            _print_sql(_linking(name, *link))
        return
    secret = typer.prompt("Password", hide_input=True, confirmation_prompt=True) if password else None

    async def work(session: WriteSession) -> ApiKey:
        made = await identities.create(
            session,
            name,
            Role(role.value),
            by=getpass.getuser(),
            sandbox=sandbox,
            password=secret,
            scopes=scopes or [],
            in_sandbox=is_sandbox(options.topology()),
        )
        if link is not None:
            await identities.link_subject(session, name, *link)
        return made

    _show_key(options, _change(options.topology(), work), name=name, role=role.value)


@app.command("rotate")
def rotate(
    context: typer.Context,
    name: Name,
    *,
    keep: Annotated[
        str, typer.Option("--keep", metavar="DURATION", help="How long older keys stay good.")
    ] = "24h",
    scopes: Scopes = None,
    dry_run: DryRun = False,
) -> None:
    """Make another API key for an identity; the one that it has stays good for a while."""
    options = options_of(context)
    lasts = parse_duration(keep)
    if dry_run:
        _print_sql(
            f"UPDATE identity_keys SET expires_at = now() + interval '{lasts.total_seconds():.0f} seconds' "
            f"WHERE identity_id = (SELECT identity_id FROM identities WHERE name = {literal_of(name)});"
        )
        return

    async def work(session: WriteSession) -> ApiKey:
        return await identities.rotate(
            session, name, keep=lasts, scopes=scopes, in_sandbox=is_sandbox(options.topology())
        )

    _show_key(options, _change(options.topology(), work), name=name, older_keys_until=keep)


@app.command("limit")
def limit(
    context: typer.Context,
    name: Name,
    *,
    requests_per_second: Annotated[float | None, typer.Option(min=0.01, help="Evenly.")] = None,
    burst: Annotated[float | None, typer.Option(min=1, help="Requests at once, after a rest.")] = None,
    orders_per_day: Annotated[float | None, typer.Option(min=1, help="Orders.")] = None,
    bytes_per_second: Annotated[float | None, typer.Option(min=1024, help="Of bodies.")] = None,
    concurrent: Annotated[int | None, typer.Option(min=1, help="Requests at the same time.")] = None,
    dry_run: DryRun = False,
) -> None:
    """Set what of its role's limits an identity has otherwise; without options, nothing."""
    options = options_of(context)
    given = (requests_per_second, burst, orders_per_day, bytes_per_second, concurrent)
    limits = {each: value for each, value in zip(identities.LIMITS, given, strict=True) if value is not None}
    if dry_run:
        value = f"'{json.dumps(limits)}'" if limits else "NULL"
        _print_sql(f"UPDATE identities SET limits = {value} WHERE name = {literal_of(name)};")
        return
    found = _change(options.topology(), lambda session: identities.limit(session, name, limits))
    shown = ", ".join(f"{each} {value:g}" for each, value in found.items()) or "those of its role"
    report(options, {"identity": name, "limits": found}, f"{name} has the limits: {shown}")


def _id_of(name: str) -> str:
    return f"(SELECT identity_id FROM identities WHERE name = {literal_of(name)})"


def _linking(name: str, issuer: str, subject: str) -> str:
    values = f"{literal_of(issuer)}, {literal_of(subject)}, {_id_of(name)}"
    return f"INSERT INTO identity_subjects (issuer, subject, identity_id) VALUES ({values});"


@app.command("oidc")
def oidc(
    context: typer.Context,
    name: Name,
    *,
    issuer: Annotated[
        str | None, typer.Option("--issuer", help="The provider, as its tokens have it.")
    ] = None,
    subject: Annotated[str | None, typer.Option("--subject", help="The person there: `sub`.")] = None,
    remove: Annotated[bool, typer.Option("--remove", help="All links, and end who came by them.")] = False,
    dry_run: DryRun = False,
) -> None:
    """Link a person of an OpenID provider to an identity of staff, or remove its links."""
    options = options_of(context)
    if remove is (issuer is not None and subject is not None) or (remove and (issuer or subject)):
        raise typer.BadParameter("give --issuer and --subject, or --remove")
    if remove:
        if dry_run:
            _print_sql(f"DELETE FROM identity_subjects WHERE identity_id = {_id_of(name)};")
            return
        links = _change(options.topology(), lambda session: identities.unlink_subjects(session, name))
        report(options, {"identity": name, "links": links}, f"{name} has no link any more; it had {links}")
        return
    issuer, subject = _checked(str(issuer)), _checked(str(subject))
    if dry_run:
        _print_sql(_linking(name, issuer, subject))
        return
    _change(options.topology(), lambda session: identities.link_subject(session, name, issuer, subject))
    facts = {"identity": name, "issuer": issuer, "subject": subject}
    report(options, facts, f"{name} logs in as {subject} of {issuer}")


@app.command("revoke")
def revoke(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Of an identity, or the id of one key.", show_default=False)],
    *,
    key: Annotated[bool, typer.Option("--key", help="NAME is the id of a key: end that one only.")] = False,
    dry_run: DryRun = False,
) -> None:
    """End an identity, or one of its keys, with all that was signed for it. There is no way back."""
    options = options_of(context)
    if dry_run:
        _print_sql(
            f"UPDATE identity_keys SET revoked_at = now() WHERE key_id = {literal_of(name)};"
            if key
            else "UPDATE identities SET revoked_at = now(), valid_after = now() WHERE name = "
            f"{literal_of(name)};"
        )
        return
    if key:
        owner = _change(options.topology(), lambda session: identities.revoke_key(session, name))
        report(options, {"key": name, "identity": owner}, f"the key {name} of {owner} is revoked")
        return
    keys = _change(options.topology(), lambda session: identities.revoke(session, name))
    report(options, {"identity": name, "keys": keys}, f"{name} is revoked, with {keys} keys")


@app.command("list")
def list_all(
    context: typer.Context,
    *,
    everything: Annotated[bool, typer.Option("--all", help="Those that are revoked too.")] = False,
) -> None:
    """List identities and their keys, by what of them may be shown."""
    options = options_of(context)
    found = read_all(options.topology(), everything=everything)
    if options.json:
        print_json(found)
        return
    columns = ("name", "role", "key", "scopes", "last_used_at", "expires_at", "revoked_at")
    print_table(columns, [tuple(each[column] or "" for column in columns) for each in found])


def read_all(topology: Topology, *, everything: bool = False) -> list[dict[str, Any]]:
    """Return each key with its identity, as JSON has them; an identity without a key stands there once."""
    keys = select(
        Identity.name,
        Identity.role,
        Identity.sandbox,
        IdentityKey.key_id.label("key"),
        IdentityKey.scopes,
        IdentityKey.created_at,
        IdentityKey.last_used_at,
        IdentityKey.expires_at,
    ).join(IdentityKey, isouter=True)
    revoked = func.coalesce(Identity.revoked_at, IdentityKey.revoked_at).label("revoked_at")
    wanted = keys.add_columns(revoked).order_by(Identity.name, IdentityKey.created_at)
    if not everything:
        wanted = wanted.where(Identity.revoked_at.is_(None), IdentityKey.revoked_at.is_(None))
    directory = topology.directory_of("mes")
    with (
        open_engine(topology, directory, role=directory.owner) as engine,
        naming(directory),
        engine.connect() as connection,
    ):
        rows = connection.execute(wanted).mappings().all()
    return [{name: _shown(value) for name, value in row.items()} for row in rows]


@app.command("link")
def link(
    context: typer.Context,
    order_id: Annotated[int, typer.Argument(min=1, help="The order that it opens.", show_default=False)],
) -> None:
    """Make the token that opens one order for its customer, for 90 days."""
    token = _keys(context).sign(TokenUse.LINK, {"sub": str(order_id)})
    report(options_of(context), {"order_id": str(order_id), "token": token}, token)


@app.command("service-token")
def service_token(
    context: typer.Context,
    person: Annotated[str, typer.Argument(help="On behalf of whom.", show_default=False)],
    role: Annotated[GivenRole, typer.Option(help="What that person may do.")],
) -> None:
    """Make a token on behalf of a person, as services have them: for five minutes, at the internal door."""
    claims = {"sub": _checked(person), "role": role.value, "iss": f"mesctl of {getpass.getuser()}"}
    token = _keys(context).sign(TokenUse.SERVICE, claims)
    report(options_of(context), {"person": person, "role": role.value, "token": token}, token)


def _keys(context: typer.Context) -> TokenKeys:
    in_sandbox = is_sandbox(options_of(context).topology())
    try:
        keys = TokenKeys.parse(os.environ.get(ACCESS_KEYS, ""), is_sandbox=in_sandbox)
    except ValueError as error:
        raise typer.BadParameter(f"{ACCESS_KEYS}: {error}") from error
    if keys is None:
        raise AccessKeysMissing
    return keys


def _checked(name: str) -> str:
    try:
        return TypeAdapter(Line).validate_python(name)
    except ValidationError as error:
        raise typer.BadParameter(str(error.errors()[0]["msg"])) from error


def _print_sql(statement: str) -> None:
    print("UPDATE identities_version SET version = version + 1;")
    print(statement)
    print("-- The digest of a new key is not shown beforehand.")


def _shown(value: Any) -> Any:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return " ".join(value)
    return value.isoformat(timespec="seconds") if hasattr(value, "isoformat") else value


def _show_key(options: Options, made: ApiKey, **facts: Any) -> None:
    if options.json:
        print_json({**facts, "key": made.credential_id, "secret": made.text})
        return
    note("keep it now: it is stored nowhere, and not shown again")
    print(made.text)
