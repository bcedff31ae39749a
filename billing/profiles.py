"""An organization at the payment provider: its customer, its VAT id, its saved card."""

from datetime import datetime

from django.db.models import F

from billing import gateway
from billing.models import BillingDetails
from billing.receivables import Collection, PaymentProfile
from billing.remote import Card, Failed, Rejected
from billing.tax import EU
from tenants.models import Organization

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
    if not profile.customer:
        profile.customer = gateway.create_customer(
            organization=organization.pk,
            name=details.name if details else organization.name,
            email=details.email if details else "",
            country=details.country if details else "",
            key=f"customer-{organization.pk}-{profile.round}",
        )
        profile.save(update_fields=["customer"])
    if details and details.vat_id and details.vat_id != profile.tax_id:
        _add_tax_id(profile, details)


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


def _add_tax_id(profile: PaymentProfile, details: BillingDetails) -> None:
    kind = "eu_vat" if details.country in EU else _KINDS.get(details.country)
    if kind is None or profile.customer is None:
        return
    key = f"tax-{profile.organization_id}-{details.vat_id}-{profile.round}"
    try:
        gateway.add_tax_id(customer=profile.customer, kind=kind, value=details.vat_id, key=key)
    except Rejected:
        return
    profile.tax_id = details.vat_id
    profile.save(update_fields=["tax_id"])
