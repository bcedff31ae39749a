"""Who calls: an API key, or a person's access token and the organization they name, as a `Caller`.

Without the database while records are warm.
"""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from django.db import DatabaseError
from django_tenants.utils import schema_exists
from redis.exceptions import RedisError

from kit import connections, origin
from kit.errors import Invalid, Refused, Unavailable
from kit.origin import Network
from tenants import keys, signatures, uses
from tenants.keys import Unauthenticated
from tenants.models import (
    ApiKey,
    Limited,
    LogIn,
    Membership,
    ModelLimit,
    Organization,
    Retention,
    Role,
)
from tenants.records import Fields, Records
from tenants.roles import SCOPES, Action, role_may, scopes_may, scopes_of
from tenants.tokens import AccessClaims, NotLoggedIn, read_access

__all__ = [
    "Caller",
    "Elsewhere",
    "Forbidden",
    "Limits",
    "NotAMember",
    "NotYourRole",
    "Suspended",
    "Unauthenticated",
    "authenticate",
]

_LONGEST_HEADER = 1024
_SLUG = re.compile(r"[a-z0-9-]{1,40}")


class Forbidden(Refused):
    """Known, but not allowed this."""

    status, code = 403, "insufficient_scope"


class Elsewhere(Refused):
    """A good key, from a place where it is not to be used."""

    status, code = 403, "address_not_allowed"


class NotAMember(Refused):
    """Logged in, but the organization is not theirs, or there is none of that name."""

    status, code = 403, "not_a_member"


class NotYourRole(Refused):
    """A member, but not one who may do this."""

    status, code = 403, "insufficient_role"


class Suspended(Refused):
    """The organization is shut out until an operator lifts it."""

    status, code = 403, "organization_suspended"


@dataclass(frozen=True, slots=True)
class Limits:
    """Rates of one minute, and requests at once; 0 is no limit."""

    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    concurrent_requests: int = 0


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a request, for whom, and within what bounds.

    `organization` is its primary key, `schema` where its data lives, `key` the API key's public
    id. `models` are the names the key may use; none means every model. `priority` is 0 for first.
    A person has a `user` (its primary key) and a `role`, the scopes of that role, and a `key` that
    stands for the two where a key's id is counted and recorded. `person` is whose request it is,
    also by a key of theirs; None where the key is a service account's.
    """

    organization: int
    slug: str
    schema: str
    key: str
    scopes: frozenset[str]
    models: frozenset[str]
    limits: Limits
    key_limits: Limits
    priority: int
    user: int | None = None
    role: Role | None = None
    person: int | None = None
    person_limits: Limits = Limits()
    model_limits: Mapping[str, Limits] = field(default_factory=dict)
    retention: str = Retention.ANSWERS

    def may(self, action: Action) -> bool:
        """What the table of `tenants.roles` says."""
        if self.role is not None:
            return role_may(self.role, action)
        return scopes_may(self.scopes, action)

    def allow(self, action: Action) -> None:
        """Raise `NotYourRole` or `Forbidden` unless the caller may."""
        if self.may(action):
            return
        if self.role is not None:
            raise NotYourRole(
                f"Your role in {self.slug!r}, {self.role.value}, may not {action.value}; ask an "
                "owner or admin for it."
            )
        if action not in SCOPES:
            raise Forbidden(f"An API key may not {action.value}; log in as a person.")
        self.require(SCOPES[action].value)

    def require(self, scope: str) -> None:
        """Raise unless the key has the scope, or the person's role all that it stands for."""
        if scope in self.scopes:
            return
        if self.role is not None:
            raise NotYourRole(
                f"Your role in {self.slug!r}, {self.role.value}, has not the scope {scope!r}; ask "
                "an owner or admin for it."
            )
        has = ", ".join(sorted(self.scopes)) or "none"
        raise Forbidden(
            f"This needs the scope {scope!r}; the API key has: {has}. Use a key that has it."
        )


@dataclass(frozen=True, slots=True)
class _Key:
    organization: int
    secret_hash: str
    scopes: frozenset[str]
    models: frozenset[str]
    limits: Limits
    expires_at: float | None
    revoked: bool
    networks: tuple[Network, ...] = ()
    person: int | None = None
    signing_key: str = ""


@dataclass(frozen=True, slots=True)
class _Organization:
    slug: str
    schema: str
    ready: bool
    suspended: str | None
    limits: Limits
    priority: int
    model_limits: Mapping[str, Limits] = field(default_factory=dict)
    retention: str = Retention.ANSWERS


@dataclass(frozen=True, slots=True)
class _LogIn:
    user: int
    ended: bool


@dataclass(frozen=True, slots=True)
class _Member:
    organization: int
    role: Role
    limits: Limits


