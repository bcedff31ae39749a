"""Use that no request makes: what lies stored. Measured once an hour, booked like a request's.

Nobody reserves for it, so it may take an account past its credit by what was stored already.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction

from billing import credit, ledger, pricing
from billing.ledger import Entry, Kind
from billing.models import Account, Meter, State
from billing.months import month_of
from billing.pricing import NoPrice
from kit.ids import named_id

STORAGE = "storage"
"""What price lists, invoices and usage call it, as they call a model by its name."""
HOUR = timedelta(hours=1)


def hour_of(now: datetime) -> datetime:
    """The last hour that is over, by its beginning."""
    return now.replace(minute=0, second=0, microsecond=0) - HOUR


def book_storage(stored: Mapping[int, int], *, hour: datetime, now: datetime) -> int:
    """Write what organizations had stored, in bytes, for an hour; how many rows were written.

    Where storage has no price nothing is written. A row's identifier is made of whose hour it is:
    the same hour again changes nothing, whatever is stored by then.
    """
    accounts = Account.objects.across_organizations().filter(organization__in=stored)
    currencies = dict(accounts.values_list("organization_id", "currency"))
    entries = [
        found
        for organization, currency in sorted(currencies.items())
        if (found := _entry(organization, currency, stored[organization], hour)) is not None
    ]
    with transaction.atomic():
        before = ledger.standing(each.request for each in entries)
        new = [each for each in entries if each.request not in before]
        ledger.book(new, now=now, month=month_of(hour))
        for each in new:
            if each.amount:
                credit.renew_on_commit(each.organization)
    return len(new)


def _entry(organization: int, currency: str, stored: int, hour: datetime) -> Entry | None:
    try:
        price = pricing.price_for(STORAGE, hour, currency=currency, organization=organization)
    except NoPrice:
        return None
    units = {Meter.STORAGE_BYTE_HOURS.value: stored}
    charge = pricing.charge(price, units)
    return Entry(
        request=named_id(hour, f"meter/{organization}/{STORAGE}"),
        organization=organization,
        key="",
        model=STORAGE,
        state=State.FINISHED,
        currency=currency,
        price_version=price.version,
        region=settings.REGION,
        units=units,
        amounts=charge.amounts,
        amount=charge.amount,
        kind=Kind.METER,
    )
