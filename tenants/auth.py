"""Who calls: an API key, or a person's access token and the organization they name, as a `Caller`.

Without the database while records are warm.
"""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from django.db import DatabaseError
from redis.exceptions import RedisError

from kit import connections, origin
from kit.errors import Invalid, Refused, Unavailable
from tenants import guesses, keys, signatures, uses
from tenants.keys import Unauthenticated
from tenants.known import (
    KEYS,
    LOGINS,
    MEMBERS,
    ORGANIZATIONS,
    KnownKey,
    KnownLogIn,
    KnownMember,
    KnownOrganization,
    Limits,
)
from tenants.models import (
    Membership,
    Retention,
    Reusing,
    Role,
)
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
    "TwoFactorsRequired",
    "Unauthenticated",
    "authenticate",
]

_LONGEST_HEADER = 1024
_PERSON = "u:"
"""What begins the `key` of a person who has logged in."""
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


class TwoFactorsRequired(Refused):
    """The organization lets in nobody by a password alone."""

    status, code = 403, "two_factors_required"


class Suspended(Refused):
    """The organization is shut out until an operator lifts it."""

    status, code = 403, "organization_suspended"


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
    person_limits: Limits = field(default_factory=Limits)
    model_limits: Mapping[str, Limits] = field(default_factory=dict)
    retention: str = Retention.ANSWERS
    plan: int | None = None
    reuse: Reusing = field(default_factory=Reusing)
    login: str = ""

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
    return (await claims_of(authorization)).user


async def claims_of(authorization: str | None) -> AccessClaims:
    """`authenticate_person`, with which of the person's log-ins it is."""
    claims = read_access(_bearer(authorization))
    try:
        login = await LOGINS.get(claims.login)
    except (RedisError, DatabaseError) as error:
        raise Unavailable("Log-ins cannot be checked right now; try again.") from error
    _refuse_ended(login, claims)
    return claims


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
        login = await LOGINS.get(claims.login)
        place = Membership.remembered_as(claims.user, slug)
        member = await MEMBERS.get(place, gate=guesses.bounded)
        organization = await ORGANIZATIONS.get(str(member.organization)) if member else None
    except (RedisError, DatabaseError) as error:
        raise Unavailable("Log-ins cannot be checked right now; try again.") from error
    _refuse_ended(login, claims)
    if member is None or organization is None:
        raise NotAMember(f"You do not belong to an organization {slug!r}.")
    _refuse_shut(organization)
    if organization.two_factors and not (login and login.two_factors):
        raise TwoFactorsRequired(two_factors_wanted(slug))
    return replace(_as_member(claims.user, member, organization), login=claims.login)


async def _program(text: str, *, again: bool) -> Caller:
    """A program, by its key."""
    presented = keys.parse(text)
    try:
        key = _living(await KEYS.get(presented.id, gate=guesses.bounded), presented)
        _refuse_elsewhere(key)
        if key.signing_key and not again:
            await signatures.check(presented.id, key.signing_key)
        organization = await ORGANIZATIONS.get(str(key.organization))
        member = await _owner(key, organization)
    except (RedisError, DatabaseError) as error:
        raise Unavailable("API keys cannot be checked right now; try again.") from error
    if organization is None:
        raise Unauthenticated("The organization of this API key no longer exists.")
    _refuse_shut(organization)
    connections.belongs_to(presented.id)
    uses.note(presented.id)
    return _as_program(presented.id, key, organization, member)


async def recalled(key: str, *, slug: str) -> Caller:
    """Who made a request earlier, by the `key` of their `Caller`: as they may today.

    For work that goes on without them. Raises `Unauthenticated`, `NotAMember`, `Suspended` or
    `Unavailable` where they may no more.
    """
    try:
        if key.startswith(_PERSON):
            return await _recalled_person(int(key.removeprefix(_PERSON)), slug)
        return await _recalled_program(key, slug)
    except (RedisError, DatabaseError) as error:
        raise Unavailable("API keys cannot be checked right now; try again.") from error


