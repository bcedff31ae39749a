"""Payments that a card's holder takes back through the bank.

They are written down and told, and once lost answered by a suspension. What the provider says
counts, so an event that comes twice does no harm.
"""

from datetime import datetime

import structlog
from django.conf import settings
from django.db import transaction

from billing import charges, gateway, mails, topup_rules, topups
from billing.invoicing import shown
from billing.receivables import Payment
from tenants import organizations
from tenants.models import Organization

log = structlog.get_logger()

_OUTCOMES = {
    "won": Payment.Status.SUCCEEDED,
    "warning_closed": Payment.Status.SUCCEEDED,
    "lost": Payment.Status.LOST,
}
_DISPUTED = "A payment is disputed; once that is settled, set the top-up again."
_REASON = "A payment was taken back through the bank. Settle it with us to be served again."


def note(identifier: str, *, now: datetime) -> None:
    """Learn from the provider how a dispute stands, and do what follows once.

    Raises `charges.Unwritten` where its payment is not written down here yet.
    """
    intent, status = gateway.dispute_of(identifier)
    if not charges.is_written(intent):
        return
    with transaction.atomic():
        payments = Payment.objects.across_organizations().select_for_update()
        payment = payments.get(reference=intent)
        before, payment.status = payment.status, _OUTCOMES.get(status, Payment.Status.DISPUTED)
        payment.save(update_fields=["status"])
        if payment.status != before:
            owed = topups.follow(payment, now=now)
            if owed:
                log.error("credit of a lost payment is owed", payment=payment.pk, nanos=owed)
        log.error("a payment is disputed", payment=payment.pk, status=payment.status)
        if payment.status != Payment.Status.SUCCEEDED:
            topup_rules.stop(organization=payment.organization_id, why=_DISPUTED)
        if payment.status == Payment.Status.DISPUTED:
            _write(payment, f"dispute-{identifier}", "disputed", now)
        elif payment.status == Payment.Status.LOST:
            _lost(payment, identifier, now)


def is_why(organization: Organization) -> bool:
    """Whether it is suspended for a lost dispute: paying another invoice does not lift that."""
    return organization.suspended_reason == _REASON


def _lost(payment: Payment, identifier: str, now: datetime) -> None:
    suspends = settings.LOST_DISPUTE_SUSPENDS
    if suspends:
        organization = Organization.objects.get(pk=payment.organization_id)
        organizations.suspend(organization, now=now, reason=_REASON)
    _write(payment, f"dispute-{identifier}-lost", "dispute_lost", now, suspends=suspends)


def _write(payment: Payment, key: str, letter: str, now: datetime, **facts: object) -> None:
    mails.write(
        key=key,
        letter=letter,
        organization=payment.organization,
        now=now,
        invoice=payment.invoice,
        amount=shown(payment.amount_minor, payment.currency),
        what=f"the invoice {payment.invoice}" if payment.invoice else "prepaid credit",
        **facts,
    )
