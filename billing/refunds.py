"""Money that is given back: what it had bought is taken back too.

By us, for what is left of a top-up: the row is written and the credit shrinks, then the provider is
asked, under a key of the row's. Or at the provider, which we hear of.
"""

from datetime import datetime, timedelta

import structlog
from django.db import transaction
from django.db.models import F, Q

from billing import charges, gateway, grants
from billing.allowances import Grant
from billing.receivables import Payment, Refund
from billing.remote import Failed, Rejected, RemotePayment, Unanswered
from kit.errors import Refused
from kit.money import from_minor, show
from tenants import audit
from tenants.audit import Actor, Change

log = structlog.get_logger()

Status = Refund.Status
_LEASE = timedelta(minutes=5)


class NotRefundable(Refused):
    """It is no paid top-up, or not so much of it is unspent."""

    status, code = 409, "not_refundable"


def require_refundable(payment: Payment, minor: int | None) -> int:
    """How much `ask` would give back, in the minor unit: all that is unspent unless said.

    Raises `NotRefundable`.
    """
    if payment.grant_id is None or not payment.reference:
        raise NotRefundable("payment: that bought no credit; an invoice is corrected by a note.")
    if payment.status != Payment.Status.SUCCEEDED:
        raise NotRefundable(f"payment: it is {payment.status}; only one that stands is refunded.")
    asked = Refund.objects.for_org(payment.organization_id).filter(payment=payment)
    if asked.filter(status=Status.PENDING).exists():
        raise NotRefundable("payment: a refund of it is under way; wait for its end.")
    grant = Grant.objects.for_org(payment.organization_id).get(pk=payment.grant_id)
    unspent = grant.remaining // from_minor(1, payment.currency)
    left = min(unspent, payment.amount_minor - payment.refunded_minor)
    left = gateway.chargeable(left, payment.currency)
    minor = left if minor is None else minor
    if not 0 < minor <= left or gateway.chargeable(minor, payment.currency) != minor:
        wanted, most = (
            show(from_minor(each, payment.currency), payment.currency) for each in (minor, left)
        )
        raise NotRefundable(f"amount: {wanted} cannot be given back; {most} of it is unspent.")
    return minor


def ask(*, payment: int, minor: int | None, reason: str, now: datetime, by: Actor) -> Refund:
    """Give back so much of a top-up, all that is unspent unless said: it is no credit from now on.

    The provider is asked by `watch`. Raises `NotRefundable`.
    """
    with transaction.atomic():
        row = Payment.objects.across_organizations().select_for_update().get(pk=payment)
        grant = int(row.grant_id or 0)
        Grant.objects.for_org(row.organization_id).select_for_update().filter(pk=grant).first()
        minor = require_refundable(row, minor)
        refund = Refund.objects.create(
            organization_id=row.organization_id,
            payment=row,
            amount_minor=minor,
            reason=reason,
            created_at=now,
        )
        row.refunded_minor += minor
        row.save(update_fields=["refunded_minor"])
        grants.take_back(grant, now=now, nanos=from_minor(minor, row.currency))
        after = {"amount_minor": minor, "currency": row.currency, "reason": reason}
        change = Change("top_up.refunded", f"payment:{row.pk}", after=after)
        audit.record(change, by=by, organization=row.organization_id, now=now)
    return refund


def watch(*, now: datetime) -> int:
    """Ask the provider for those that are wanted; how many were given back."""
    if not gateway.enabled():
        return 0
    rows = Refund.objects.across_organizations().filter(_free(now))
    return sum(_guarded(each, now) for each in rows.order_by("pk").values_list("pk", flat=True))


def _guarded(refund: int, now: datetime) -> bool:
    """One that fails keeps nobody else waiting."""
    try:
        return _send(refund, now)
    except Exception:
        log.exception("a refund could not be looked at", refund=refund)
        return False


def _free(now: datetime) -> Q:
    return Q(status=Status.PENDING) & (Q(leased_until=None) | Q(leased_until__lte=now))


def _send(refund: int, now: datetime) -> bool:
    """Once: whether it was made is looked up before it is asked for, again and again."""
    rows = Refund.objects.across_organizations().filter(pk=refund)
    if not rows.filter(_free(now)).update(leased_until=now + _LEASE):
        return False
    row = rows.select_related("payment").get()
    intent, ours = str(row.payment.reference), str(row.pk)
    try:
        if ours not in gateway.refunds_of(intent):
            gateway.refund(
                intent=intent,
                minor=row.amount_minor,
                currency=row.payment.currency,
                key=f"refund-{row.pk}-{row.attempt}",
                refund=ours,
            )
        rows.update(status=Status.DONE, settled_at=now)
        return True
    except Unanswered as error:
        log.warning("a refund got no answer; it is looked up", refund=refund, error=str(error))
    except Failed as error:
        log.warning("a refund failed; it is looked up", refund=refund, error=str(error))
        rows.update(attempt=F("attempt") + 1)
    except Rejected as error:
        _fail(row, str(error), now)
    finally:
        rows.update(leased_until=None)
    return False


def _fail(row: Refund, why: str, now: datetime) -> None:
    """The provider will not: it is credit again."""
    log.error("a top-up could not be refunded", refund=row.pk, error=why)
    with transaction.atomic():
        payment = Payment.objects.across_organizations().select_for_update().get(pk=row.payment_id)
        payment.refunded_minor -= row.amount_minor
        payment.save(update_fields=["refunded_minor"])
        nanos = from_minor(row.amount_minor, payment.currency)
        grants.put_back(int(payment.grant_id or 0), nanos=nanos, taken_at=row.created_at)
        Refund.objects.across_organizations().filter(pk=row.pk).update(
            status=Status.FAILED, failure=why[:300], settled_at=now
        )


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
        ours = Refund.objects.for_org(row.organization_id).filter(payment=row)
        if more < 0 and ours.exclude(status=Status.FAILED).exists():
            return
        row.refunded_minor = found.refunded
        row.save(update_fields=["refunded_minor"])
        log.warning("a payment was given back", payment=row.pk, minor=more)
        if row.grant_id is not None and more > 0:
            is_whole = found.refunded >= row.amount_minor
            nanos = None if is_whole else from_minor(more, row.currency)
            grants.take_back(row.grant_id, now=now, nanos=nanos)