async def authenticate(authorization: str | None, *, again: bool = False) -> Caller:
    """The caller whom an `Authorization` header names; the rest is the running request's origin.

    `again`: for one more message on a connection whose handshake was authenticated, and signed
    where its key wants that.

    Raises `Unauthenticated` (no key, or none that is valid) or `NotLoggedIn`, `NotAMember`,
    `Elsewhere`, `Suspended`, and `Unavailable` where neither Redis nor PostgreSQL can tell.
    """
    token = _bearer(authorization)
    if "." in token:
        return await _member(token)
    return await _program(token, again=again)


async def authenticate_person(authorization: str | None) -> int:
    """The primary key of the user whose access token the header has, of no organization.

    Raises `NotLoggedIn` and `Unavailable`.
    """
    claims = read_access(_bearer(authorization))
    try:
        login = await _logins.get(claims.login)
    except (RedisError, DatabaseError) as error:
        raise Unavailable("Log-ins cannot be checked right now; try again.") from error
    _refuse_ended(login, claims)
    return claims.user


async def _member(token: str) -> Caller:
    """A person, by an access token, in the organization that `X-Organization` names."""
    claims = read_access(token)
    slug = origin.current().organization
    if not _SLUG.fullmatch(slug):
        raise Invalid(
            "Say for which organization: send its slug in the header X-Organization.",
            param="X-Organization",
        )
    try:
        login = await _logins.get(claims.login)
        member = await _members.get(Membership.remembered_as(claims.user, slug))
        organization = await _organizations.get(str(member.organization)) if member else None
    except (RedisError, DatabaseError) as error:
        raise Unavailable("Log-ins cannot be checked right now; try again.") from error
    _refuse_ended(login, claims)
    if member is None or organization is None:
        raise NotAMember(f"You do not belong to an organization {slug!r}.")
    _refuse_shut(organization)
    return Caller(
        organization=member.organization,
        slug=organization.slug,
        schema=organization.schema,
        key=f"u:{claims.user}",
        scopes=scopes_of(member.role),
        models=frozenset(),
        limits=organization.limits,
        key_limits=Limits(),
        priority=organization.priority,
        retention=organization.retention,
        user=claims.user,
        role=member.role,
        person=claims.user,
        person_limits=member.limits,
        model_limits=organization.model_limits,
    )


async def _program(text: str, *, again: bool) -> Caller:
    """A program, by its key."""
    presented = keys.parse(text)
    try:
        key = _living(await _keys.get(presented.id), presented)
        _refuse_elsewhere(key)
        if key.signing_key and not again:
            await signatures.check(presented.id, key.signing_key)
        organization = await _organizations.get(str(key.organization))
        member = await _owner(key, organization)
    except (RedisError, DatabaseError) as error:
        raise Unavailable("API keys cannot be checked right now; try again.") from error
    if organization is None:
        raise Unauthenticated("The organization of this API key no longer exists.")
    _refuse_shut(organization)
    connections.belongs_to(presented.id)
    uses.note(presented.id)
    return Caller(
        organization=key.organization,
        slug=organization.slug,
        schema=organization.schema,
        key=presented.id,
        scopes=key.scopes & scopes_of(member.role) if member else key.scopes,
        models=key.models,
        limits=organization.limits,
        key_limits=key.limits,
        priority=organization.priority,
        person=key.person,
        person_limits=member.limits if member else Limits(),
        model_limits=organization.model_limits,
        retention=organization.retention,
    )


async def _owner(key: _Key, organization: _Organization | None) -> _Member | None:
    """Whose key it is, as a member; None where it is nobody's. One that has left has no key."""
    if key.person is None or organization is None:
        return None
    member = await _members.get(Membership.remembered_as(key.person, organization.slug))
    if member is None:
        raise Unauthenticated(
            f"The person whose API key this is has left the organization {organization.slug!r}; "
            "use a key of a member or of a service account."
        )
    return member


def _bearer(authorization: str | None) -> str:
    """The token of a Bearer header (RFC 6750 §2.1). A message never repeats what was sent."""
    if authorization is None or not authorization.strip():
        raise Unauthenticated(
            "No API key was sent. Send it in a header: 'Authorization: Bearer aip_live_…'."
        )
    if len(authorization) > _LONGEST_HEADER or not authorization.isascii():
        raise Unauthenticated(
            f"The Authorization header must be ASCII and at most {_LONGEST_HEADER} characters."
        )
    scheme, _, token = authorization.strip().partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthenticated("The Authorization header must read 'Bearer ' and then the API key.")
    return token.strip()


def _refuse_ended(login: _LogIn | None, claims: AccessClaims) -> None:
    if login is None or login.ended or login.user != claims.user:
        raise NotLoggedIn("This log-in has ended; log in again.")


