"""An organization's own identity provider: set up, taken away, and whom it may let in."""

from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from urllib.parse import urlsplit

from django.conf import settings
from django.db import transaction

from kit.envelope import Place
from kit.errors import Invalid, Refused
from tenants import audit, sealing
from tenants.audit import Actor, Change
from tenants.members import refuse_crowd
from tenants.models import Membership, Organization, Protocol, Role, SingleSignOn, User
from tenants.saml import Metadata


class NotVouchedFor(Refused):
    """The provider says who somebody is, but may not say it of this address."""

    status, code = 403, "address_not_vouched_for"


@dataclass(frozen=True, slots=True)
class Provider:
    """What a log-in needs to know; `slug` is the organization's."""

    slug: str
    name: str
    issuer: str
    client_id: str = ""
    client_secret: str = ""
    protocol: Protocol = Protocol.OIDC
    address: str = ""
    certificates: tuple[str, ...] = ()


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
    _refuse_address(issuer, "issuer")
    row = of(organization.pk) or SingleSignOn(organization=organization)
    if row.protocol == Protocol.SAML:
        row.address = row.certificate = row.client_secret = ""
    if not client_id or len(client_id) > 200:
        raise Invalid("client_id: give the one that the provider knows us by.", param="client_id")
    _refuse_role(role)
    if not client_secret and not row.client_secret:
        raise Invalid("client_secret: give the provider's.", param="client_secret")
    before = _facts(row) if row.pk else {}
    row.protocol = Protocol.OIDC
    row.issuer, row.client_id, row.role = issuer.rstrip("/"), client_id, role
    if client_secret:
        row.client_secret = sealing.seal(client_secret, _place(organization.pk))
    with transaction.atomic():
        row.save()
        was, became = audit.differences(before, _facts(row))
        became |= {"client_secret": "changed"} if client_secret else {}
        _record("single_sign_on.set_up", organization, was, became, by, now)


def set_up_saml(
    organization: Organization, *, metadata: Metadata, role: Role, now: datetime, by: Actor
) -> None:
    """Set a SAML provider up, or anew. Raises `Invalid`."""
    _refuse_address(metadata.address, "metadata")
    _refuse_role(role)
    if len(metadata.entity) > 200:
        raise Invalid("metadata: its entityID is longer than 200 characters.", param="metadata")
    row = of(organization.pk) or SingleSignOn(organization=organization)
    before = _facts(row) if row.pk else {}
    row.protocol, row.role = Protocol.SAML, role
    row.issuer, row.address = metadata.entity, metadata.address
    row.certificate = ",".join(metadata.certificates)
    row.client_id = row.client_secret = ""
    with transaction.atomic():
        row.save()
        was, became = audit.differences(before, _facts(row))
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
    if row.protocol == Protocol.SAML:
        return Provider(
            slug,
            row.organization.name,
            row.issuer,
            protocol=Protocol.SAML,
            address=row.address,
            certificates=tuple(row.certificate.split(",")),
        )
    secret = sealing.unseal(row.client_secret, _place(row.organization_id))
    return Provider(slug, row.organization.name, row.issuer, row.client_id, secret)


def vouches(slug: str, email: str) -> bool:
    """Whether the organization's provider may say whose address this is."""
    row = SingleSignOn.objects.filter(organization__slug=slug).first()
    return row is not None and email.rpartition("@")[2].lower() in row.domains


def let_in(slug: str, user: User, *, now: datetime) -> None:
    """Whom the provider knows belongs to the organization; members stay what they are.

    Raises `TooManyMembers`.
    """
    row = SingleSignOn.objects.filter(organization__slug=slug).select_related("organization").get()
    members = Membership.objects.for_org(row.organization_id)
    if members.filter(user=user).exists():
        return
    with transaction.atomic():
        refuse_crowd(row.organization_id)
        if members.filter(user=user).exists():
            return
        Membership.objects.create(user=user, organization=row.organization, role=row.role)
        change = Change("membership.created", f"user:{user.pk}", {}, {"role": row.role})
        by = Actor(f"user:{user.pk}", user.email)
        audit.record(change, by=by, organization=row.organization_id, now=now)


def _refuse_address(address: str, param: str) -> None:
    parts = urlsplit(address)
    schemes = {"https"} if settings.PRODUCTION else {"https", "http"}
    query = parts.query if param == "issuer" else ""
    longest = 200 if param == "issuer" else 500
    if parts.scheme not in schemes or not parts.hostname or len(address) > longest or query:
        raise Invalid(
            f"{param}: give the provider's address, like https://login.example.com.", param=param
        )


def _refuse_role(role: Role) -> None:
    if role is Role.OWNER:
        raise Invalid("role: nobody comes in as an owner; choose another.", param="role")


def _place(organization: int) -> Place:
    return Place(organization, "single_sign_on.client_secret", str(organization))


def _facts(row: SingleSignOn) -> dict[str, str]:
    facts = {"protocol": str(row.protocol), "issuer": row.issuer, "role": str(row.role)}
    if row.protocol == Protocol.OIDC:
        return {**facts, "client_id": row.client_id}
    certificate = sha256(row.certificate.encode()).hexdigest()
    return {**facts, "address": row.address, "certificate": certificate}


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
