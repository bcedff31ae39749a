"""Credit that is paid for before it is used: by hand, or by itself when little is left."""

from datetime import datetime, timedelta

import structlog
from django.db import transaction

from billing import credit, gateway, grants, mails
from billing.allowances import AutoTopUp, Grant
from billing.models import Account
from billing.receivables import Payment, PaymentProfile
from billing.remote import Declined, Failed, Rejected, RemoteCheckout, Unanswered
from kit.money import from_minor

log = structlog.get_logger()

_PAUSE = timedelta(minutes=5)
"""Between two top-ups of an organization, so that a wrong rule doesn't empty an account."""


def credited(*, organization: int, minor: int, reference: str, now: datetime) -> Grant:
    """A top-up has been paid: it is credit now; again with the same reference changes nothing."""
    currency = Account.objects.for_org(organization).values_list("currency", flat=True).get()
    return grants.give(
        organization=organization,
        amount=from_minor(minor, currency),
        reason="Top-up",
        kind=Grant.Kind.TOP_UP,
        reference=reference,
        now=now,
    )


def paid(*, organization: int, found: RemoteCheckout, now: datetime) -> None:
    """Write down the payment that a person made on the provider's page, once."""
    currency = Account.objects.for_org(organization).values_list("currency", flat=True).get()
    Payment.objects.for_org(organization).get_or_create(
        reference=found.payment_intent,
        defaults={
            "organization_id": organization,
            "amount_minor": found.amount,
            "currency": currency,
            "status": Payment.Status.SUCCEEDED,
            "created_at": now,
            "settled_at": now,
        },
    )


def watch(*, now: datetime) -> int:
    """Buy credit for those who want it whenever little is left; how many got some."""
    rows = AutoTopUp.objects.across_organizations().filter(stopped="")
    return sum(_top_up(row, now) for row in rows.select_related("organization"))


def _top_up(row: AutoTopUp, now: datetime) -> bool:
    profile = PaymentProfile.objects.for_org(row.organization).exclude(method="").first()
    if profile is None or not gateway.enabled():
        return False
    payment = _wanted(row, now)
    if payment is None:
        return False
    try:
        done = gateway.charge(
            customer=str(profile.customer),
            method=profile.method,
            minor=payment.amount_minor,
            currency=payment.currency,
            payment=str(payment.pk),
            key=f"payment-{payment.pk}",
        )
    except Unanswered as error:
        log.warning("a top-up got no answer; it is asked for again", error=str(error))
        return False
    except Failed:
        return _look(row, profile, payment, now)
    except (Declined, Rejected) as error:
        _stop(row, payment, str(error), now)
        return False
    return _book(payment, done.id, now)


def _wanted(row: AutoTopUp, now: datetime) -> Payment | None:
    """The payment that a crash left open, or a new one where too little is left."""
    with transaction.atomic():
        account = Account.objects.for_org(row.organization).select_for_update().get()
        payments = Payment.objects.for_org(row.organization).filter(invoice=None)
        last = payments.order_by("-pk").first()
        if last is not None and last.status == Payment.Status.PENDING:
            return last
        limit, spent = credit.sums(account, now=now)
        if limit - spent >= row.below or (last and last.created_at > now - _PAUSE):
            return None
        return Payment.objects.create(
            organization=row.organization,
            amount_minor=row.amount_minor,
            currency=account.currency,
            created_at=now,
        )


def _look(row: AutoTopUp, profile: PaymentProfile, payment: Payment, now: datetime) -> bool:
    """After a definite failure: whether it was charged all the same."""
    for each in gateway.payments(customer=str(profile.customer)):
        if each.payment == str(payment.pk) and each.status == "succeeded":
            return _book(payment, each.id, now)
    payment.status, payment.settled_at = Payment.Status.FAILED, now
    payment.failure = "The payment provider failed."
    payment.save(update_fields=["status", "failure", "settled_at"])
    return False


def _book(payment: Payment, intent: str, now: datetime) -> bool:
    with transaction.atomic():
        payment.status, payment.reference = Payment.Status.SUCCEEDED, intent
        payment.settled_at = now
        payment.save(update_fields=["status", "reference", "settled_at"])
        credited(
            organization=payment.organization_id,
            minor=payment.amount_minor,
            reference=f"payment-{payment.pk}",
            now=now,
        )
    return True


def _stop(row: AutoTopUp, payment: Payment, why: str, now: datetime) -> None:
    with transaction.atomic():
        payment.status, payment.failure = Payment.Status.FAILED, why[:300]
        payment.settled_at = now
        payment.save(update_fields=["status", "failure", "settled_at"])
        row.stopped = why[:300]
        row.save(update_fields=["stopped"])
        mails.write(
            key=f"top-up-{payment.pk}-failed",
            letter="top_up_failed",
            organization=row.organization,
            now=now,
            why=why,
        )
