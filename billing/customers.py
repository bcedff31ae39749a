"""New customers: an organization and the account it owes on, made together."""

from dataclasses import dataclass
from datetime import datetime

from django.core.exceptions import ValidationError
from django.db import transaction

from billing.models import Account
from kit.errors import Invalid
from tenants import audit, organizations
from tenants.audit import Actor
from tenants.models import Organization, User


@dataclass(frozen=True, slots=True)
class Terms:
    """What a customer may owe at most, in nanos of the currency (ISO 4217)."""

    currency: str
    credit_limit: int


def found(
    *,
    slug: str,
    name: str,
    owner: User | None,
    terms: Terms,
    now: datetime,
    by: Actor = audit.SYSTEM,
) -> Organization:
    """The organization's row and its account; its schema is yet to be made.

    Raises what `tenants.organizations.found` raises, and `Invalid` for the terms.
    """
    account = Account(currency=terms.currency, credit_limit=terms.credit_limit)
    try:
        account.clean_fields(exclude=["organization"])
    except ValidationError as error:
        field, messages = next(iter(error.message_dict.items()))
        raise Invalid(f"{field}: {messages[0]}", param=field) from error
    with transaction.atomic():
        organization = organizations.found(slug=slug, name=name, owner=owner, now=now, by=by)
        account.organization = organization
        account.save()
    return organization
