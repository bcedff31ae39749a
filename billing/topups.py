"""Credit that is paid for before it is used: by hand, or by itself when little is left."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TypeVar

import structlog
from django.db import transaction
from django.db.models import F, Q

from billing import credit, gateway, grants, leases, mails, refunded, topup_rules
from billing.allowances import AutoTopUp, Grant
from billing.models import Account
from billing.receivables import Payment, PaymentProfile
from billing.remote import Declined, Failed, Rejected, RemotePayment, Unanswered
from kit.money import from_minor

log = structlog.get_logger()

Subject = TypeVar("Subject")
Status = Payment.Status
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


def paid(*, organization: int, payment: RemotePayment, reference: str, now: datetime) -> None:
    """Write down the payment that a person made on the provider's page, and its credit, once."""
    currency = Account.objects.for_org(organization).values_list("currency", flat=True).get()
    with transaction.atomic():
        row, _ = Payment.objects.for_org(organization).get_or_create(
            reference=payment.id,
            defaults={
                "organization_id": organization,
                "amount_minor": payment.amount,
                "currency": currency,
                "status": _status(payment),
                "created_at": now,
                "settled_at": now,
            },
        )
        _credit(row, reference, now)
    if payment.refunded:
        refunded.learn(payment.id, gateway.refunds_of(payment.id), now=now)


def follow(payment: Payment, *, now: datetime) -> int:
    """What a dispute does to the credit that was bought with the payment.

    It stands still while the bank looks into it, goes on where the dispute was won, and is taken
    away where it was lost; the nanos that were used of it and are owed for that.
    """
    if payment.grant_id is None:
        return 0
    if payment.status == Status.LOST:
        return grants.lose(payment.grant_id, now=now)
    if payment.status == Status.DISPUTED:
        grants.halt(payment.grant_id, now=now)
    elif payment.status == Status.SUCCEEDED:
        grants.resume(payment.grant_id)
    return 0


def watch(*, now: datetime) -> int:
    """Finish what was begun, then buy credit for whoever has little left; how many got some.

    One that fails keeps nobody else waiting.
    """
    if not gateway.enabled():
        return 0
    begun = Payment.objects.across_organizations().filter(_free(now))
    done = sum(_guarded(_go_on, each, now) for each in begun.values_list("pk", flat=True))
    rules = AutoTopUp.objects.across_organizations().filter(stopped="")
    return done + sum(_guarded(_buy, row, now) for row in rules.select_related("organization"))


def _guarded(do: Callable[[Subject, datetime], bool], subject: Subject, now: datetime) -> bool:
    try:
        return do(subject, now)
    except Exception:
        log.exception("a top-up could not be looked at", subject=str(subject))
        return False


def _free(now: datetime) -> Q:
    """Begun, and in nobody's hands."""
    return Q(invoice=None, status=Status.PENDING) & leases.free(now)


def _go_on(payment: int, now: datetime) -> bool:
    """One that was begun: whether it was charged is looked up before anything is sent again."""
    rows = Payment.objects.across_organizations().filter(pk=payment)
    if not rows.filter(_free(now)).update(leased_until=leases.until(now)):
        return False
    row = rows.select_related("organization").get()
    return _alone(row, lambda: _learned(row, now) or _charge(row, now), now)


def _buy(rule: AutoTopUp, now: datetime) -> bool:
    """A new one, where too little is left."""
    if not PaymentProfile.objects.for_org(rule.organization).exclude(method="").exists():
        return False
    payment = _wanted(rule, now)
    return payment is not None and _alone(payment, lambda: _charge(payment, now), now)


def _alone(payment: Payment, step: Callable[[], bool | None], now: datetime) -> bool:
    try:
        return bool(step())
    except Unanswered as error:
        log.warning("a top-up got no answer; it is looked up", error=str(error))
        return False
    finally:
        Payment.objects.for_org(payment.organization_id).filter(pk=payment.pk).update(
            leased_until=None
        )


