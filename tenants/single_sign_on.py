"""An organization's own OpenID provider: set up, taken away, and whom it may let in."""

from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlsplit

from django.conf import settings
from django.db import transaction

from kit.envelope import Place
from kit.errors import Invalid, Refused
from tenants import audit, sealing
from tenants.audit import Actor, Change
from tenants.models import Membership, Organization, Role, SingleSignOn, User


class NotVouchedFor(Refused):
    """The provider says who somebody is, but may not say it of this address."""

    status, code = 403, "address_not_vouched_for"


@dataclass(frozen=True, slots=True)
class Provider:
    """What a log-in needs to know; `slug` is the organization's."""

    slug: str
    name: str
    issuer: str
    client_id: str
    client_secret: str


def of(organization: int) -> SingleSignOn | None:
    """As it is set up."""
    return SingleSignOn.objects.for_org(organization).first()


def set_up(
    organization: Organization,
    *,
    issuer: str,
    client_id: str,
    client_secret: str,
    role: Role,
    now: datetime,
    by: Actor,
) -> None:
    """Set it up, or anew; an empty `client_secret` keeps the one there is. Raises `Invalid`."""
    _refuse_issuer(issuer)
    row = of(organization.pk) or SingleSignOn(organization=organization)
    if not client_id or len(client_id) > 200:
        raise Invalid("client_id: give the one that the provider knows us by.", param="client_id")
    if role is Role.OWNER:
        raise Invalid("role: nobody comes in as an owner; choose another.", param="role")
    if not client_secret and not row.pk:
        raise Invalid("client_secret: give the provider's.", param="client_secret")
    before = _facts(row) if row.pk else {}
    row.issuer, row.client_id, row.role = issuer.rstrip("/"), client_id, role
    if client_secret:
        row.client_secret = sealing.seal(client_secret, _place(organization.pk))
    with transaction.atomic():
        row.save()
        was, became = audit.differences(before, _facts(row))
        became |= {"client_secret": "changed"} if client_secret else {}
        _record("single_sign_on.set_up", organization, was, became, by, now)


def take_away(organization: Organization, *, now: datetime, by: Actor) -> None:
    """People log in otherwise; again changes nothing."""
    row = of(organization.pk)
    if row is None:
        return
    with transaction.atomic():
        before = _facts(row)
        row.delete()
        _record("single_sign_on.taken_away", organization, before, {}, by, now)


def provider(slug: str) -> Provider | None:
    """Of an organization that is served and whose domains are confirmed."""
    rows = SingleSignOn.objects.filter(organization__slug=slug).select_related("organization")
    row = rows.filter(organization__suspended_at=None).exclude(domains=[]).first()
    if row is None:
        return None
    secret = sealing.unseal(row.client_secret, _place(row.organization_id))
    return Provider(slug, row.organization.name, row.issuer, row.client_id, secret)


def vouches(slug: str, email: str) -> bool:
    """Whether the organization's provider may say whose address this is."""
    row = SingleSignOn.objects.filter(organization__slug=slug).first()
    return row is not None and email.rpartition("@")[2].lower() in row.domains


def let_in(slug: str, user: User, *, now: datetime) -> None:
    """Whom the provider knows belongs to the organization; members stay what they are."""
    row = SingleSignOn.objects.filter(organization__slug=slug).select_related("organization").get()
    members = Membership.objects.for_org(row.organization_id)
    with transaction.atomic():
        User.objects.select_for_update().get(pk=user.pk)
        if members.filter(user=user).exists():
            return
        Membership.objects.create(user=user, organization=row.organization, role=row.role)
        change = Change("membership.created", f"user:{user.pk}", {}, {"role": row.role})
        by = Actor(f"user:{user.pk}", user.email)
        audit.record(change, by=by, organization=row.organization_id, now=now)


def _refuse_issuer(issuer: str) -> None:
    parts = urlsplit(issuer)
    schemes = {"https"} if settings.PRODUCTION else {"https", "http"}
    if parts.scheme not in schemes or not parts.hostname or len(issuer) > 200 or parts.query:
        raise Invalid(
            "issuer: give the provider's address, like https://login.example.com.", param="issuer"
        )


def _place(organization: int) -> Place:
    return Place(organization, "single_sign_on.client_secret", str(organization))


def _facts(row: SingleSignOn) -> dict[str, str]:
    return {"issuer": row.issuer, "client_id": row.client_id, "role": str(row.role)}


def _record(
    action: str,
    organization: Organization,
    before: dict[str, str],
    after: dict[str, str],
    by: Actor,
    now: datetime,
) -> None:
    change = Change(action, f"organization:{organization.slug}", before, after)
    audit.record(change, by=by, organization=organization.pk, now=now)
