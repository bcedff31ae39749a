"""An organization at the payment provider: its customer, its VAT id, its saved card."""

from datetime import datetime

import structlog
from django.db.models import F

from billing import gateway
from billing.models import BillingDetails
from billing.receivables import Collection, PaymentProfile
from billing.remote import Buyer, Card, Failed, Rejected
from billing.tax import EU
from tenants.models import Organization

log = structlog.get_logger()

_KINDS = {"GB": "gb_vat", "CH": "ch_vat", "NO": "no_vat"}


def ensure(organization: Organization) -> PaymentProfile:
    """The profile, with a customer at the provider and the VAT id there.

    Raises what `gateway` raises; after a definite failure the next try has other keys.
    """
    profile, _ = PaymentProfile.objects.for_org(organization).get_or_create(
        organization=organization
    )
    try:
        _make_known(profile, organization)
    except Failed:
        PaymentProfile.objects.for_org(organization).update(round=F("round") + 1)
        raise
    return profile


def _make_known(profile: PaymentProfile, organization: Organization) -> None:
    details = BillingDetails.objects.for_org(organization).first()
    buyer, version = _buyer(details, organization), details.version if details else 0
    if not profile.customer:
        profile.customer = gateway.create_customer(
            organization=organization.pk,
            buyer=buyer,
            key=f"customer-{organization.pk}-{profile.round}",
        )
        profile.told = version
        profile.save(update_fields=["customer", "told"])
    if details is None:
        return
    if profile.told != version:
        _tell(profile, buyer, version)
    _change_tax_id(profile, details)


def _buyer(details: BillingDetails | None, organization: Organization) -> Buyer:
    if details is None:
        return Buyer(organization.name)
    return Buyer(details.name, details.email, details.country, details.address)


def _tell(profile: PaymentProfile, buyer: Buyer, version: int) -> None:
    """What the provider will not take of it is no reason to collect nothing."""
    key = f"customer-{profile.organization_id}-details-{version}-{profile.round}"
    try:
        gateway.update_customer(customer=str(profile.customer), buyer=buyer, key=key)
    except Rejected as error:
        log.warning("a customer could not be changed", key=key, error=str(error))
    profile.told = version
    profile.save(update_fields=["told"])


def tell(organization: int) -> None:
    """Have the provider know the details as they are now, if it knows the organization at all."""
    known = PaymentProfile.objects.for_org(organization).exclude(customer=None)
    if gateway.enabled() and known.exists():
        ensure(Organization.objects.get(pk=organization))


def refresh(customer: str, *, now: datetime) -> None:
    """Learn from the provider which card is charged; another one is tried at once."""
    profile = PaymentProfile.objects.across_organizations().filter(customer=customer).first()
    if profile is not None:
        keep(profile, gateway.saved_card(customer), now=now)


def keep(profile: PaymentProfile, card: Card | None, *, now: datetime) -> None:
    """Remember the card; invoices that wait for one are tried with it."""
    before = profile.method
    profile.method, profile.card = (card.method, card.shown) if card else ("", "")
    profile.save(update_fields=["method", "card"])
    if card and card.method != before:
        waiting = Collection.objects.for_org(profile.organization_id)
        waiting.exclude(stage=Collection.Stage.DONE).update(next_at=now, retry_at=None)


def _change_tax_id(profile: PaymentProfile, details: BillingDetails) -> None:
    """The new one, and the old one no more."""
    kind = "eu_vat" if details.country in EU else _KINDS.get(details.country)
    value = details.vat_id if kind else ""
    if value == profile.tax_id:
        return
    try:
        gateway.keep_tax_id(
            customer=str(profile.customer),
            kind=kind or "",
            value=value,
            instead_of=profile.tax_id,
            key=f"tax-{profile.organization_id}-{value}-{details.version}-{profile.round}",
        )
    except Rejected:
        return
    profile.tax_id = value
    profile.save(update_fields=["tax_id"])
