"""Money that was given back at the provider: what it had bought is taken back too."""

from datetime import datetime

import structlog
from django.db import transaction

from billing import charges, gateway, grants
from billing.receivables import Payment
from billing.remote import RemotePayment
from kit.money import from_minor

log = structlog.get_logger()


def note(intent: str, *, now: datetime) -> None:
    """Learn how much of a payment was given back, and do what follows once.

    Raises `charges.Unwritten` where the payment is not written down here yet.
    """
    if not intent:
        return
    found = gateway.payment(intent)
    if found.refunded < found.amount and not charges.is_written(intent):
        return
    follow(found, now=now)


def follow(found: RemotePayment, *, now: datetime) -> None:
    """Take back the part of a top-up's credit that was given back since we looked last.

    What the credit has paid for already, in months that are open, is owed for it.
    """
    with transaction.atomic():
        payments = Payment.objects.across_organizations().select_for_update()
        row = payments.filter(reference=found.id).first()
        if row is None or found.refunded == row.refunded_minor:
            return
        more = found.refunded - row.refunded_minor
        row.refunded_minor = found.refunded
        row.save(update_fields=["refunded_minor"])
        log.warning("a payment was given back", payment=row.pk, minor=more)
        if row.grant_id is not None and more > 0:
            is_whole = found.refunded >= row.amount_minor
            nanos = None if is_whole else from_minor(more, row.currency)
            grants.take_back(row.grant_id, now=now, nanos=nanos)
