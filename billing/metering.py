"""Use that no request makes: what lies stored, and devices held for one organization alone.

Measured by the hour, booked like a request's. Nobody reserves for it, so it may take an account
past its credit by what was there already.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import attrgetter

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


@dataclass(frozen=True, slots=True)
class Reading:
    """What a meter stood at for an hour: `units` of an organization's, under a model's price.

    `name` tells readings of one organization and hour apart.
    """

    organization: int
    model: str
    meter: Meter
    units: int
    name: str


def book_storage(stored: Mapping[int, int], *, hour: datetime, now: datetime) -> int:
    """Write what organizations had stored, in bytes, for an hour; how many rows were written.

    Where storage has no price nothing is written.
    """
    return _book(
        [
            Reading(organization, STORAGE, Meter.STORAGE_BYTE_HOURS, size, STORAGE)
            for organization, size in stored.items()
        ],
        hour=hour,
        now=now,
    )


def book_devices(held: Mapping[tuple[int, str], int], *, hour: datetime, now: datetime) -> int:
    """Write for how many seconds of an hour workers of this region held the models that are
    dedicated to organizations, by those and their models; how many rows were written.

    Where a model has no price nothing is written, nor for an organization that was erased.
    """
    return _book(
        [
            Reading(
                organization, model, Meter.DEVICE_SECONDS, seconds, f"{model}/{settings.REGION}"
            )
            for (organization, model), seconds in held.items()
            if seconds
        ],
        hour=hour,
        now=now,
    )


def _book(readings: Sequence[Reading], *, hour: datetime, now: datetime) -> int:
    """A row's identifier is made of what was read, whose and when: the same hour again changes
    nothing, whatever the meter says by then."""
    accounts = Account.objects.across_organizations().filter(
        organization__in={each.organization for each in readings}, organization__erased_at=None
    )
    currencies = dict(accounts.values_list("organization_id", "currency"))
    entries = [
        found
        for each in sorted(readings, key=attrgetter("organization", "name"))
        if each.organization in currencies
        and (found := _entry(each, currencies[each.organization], hour)) is not None
    ]
    with transaction.atomic():
        before = ledger.standing(each.request for each in entries)
        new = [each for each in entries if each.request not in before]
        ledger.book(new, now=now, month=month_of(hour))
        for each in new:
            if each.amount:
                credit.renew_on_commit(each.organization)
    return len(new)


def _entry(reading: Reading, currency: str, hour: datetime) -> Entry | None:
    organization = reading.organization
    try:
        price = pricing.price_for(reading.model, hour, currency=currency, organization=organization)
    except NoPrice:
        return None
    units = {reading.meter.value: reading.units}
    charge = pricing.charge(price, units)
    return Entry(
        request=named_id(hour, f"meter/{organization}/{reading.name}"),
        organization=organization,
        key="",
        model=reading.model,
        state=State.FINISHED,
        currency=currency,
        price_version=price.version,
        region=settings.REGION,
        units=units,
        amounts=charge.amounts,
        amount=charge.amount,
        kind=Kind.METER,
    )
