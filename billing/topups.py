"""Credit that is paid for before it is used: by hand, or by itself when little is left."""

from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from django.db import transaction

from billing import credit, gateway, grants, mails
from billing.allowances import AutoTopUp, Grant
from billing.models import LARGEST, Account
from billing.receivables import Payment, PaymentProfile
from billing.remote import Declined, Failed, Rejected, RemoteCheckout, Unanswered
from kit.errors import Invalid
from kit.money import from_minor, to_minor
from tenants import audit
from tenants.audit import Actor, Change

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


def paid(*, organization: int, found: RemoteCheckout, reference: str, now: datetime) -> None:
    """Write down the payment that a person made on the provider's page, and its credit, once."""
    currency = Account.objects.for_org(organization).values_list("currency", flat=True).get()
    payment, _ = Payment.objects.for_org(organization).get_or_create(
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
    _credit(payment, reference, now)


def follow(payment: Payment, *, now: datetime) -> int:
    """What a dispute does to the credit that was bought with the payment.

    It stands still while the bank looks into it, goes on where the dispute was won, and is taken
    away where it was lost; the nanos that were used of it and are owed for that.
    """
    if payment.grant_id is None:
        return 0
    if payment.status == Payment.Status.LOST:
        return grants.take_back(payment.grant_id, now=now)
    if payment.status == Payment.Status.DISPUTED:
        grants.halt(payment.grant_id, now=now)
    elif payment.status == Payment.Status.SUCCEEDED:
        grants.resume(payment.grant_id)
    return 0


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
        if payment.status != Payment.Status.SUCCEEDED:
            follow(payment, now=now)


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


@dataclass(frozen=True, slots=True)
class Rule:
    """When credit is bought by itself, in nanos; why it is not done any more, if so."""

    below: int
    amount: int
    currency: str
    stopped: str


def rule(organization: int) -> Rule | None:
    """An organization's; None where nothing is bought by itself."""
    row = AutoTopUp.objects.for_org(organization).first()
    if row is None:
        return None
    currency = _currency(organization)
    return Rule(row.below, from_minor(row.amount_minor, currency), currency, row.stopped)


def decide(*, organization: int, below: int, amount: int, now: datetime, by: Actor) -> Rule:
    """Buy credit of `amount` nanos whenever less than `below` is left; one that stopped goes on.

    Raises `NoAccount`, and `Invalid` for amounts that cannot be charged.
    """
    currency = _currency(organization)
    (minor,) = to_minor([amount], currency)
    if from_minor(minor, currency) != amount or not 0 < amount <= LARGEST:
        raise Invalid("amount: more than nothing, in the currency's smallest unit.", param="amount")
    if not 0 < below <= LARGEST:
        raise Invalid("below: more than nothing.", param="below")
    with transaction.atomic():
        AutoTopUp.objects.for_org(organization).update_or_create(
            organization_id=organization,
            defaults={"below": below, "amount_minor": minor, "stopped": ""},
        )
        _record(
            "auto_top_up.changed", {"below": below, "amount_minor": minor}, organization, by, now
        )
    return Rule(below, amount, currency, "")


def give_up(*, organization: int, now: datetime, by: Actor) -> None:
    """Nothing is bought by itself any more; again changes nothing."""
    with transaction.atomic():
        gone, _ = AutoTopUp.objects.for_org(organization).delete()
        if gone:
            _record("auto_top_up.deleted", {}, organization, by, now)


def _record(
    action: str, after: dict[str, int], organization: int, by: Actor, now: datetime
) -> None:
    change = Change(action, "auto_top_up", after=after)
    audit.record(change, by=by, organization=organization, now=now)


def _currency(organization: int) -> str:
    found = Account.objects.for_org(organization).values_list("currency", flat=True).first()
    if found is None:
        raise credit.NoAccount("Your organization has no billing account yet. Ask the operator.")
    return found
