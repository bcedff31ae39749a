"""Money that we give back: what is unspent of a top-up, asked for by an operator.

The row is written and the credit shrinks, then the provider is asked, under a key of the row's.
What became of it, also days later, is `billing.refunded`'s.
"""

from datetime import datetime

import structlog
from django.db import transaction
from django.db.models import F, Q

from billing import gateway, leases, refunded
from billing.allowances import Grant
from billing.receivables import Payment, Refund
from billing.remote import Failed, Rejected, Unanswered
from kit.errors import Refused
from kit.money import from_minor, show
from tenants import audit
from tenants.audit import Actor, Change

log = structlog.get_logger()

Status = Refund.Status


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
        refunded.take(refund, row, now=now)
        after = {"amount_minor": minor, "currency": row.currency, "reason": reason}
        change = Change("top_up.refunded", f"payment:{row.pk}", after=after)
        audit.record(change, by=by, organization=row.organization_id, now=now)
    return refund


def watch(*, now: datetime) -> int:
    """Ask the provider for those that are wanted, and see whether those that were made still
    stand; how many were given back.
    """
    if not gateway.enabled():
        return 0
    rows = Refund.objects.across_organizations().filter(_due(now))
    return sum(_guarded(each, now) for each in rows.order_by("pk").values_list("pk", flat=True))


def _guarded(refund: int, now: datetime) -> bool:
    """One that fails keeps nobody else waiting."""
    try:
        return _step(refund, now)
    except Exception:
        log.exception("a refund could not be looked at", refund=refund)
        return False


def _due(now: datetime) -> Q:
    return leases.free(now) & (Q(status=Status.PENDING) | Q(next_at__lte=now))


def _step(refund: int, now: datetime) -> bool:
    """Once: whether it was made is looked up before it is asked for, again and again."""
    rows = Refund.objects.across_organizations().filter(pk=refund)
    if not rows.filter(_due(now)).update(leased_until=leases.until(now)):
        return False
    row = rows.select_related("payment").get()
    intent, ours = str(row.payment.reference), str(row.pk)
    try:
        if row.next_at is not None:
            rows.update(next_at=refunded.next_look(row, now))
        found = gateway.refunds_of(intent)
        if row.status == Status.PENDING and all(each.refund != ours for each in found):
            made = gateway.refund(
                intent=intent,
                minor=row.amount_minor,
                currency=row.payment.currency,
                key=f"refund-{row.pk}-{row.attempt}",
                refund=ours,
            )
            found.append(made)
        refunded.learn(intent, found, now=now)
    except Unanswered as error:
        log.warning("a refund got no answer; it is looked up", refund=refund, error=str(error))
    except Failed as error:
        log.warning("a refund failed; it is looked up", refund=refund, error=str(error))
        rows.update(attempt=F("attempt") + 1)
    except Rejected as error:
        if row.status == Status.PENDING:
            refunded.fail(refund, str(error), now=now)
    finally:
        rows.update(leased_until=None)
    return row.status == Status.PENDING and rows.filter(status=Status.DONE).exists()