async def _recalled_person(user: int, slug: str) -> Caller:
    member = await MEMBERS.get(Membership.remembered_as(user, slug))
    organization = await ORGANIZATIONS.get(str(member.organization)) if member else None
    if member is None or organization is None:
        raise NotAMember(f"They do not belong to an organization {slug!r} any more.")
    _refuse_shut(organization)
    return _as_member(user, member, organization)


async def _recalled_program(identifier: str, slug: str) -> Caller:
    key = _unended(await KEYS.get(identifier))
    organization = await ORGANIZATIONS.get(str(key.organization))
    member = await _owner(key, organization)
    if organization is None or organization.slug != slug:
        raise NotAMember(f"The API key does not belong to an organization {slug!r}.")
    _refuse_shut(organization)
    return _as_program(identifier, key, organization, member)


def _as_member(user: int, member: KnownMember, organization: KnownOrganization) -> Caller:
    return Caller(
        organization=member.organization,
        slug=organization.slug,
        schema=organization.schema,
        key=f"{_PERSON}{user}",
        scopes=scopes_of(member.role),
        models=frozenset(),
        limits=organization.limits,
        key_limits=Limits(),
        priority=organization.priority,
        retention=organization.retention,
        plan=organization.plan,
        reuse=organization.reuse,
        user=user,
        role=member.role,
        person=user,
        person_limits=member.limits,
        model_limits=organization.model_limits,
    )


def _as_program(
    identifier: str, key: KnownKey, organization: KnownOrganization, member: KnownMember | None
) -> Caller:
    return Caller(
        organization=key.organization,
        slug=organization.slug,
        schema=organization.schema,
        key=identifier,
        scopes=key.scopes & scopes_of(member.role) if member else key.scopes,
        models=key.models,
        limits=organization.limits,
        key_limits=key.limits,
        priority=organization.priority,
        person=key.person,
        person_limits=member.limits if member else Limits(),
        model_limits=organization.model_limits,
        retention=organization.retention,
        plan=organization.plan,
        reuse=organization.reuse,
    )


async def _owner(key: KnownKey, organization: KnownOrganization | None) -> KnownMember | None:
    """Whose key it is, as a member; None where it is nobody's. One that has left has no key."""
    if key.person is None or organization is None:
        return None
    member = await MEMBERS.get(Membership.remembered_as(key.person, organization.slug))
    if member is None:
        raise Unauthenticated(
            f"The person whose API key this is has left the organization {organization.slug!r}, or "
            "was shut out; use a key of a member or of a service account."
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


def two_factors_wanted(slug: str) -> str:
    """What a member without them is told."""
    return (
        f"The organization {slug!r} wants two factors of its members: set a second one up at "
        "/accounts/2fa/, then log in with its code."
    )


def _refuse_ended(login: KnownLogIn | None, claims: AccessClaims) -> None:
    if login is None or login.ended or login.user != claims.user:
        raise NotLoggedIn("This log-in has ended; log in again.")


def _living(key: KnownKey | None, presented: keys.Presented) -> KnownKey:
    if key is None or not presented.is_of(key.secret_hash):
        raise Unauthenticated("Incorrect API key. Check it, or make another in the portal.")
    return _unended(key)


def _unended(key: KnownKey | None) -> KnownKey:
    if key is None:
        raise Unauthenticated("This API key does not exist any more.")
    if key.revoked:
        raise Unauthenticated("This API key was revoked. Make another in the portal.")
    if key.expires_at is not None and key.expires_at <= time.time():
        raise Unauthenticated("This API key has expired. Make another in the portal.")
    return key


def _refuse_elsewhere(key: KnownKey) -> None:
    """The address is the running request's; one that is not known is nowhere."""
    if not key.networks:
        return
    address = origin.current().address
    if address is None or not any(address in each for each in key.networks):
        raise Elsewhere(
            f"This API key may not be used from {address or 'an unknown address'}; add it to the "
            "key's networks, or use another key."
        )


def _refuse_shut(organization: KnownOrganization) -> None:
    if organization.suspended is not None:
        because = f": {organization.suspended}" if organization.suspended else "."
        raise Suspended(f"The organization {organization.slug!r} is suspended{because}")
    if not organization.ready:
        raise Unavailable(f"The data of the organization {organization.slug!r} is not in place.")
