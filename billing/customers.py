"""New customers: an organization and the account it owes on, made together."""

from dataclasses import dataclass
from datetime import datetime

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured, ValidationError
from django.db import transaction

from billing.models import LARGEST, Account, known_currency
from kit.errors import Invalid
from kit.money import decimal, parse
from tenants import audit, organizations
from tenants.audit import Actor
from tenants.models import Organization, User


@dataclass(frozen=True, slots=True)
class Terms:
    """What a customer may owe at most, in nanos of the currency (ISO 4217)."""

    currency: str
    credit_limit: int


def offered() -> Terms:
    """What the settings say of customers that found themselves in the portal.

    Raises `ImproperlyConfigured`, as each process does at its start: else nobody would be told
    before the first customer comes.
    """
    currency, limit = settings.NEW_CUSTOMER_CURRENCY, settings.NEW_CUSTOMER_CREDIT
    try:
        known_currency(currency)
    except ValidationError as error:
        raise ImproperlyConfigured(f"NEW_CUSTOMER_CURRENCY: {error.messages[0]}") from None
    try:
        nanos = parse(limit)
    except ValueError as error:
        raise ImproperlyConfigured(f"NEW_CUSTOMER_CREDIT: {error}") from None
    if nanos > LARGEST:
        most = decimal(LARGEST)
        raise ImproperlyConfigured(f"NEW_CUSTOMER_CREDIT: {limit} is more than {most}.")
    return Terms(currency, nanos)


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
