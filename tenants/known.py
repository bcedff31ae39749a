"""What a caller is checked against: keys, organizations, log-ins and memberships, as remembered.

A change of their rows is here within a second; see `tenants.records`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from django_tenants.utils import schema_exists

from kit import origin
from kit.origin import Network
from tenants.models import (
    ApiKey,
    Caching,
    Limited,
    LogIn,
    Membership,
    ModelLimit,
    Organization,
    Retention,
    Reusing,
    Role,
)
from tenants.records import Fields, Records


@dataclass(frozen=True, slots=True)
class Limits:
    """Rates of one minute, and requests at once; 0 is no limit."""

    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    concurrent_requests: int = 0


@dataclass(frozen=True, slots=True)
class KnownKey:
    """An API key's row."""

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
class KnownOrganization:
    """An organization's, with its plan's limits where it has none."""

    slug: str
    schema: str
    ready: bool
    suspended: str | None
    limits: Limits
    priority: int
    model_limits: Mapping[str, Limits] = field(default_factory=dict)
    retention: str = Retention.ANSWERS
    two_factors: bool = False
    plan: int | None = None
    reuse: Reusing = field(default_factory=Reusing)


@dataclass(frozen=True, slots=True)
class KnownLogIn:
    """A log-in's."""

    user: int
    ended: bool
    two_factors: bool = False


@dataclass(frozen=True, slots=True)
class KnownMember:
    """A membership's; whoever was deactivated has none."""

    organization: int
    role: Role
    limits: Limits


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
    plan = organization.plan
    return {
        "slug": organization.slug,
        "schema": organization.schema_name,
        "ready": organization.ready_at is not None and schema_exists(organization.schema_name),
        "suspended": organization.suspended_reason if organization.suspended_at else None,
        "limits": _own_or_plans(_limits(organization), plan),
        "priority": organization.priority,
        "model_limits": _model_limits(organization),
        "retention": organization.retention,
        "two_factors": organization.two_factors_required,
        "plan": organization.plan_id,
        "reuse": {
            "mode": organization.caching or (plan.caching if plan else Caching.OFF),
            "seconds": organization.reuse_seconds,
            "likeness": organization.cache_likeness,
            "adaptive": organization.cache_adaptive,
            "epoch": organization.cache_epoch,
            "epochs": organization.cache_epochs,
        },
    }


def _load_login(identifier: str) -> Fields | None:
    login = LogIn.objects.filter(pk=identifier).select_related("user").first()
    if login is None:
        return None
    return {
        "user": login.user_id,
        "ended": login.ended_at is not None or not login.user.is_active,
        "two_factors": login.two_factors,
    }


def _load_member(identifier: str) -> Fields | None:
    user, slug = identifier.split(":")
    rows = Membership.objects.filter(organization__slug=slug, user=int(user))
    member = rows.filter(user__is_active=True).first()
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


def _shape_key(fields: Fields) -> KnownKey:
    sets = {name: frozenset(fields[name]) for name in ("scopes", "models")}
    networks = tuple(map(origin.network, fields.get("networks", ())))
    limits = Limits(*fields["limits"])
    return KnownKey(**{**fields, **sets, "networks": networks, "limits": limits})


def _shape_organization(fields: Fields) -> KnownOrganization:
    models = {model: Limits(*each) for model, each in fields.get("model_limits", {}).items()}
    limits = Limits(*fields["limits"])
    reuse = Reusing(**fields.get("reuse", {}))
    shaped = {"limits": limits, "model_limits": models, "reuse": reuse}
    # What an older process put there may have fields that are no more.
    known = {
        name: fields[name] for name in KnownOrganization.__dataclass_fields__ if name in fields
    }
    return KnownOrganization(**{**known, **shaped})


def _shape_member(fields: Fields) -> KnownMember:
    limits = Limits(*fields.get("limits", ()))
    return KnownMember(fields["organization"], Role(fields["role"]), limits)


KEYS = Records(ApiKey.kind, load=_load_key, shape=_shape_key)
ORGANIZATIONS = Records(Organization.kind, load=_load_organization, shape=_shape_organization)
LOGINS = Records(LogIn.kind, load=_load_login, shape=lambda fields: KnownLogIn(**fields))
MEMBERS = Records(Membership.kind, load=_load_member, shape=_shape_member)
