"""Whom invoices are made out to, as members say it: name, address, country, VAT id, e-mail."""

from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial

from django.core.exceptions import ValidationError
from django.db import transaction

from billing.models import BillingDetails
from billing.soon import soon
from billing.tax import EU, is_vat_id
from kit.errors import Invalid
from tenants import audit
from tenants.audit import Actor, Change
from tenants.models import Organization

_BETWEEN = str.maketrans("", "", " .-")
"""What people write into VAT ids for their eyes."""


@dataclass(frozen=True, slots=True)
class Details:
    """As an invoice's head says them; a VAT id and an e-mail address may be empty."""

    name: str
    address: str
    country: str
    vat_id: str = ""
    email: str = ""


def read(organization: int) -> Details | None:
    """None where nobody has said."""
    row = BillingDetails.objects.for_org(organization).first()
    return _as_said(row) if row else None


def write(*, organization: int, details: Details, now: datetime, by: Actor) -> Details:
    """They hold from the next document on; what is issued stays. Raises `Invalid`.

    The payment provider is told soon, or else with the next collection.
    """
    with transaction.atomic():
        Organization.objects.select_for_update().get(pk=organization)
        row = BillingDetails.objects.for_org(organization).first()
        before = asdict(_as_said(row)) if row else {}
        row = row or BillingDetails(organization_id=organization, version=0)
        row.name, row.address = details.name.strip(), details.address.strip()
        row.country = details.country.strip().upper()
        row.vat_id = details.vat_id.translate(_BETWEEN).upper()
        row.email = details.email.strip()
        _require_right(row)
        was, now_is = audit.differences(before, asdict(_as_said(row)))
        if now_is:
            row.version += 1
            row.save()
            change = Change("billing_details.changed", "billing_details", was, now_is)
            audit.record(change, by=by, organization=organization, now=now)
            tell_on_commit(organization)
    return _as_said(row)


def tell_on_commit(organization: int) -> None:
    """Have a task tell the payment provider, once what the transaction changes is committed."""
    telling = partial(soon, "billing.tell_details", organization=str(organization))
    transaction.on_commit(telling, robust=True)


def _require_right(row: BillingDetails) -> None:
    try:
        row.clean_fields(exclude=["organization"])
    except ValidationError as error:
        field, messages = next(iter(error.message_dict.items()))
        raise Invalid(f"{field}: {messages[0]}", param=field) from error
    if row.vat_id and row.country in EU and not is_vat_id(row.vat_id, row.country):
        prefix = "EL" if row.country == "GR" else row.country
        raise Invalid(
            f"vat_id: {row.vat_id!r} is none of {row.country}'s; they are like {prefix}123456789. "
            "Leave it empty if you have none.",
            param="vat_id",
        )


def _as_said(row: BillingDetails) -> Details:
    return Details(row.name, row.address, row.country, row.vat_id, row.email)