def _wanted(rule: AutoTopUp, now: datetime) -> Payment | None:
    """A payment to be made, leased to us; None while another is under way or was made just now."""
    with transaction.atomic():
        account = Account.objects.for_org(rule.organization).select_for_update().get()
        payments = Payment.objects.for_org(rule.organization).filter(invoice=None)
        if payments.filter(Q(status=Status.PENDING) | Q(created_at__gt=now - _PAUSE)).exists():
            return None
        limit, spent = credit.sums(account, now=now)
        if limit - spent >= rule.below:
            return None
        return Payment.objects.create(
            organization=rule.organization,
            amount_minor=rule.amount_minor,
            currency=account.currency,
            created_at=now,
            leased_until=leases.until(now),
        )


def _charge(payment: Payment, now: datetime) -> bool | None:
    """Ask for it, under a key of this attempt's own; nothing was charged for it before."""
    rules = AutoTopUp.objects.for_org(payment.organization_id).filter(stopped="")
    profile = _profile(payment)
    if profile is None or not profile.method or not rules.exists():
        if payment.created_at <= now - _PAUSE:
            _fail(payment, "Nothing was charged: no card, or no top-ups any more.", now)
        return False
    try:
        found = gateway.charge(
            customer=str(profile.customer),
            method=profile.method,
            minor=payment.amount_minor,
            currency=payment.currency,
            payment=str(payment.pk),
            key=f"payment-{payment.pk}-{payment.attempt}",
        )
    except Failed as error:
        log.warning("a top-up failed; it is looked up", error=str(error))
        Payment.objects.for_org(payment.organization_id).filter(pk=payment.pk).update(
            attempt=F("attempt") + 1
        )
        return _learned(payment, now)
    except Rejected as error:
        learned = _learned(payment, now)
        return _stop(payment, str(error), now) if learned is None else learned
    except Declined as error:
        return _stop(payment, str(error), now)
    return _outcome(payment, found, now)


def _learned(payment: Payment, now: datetime) -> bool | None:
    """What the provider says became of it; None where it knows of no charge."""
    profile = _profile(payment)
    if profile is None:
        return None
    ours = str(payment.pk)
    for each in gateway.payments(customer=str(profile.customer)):
        if each.payment == ours:
            return _outcome(payment, each, now)
    return None


def _outcome(payment: Payment, found: RemotePayment, now: datetime) -> bool:
    """Credit for what succeeded alone; a debit may be under way for days."""
    if found.status == "succeeded":
        return _book(payment, found, now)
    if found.status != "processing":
        _stop(payment, "The card was declined.", now)
    return False


def _profile(payment: Payment) -> PaymentProfile | None:
    rows = PaymentProfile.objects.for_org(payment.organization_id)
    return rows.exclude(customer=None).first()


def _status(found: RemotePayment) -> str:
    return Status.DISPUTED if found.disputed else Status.SUCCEEDED


def _book(payment: Payment, found: RemotePayment, now: datetime) -> bool:
    with transaction.atomic():
        payment.status, payment.reference, payment.settled_at = _status(found), found.id, now
        payment.save(update_fields=["status", "reference", "settled_at"])
        _credit(payment, f"payment-{payment.pk}", now)
    return True


def _credit(payment: Payment, reference: str, now: datetime) -> None:
    """Credit for a payment, once; of one that is disputed already it stands still."""
    with transaction.atomic():
        payment.grant = credited(
            organization=payment.organization_id,
            minor=payment.amount_minor,
            reference=reference,
            now=now,
        )
        payment.save(update_fields=["grant"])
        if payment.status != Status.SUCCEEDED:
            follow(payment, now=now)


def _fail(payment: Payment, why: str, now: datetime) -> None:
    payment.status, payment.failure, payment.settled_at = Status.FAILED, why[:300], now
    payment.save(update_fields=["status", "failure", "settled_at"])


def _stop(payment: Payment, why: str, now: datetime) -> bool:
    """It was refused: nothing more is bought, and that is told."""
    with transaction.atomic():
        _fail(payment, why, now)
        if topup_rules.stop(organization=payment.organization_id, why=why):
            mails.write(
                key=f"top-up-{payment.pk}-failed",
                letter="top_up_failed",
                organization=payment.organization,
                now=now,
                why=why,
            )
    return False