def _living(key: _Key | None, presented: keys.Presented) -> _Key:
    if key is None or not presented.is_of(key.secret_hash):
        raise Unauthenticated("Incorrect API key. Check it, or make another in the portal.")
    if key.revoked:
        raise Unauthenticated("This API key was revoked. Make another in the portal.")
    if key.expires_at is not None and key.expires_at <= time.time():
        raise Unauthenticated("This API key has expired. Make another in the portal.")
    return key


def _refuse_elsewhere(key: _Key) -> None:
    """The address is the running request's; one that is not known is nowhere."""
    if not key.networks:
        return
    address = origin.current().address
    if address is None or not any(address in each for each in key.networks):
        raise Elsewhere(
            f"This API key may not be used from {address or 'an unknown address'}; add it to the "
            "key's networks, or use another key."
        )


def _refuse_shut(organization: _Organization) -> None:
    if organization.suspended is not None:
        because = f": {organization.suspended}" if organization.suspended else "."
        raise Suspended(f"The organization {organization.slug!r} is suspended{because}")
    if not organization.ready:
        raise Unavailable(f"The data of the organization {organization.slug!r} is not in place.")


def _load_key(identifier: str) -> Fields | None:
    key = ApiKey.objects.across_organizations().filter(pk=identifier).first()
    if key is None:
        return None
    return {
        "organization": key.organization_id,
        "secret_hash": key.secret_hash,
        "scopes": key.scopes,
        "models": key.models,
        "limits": _limits(key),
        "expires_at": key.expires_at and key.expires_at.timestamp(),
        "revoked": key.revoked_at is not None,
        "networks": key.networks,
        "person": key.person_id,
        "signing_key": key.signing_key,
    }


def _load_organization(identifier: str) -> Fields | None:
    rows = Organization.objects.filter(pk=identifier).select_related("plan")
    organization = rows.first()
    if organization is None:
        return None
    return {
        "slug": organization.slug,
        "schema": organization.schema_name,
        "ready": organization.ready_at is not None and schema_exists(organization.schema_name),
        "suspended": organization.suspended_reason if organization.suspended_at else None,
        "limits": _own_or_plans(_limits(organization), organization.plan),
        "priority": organization.priority,
        "model_limits": _model_limits(organization),
        "retention": organization.retention,
    }


def _load_login(identifier: str) -> Fields | None:
    login = LogIn.objects.filter(pk=identifier).select_related("user").first()
    if login is None:
        return None
    return {
        "user": login.user_id,
        "ended": login.ended_at is not None or not login.user.is_active,
    }


def _load_member(identifier: str) -> Fields | None:
    user, slug = identifier.split(":")
    rows = Membership.objects.filter(organization__slug=slug, user=int(user))
    member = rows.first()
    if member is None:
        return None
    return {
        "organization": member.organization_id,
        "role": member.role,
        "limits": _limits(member),
    }


def _limits(row: Limited) -> list[int]:
    return [row.requests_per_minute, row.tokens_per_minute, row.concurrent_requests]


def _own_or_plans(own: list[int], plan: Limited | None) -> list[int]:
    return [mine or its for mine, its in zip(own, _limits(plan), strict=True)] if plan else own


def _model_limits(organization: Organization) -> dict[str, list[int]]:
    """An organization's own before its plan's."""
    rows = ModelLimit.objects.for_org(organization)
    found = {each.model: _limits(each) for each in rows}
    if organization.plan_id is not None:
        for each in ModelLimit.objects.across_organizations().filter(plan=organization.plan_id):
            found[each.model] = _own_or_plans(found.get(each.model, [0, 0, 0]), each)
    return found


def _shape_key(fields: Fields) -> _Key:
    sets = {name: frozenset(fields[name]) for name in ("scopes", "models")}
    networks = tuple(map(origin.network, fields.get("networks", ())))
    limits = Limits(*fields["limits"])
    return _Key(**{**fields, **sets, "networks": networks, "limits": limits})


def _shape_organization(fields: Fields) -> _Organization:
    models = {model: Limits(*each) for model, each in fields.get("model_limits", {}).items()}
    limits = Limits(*fields["limits"])
    return _Organization(**{**fields, "limits": limits, "model_limits": models})


def _shape_member(fields: Fields) -> _Member:
    limits = Limits(*fields.get("limits", ()))
    return _Member(fields["organization"], Role(fields["role"]), limits)


_keys = Records(ApiKey.kind, load=_load_key, shape=_shape_key)
_organizations = Records(Organization.kind, load=_load_organization, shape=_shape_organization)
_logins = Records(LogIn.kind, load=_load_login, shape=lambda fields: _LogIn(**fields))
_members = Records(Membership.kind, load=_load_member, shape=_shape_member)
