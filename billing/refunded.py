"""What became of refunds, of ours and of those that were made at the provider.

Read from the provider as it stands, so what is heard twice, late or out of order does no harm. A
refund that was made may fail days later (a closed card): then nobody got the money, what it had
taken of a top-up's credit is credit again, and its organization is told.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from django.db import transaction
from django.db.models import Sum
from prometheus_client import Counter

from billing import charges, gateway, grants, mails
from billing.invoicing import shown
from billing.receivables import Payment, Refund
from billing.remote import RemoteRefund
from kit.money import from_minor

log = structlog.get_logger()

FAILED = Counter("refunds_failed_total", "Refunds that were made and failed afterwards.")
Status = Refund.Status
_FIRST_LOOK = timedelta(hours=1)
_MAY_FAIL = timedelta(days=35)
"""How long a refund may fail after it was made: a month, and some days."""
_LEARNED = ("status", "failure", "settled_at", "next_at", "reference")
_MADE_THERE = "Made at the payment provider"


@dataclass(frozen=True, slots=True)
class Back:
    """Nanos on their way back: `of` an invoice by its number, or of prepaid credit."""

    nanos: int
    currency: str
    of: str
    status: Status
    failure: str
    asked_at: datetime
    settled_at: datetime | None


def listed(organization: int, *, most: int = 20) -> list[Back]:
    """An organization's, the newest first."""
    rows = Refund.objects.for_org(organization).select_related("payment__invoice")
    return [
        Back(
            nanos=from_minor(row.amount_minor, row.payment.currency),
            currency=row.payment.currency,
            of=_of(row.payment),
            status=Status(row.status),
            failure=row.failure,
            asked_at=row.created_at,
            settled_at=row.settled_at,
        )
        for row in rows.order_by("-created_at", "-pk")[:most]
    ]


def note(intent: str, *, now: datetime) -> None:
    """Learn what of a payment was given back, and do what follows once.

    Raises `charges.Unwritten` where the payment is not written down here yet.
    """
    if not intent:
        return
    found = gateway.payment(intent)
    if found.refunded < found.amount and not charges.is_written(intent):
        return
    learn(intent, gateway.refunds_of(intent), now=now)


def learn(intent: str, found: list[RemoteRefund], *, now: datetime) -> None:
    """Have our rows say what the provider's refunds of a payment do, the oldest first.

    What is failed stays failed, as it does there: an older look that comes late undoes nothing.
    """
    with transaction.atomic():
        payments = Payment.objects.across_organizations().select_for_update()
        payment = payments.filter(reference=intent).first()
        if payment is None:
            return
        for each in found:
            row = _row_of(payment, each) or _made_there(payment, each, now)
            if each.has_failed and row.status != Status.FAILED:
                _fail(row, payment, each.failure or each.status, now)
            elif row.status in (Status.PENDING, Status.SENT):
                row.status = Status.DONE if each.status == "succeeded" else Status.SENT
                row.settled_at = now if row.status == Status.DONE else None
                row.next_at = row.next_at or next_look(row, now)
            row.reference = each.id
            row.save(update_fields=_LEARNED)


def take(row: Refund, payment: Payment, *, now: datetime) -> None:
    """What the refund gives back is counted, and of a top-up no credit any more."""
    payment.refunded_minor += row.amount_minor
    payment.save(update_fields=["refunded_minor"])
    if payment.grant_id is not None:
        row.taken = grants.take_back(
            payment.grant_id,
            nanos=from_minor(row.amount_minor, payment.currency),
            what=_name(row),
            now=now,
        )
        row.save(update_fields=["taken"])


def fail(refund: int, why: str, *, now: datetime) -> None:
    """The provider will not make it: it is credit again."""
    with transaction.atomic():
        row = Refund.objects.across_organizations().select_related("payment").get(pk=refund)
        payments = Payment.objects.across_organizations().select_for_update()
        payment = payments.get(pk=row.payment_id)
        row.refresh_from_db()
        if row.status != Status.FAILED:
            _fail(row, payment, why, now)
            row.save(update_fields=_LEARNED)


def next_look(row: Refund, now: datetime) -> datetime | None:
    """After an hour, and again after as long as it is old, until it can fail no more."""
    age = max(timedelta(), now - row.created_at)
    return now + max(_FIRST_LOOK, age) if age < _MAY_FAIL else None


def _row_of(payment: Payment, found: RemoteRefund) -> Refund | None:
    rows = Refund.objects.for_org(payment.organization_id).filter(payment=payment)
    row = rows.filter(reference=found.id).first()
    if row is None and found.refund.isdecimal():
        row = rows.filter(pk=int(found.refund), reference=None).first()
    return row


def _made_there(payment: Payment, found: RemoteRefund, now: datetime) -> Refund:
    """A new row; nothing is taken for what had failed before it was heard of."""
    rows = Refund.objects.for_org(payment.organization_id).filter(payment=payment)
    known = rows.exclude(status=Status.FAILED).aggregate(sum=Sum("amount_minor", default=0))
    is_counted = payment.refunded_minor - int(known["sum"]) >= found.amount
    row = Refund.objects.create(
        organization_id=payment.organization_id,
        payment=payment,
        amount_minor=found.amount,
        reason=_MADE_THERE,
        status=Status.FAILED if found.has_failed else Status.SENT,
        failure=found.failure,
        reference=found.id,
        created_at=now,
        settled_at=now if found.has_failed else None,
    )
    log.warning("a payment was given back", payment=payment.pk, minor=found.amount)
    if not found.has_failed and not is_counted:
        take(row, payment, now=now)
    return row


def _fail(row: Refund, payment: Payment, why: str, now: datetime) -> None:
    was_made = row.status != Status.PENDING
    row.status, row.failure, row.settled_at, row.next_at = Status.FAILED, why[:300], now, None
    log.error("a refund failed", refund=row.pk, payment=payment.pk, error=why)
    payment.refunded_minor -= row.amount_minor
    payment.save(update_fields=["refunded_minor"])
    if payment.grant_id is not None:
        grants.put_back(payment.grant_id, nanos=row.taken, what=_name(row), taken_at=row.created_at)
    if was_made:
        FAILED.inc()
        _tell(row, payment, now)


def _tell(row: Refund, payment: Payment, now: datetime) -> None:
    mails.write(
        key=f"refund-{row.pk}-failed",
        letter="refund_failed",
        organization=payment.organization,
        now=now,
        amount=shown(row.amount_minor, payment.currency),
        of=_of(payment),
        is_credit=payment.grant_id is not None,
    )


def _of(payment: Payment) -> str:
    return f"invoice {payment.invoice.number}" if payment.invoice else "prepaid credit"


def _name(row: Refund) -> str:
    return f"refund/{row.pk}"
