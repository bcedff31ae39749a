"""From an issued invoice to its money: charged, tried again, reminded of, suspended for.

A row of `Collection` says what is next and when; `advance` looks at both sides, ours and the
provider's, and does the one next thing. So it may be called at any time and any number of times:
by the poller, after a webhook, after a crash. Nothing is done because an event said so.
"""

from datetime import datetime, timedelta

import structlog
from django.conf import settings
from django.db import transaction
from django.db.models import Q

from billing import disputes, gateway, leases, lifecycle, mails, mirror, profiles
from billing.lifecycle import CREDITED
from billing.models import Invoice
from billing.receivables import Collection, Payment, PaymentProfile
from billing.remote import Declined, Failed, Rejected, RemoteInvoice, Unanswered
from tenants import organizations
from tenants.models import Organization

log = structlog.get_logger()

Stage, Status = Collection.Stage, Invoice.Status
_SOON, _LATER = timedelta(minutes=1), timedelta(days=1)
_CLEARING = timedelta(hours=1)
_SETTLED = (Status.PAID, Status.VOID)


def due(*, now: datetime) -> list[int]:
    """The collections whose time has come."""
    rows = Collection.objects.across_organizations().filter(_free(now)).order_by("next_at")
    return list(rows.values_list("pk", flat=True)[:500])


def advance(collection: int, *, now: datetime) -> bool:
    """Do what is next for a collection, alone; False where somebody else does or it isn't due."""
    rows = Collection.objects.across_organizations().filter(pk=collection)
    if not rows.filter(_free(now)).update(leased_until=leases.until(now)):
        return False
    row = rows.select_related("invoice", "organization", "invoice__organization").get()
    seen = row.next_at
    try:
        again = _step(row, now)
        row.error = ""
    except Unanswered as error:
        again, row.error = now + _SOON, str(error)[:500]
    except Failed as error:
        again, row.error, row.round = now + _SOON, str(error)[:500], row.round + 1
    except Rejected as error:
        log.error("the payment provider rejects", invoice=str(row.invoice), error=str(error))
        again, row.error = min(now + _LATER, _without_provider(row, now)), str(error)[:500]
    row.leased_until = None
    row.save(update_fields=["stage", "step", "round", "retry_at", "error", "leased_until"])
    rows.filter(next_at=seen).update(next_at=again)
    return True


def wake(*, now: datetime, **which: object) -> None:
    """Have collections looked at soon."""
    Collection.objects.across_organizations().filter(**which).update(next_at=now)


def _free(now: datetime) -> Q:
    return Q(next_at__lte=now) & leases.free(now)


def _step(row: Collection, now: datetime) -> datetime | None:
    """The next thing; when to look again."""
    if row.invoice.kind == Invoice.Kind.CREDIT_NOTE:
        return _pass_on(row, now)
    if row.invoice.status in _SETTLED:
        _close(row, now)
        return None
    if row.invoice.status == Status.UNCOLLECTIBLE:
        _hope(row, now)
        return None
    if gateway.enabled() and not gateway.is_too_small(row.invoice.due_minor, row.invoice.currency):
        return _collect(row, now)
    return _await(row, now)


def _hope(row: Collection, now: datetime) -> None:
    """Nobody is asked for it any more, but whoever pays it at the provider has paid it."""
    if row.remote and gateway.enabled():
        remote = gateway.invoice(row.remote)
        if remote.status == "paid":
            _settle(row, remote, now)
            _close(row, now)


def _await(row: Collection, now: datetime) -> datetime | None:
    """A transfer: nothing until the day it is due, then reminders."""
    _announce(row, now, by_card=False)
    if gateway.enabled():
        return None
    return _remind(row, now)


def _without_provider(row: Collection, now: datetime) -> datetime:
    """What the provider rejects is asked for like a transfer, while it is tried again each day."""
    if row.invoice.kind == Invoice.Kind.CREDIT_NOTE or row.invoice.status != Status.OPEN:
        return now + _LATER
    _announce(row, now, by_card=False)
    return _remind(row, now)


def _remind(row: Collection, now: datetime) -> datetime:
    """Without a card nothing is late before the day it is due."""
    due = row.retry_at or _days_after(row.invoice, 1)
    return due if now < due else _dun(row, now, "")


def _collect(row: Collection, now: datetime) -> datetime | None:
    profile = profiles.ensure(row.organization)
    remote = mirror.invoice(row, profile, now=now)
    for note in row.invoice.credit_notes.for_org(row.organization_id):
        mirror.note(note, remote, round=row.round)
    remote = gateway.invoice(remote.id)
    if remote.status == "paid":
        _settle(row, remote, now)
        _close(row, now)
        return None
    _announce(row, now, by_card=bool(profile.method))
    if not profile.method:
        return _remind(row, now)
    if row.retry_at and now < row.retry_at:
        return row.retry_at
    return _attempt(row, profile, remote, now)


def _attempt(
    row: Collection, profile: PaymentProfile, remote: RemoteInvoice, now: datetime
) -> datetime | None:
    payment = _pending(row.invoice, remote.remaining, now)
    if payment.created_at < now and gateway.is_processing(remote.id):
        return now + _CLEARING
    try:
        remote = gateway.pay(remote.id, method=profile.method, key=f"payment-{payment.pk}")
    except Declined as error:
        _fail(payment, f"{error.message} ({error.code})", now)
        return _dun(row, now, error.message)
    except (Failed, Rejected) as error:
        _fail(payment, str(error), now)
        raise
    if remote.status != "paid":
        return now + _CLEARING
    _settle(row, remote, now)
    _close(row, now)
    return None


def _pending(invoice: Invoice, minor: int, now: datetime) -> Payment:
    """The attempt that a crash left open, or a new one; written before anybody is asked."""
    with transaction.atomic():
        Collection.objects.across_organizations().select_for_update().get(invoice=invoice)
        attempts = Payment.objects.for_org(invoice.organization_id).filter(invoice=invoice)
        last = attempts.order_by("-attempt").first()
        if last is not None and last.status == Payment.Status.PENDING:
            return last
        return Payment.objects.create(
            organization_id=invoice.organization_id,
            invoice=invoice,
            attempt=last.attempt + 1 if last else 1,
            amount_minor=minor,
            currency=invoice.currency,
            created_at=now,
        )


def _fail(payment: Payment, why: str, now: datetime) -> None:
    payment.status, payment.failure, payment.settled_at = Payment.Status.FAILED, why[:300], now
    payment.save(update_fields=["status", "failure", "settled_at"])


def _settle(row: Collection, remote: RemoteInvoice, now: datetime) -> None:
    """The provider has the money: say so on our side, once."""
    intent = gateway.payment_of(remote.id)
    with transaction.atomic():
        Collection.objects.across_organizations().select_for_update().get(pk=row.pk)
        invoice = Invoice.objects.for_org(row.organization_id).get(pk=row.invoice_id)
        if intent:
            _succeed(invoice, remote, intent, now)
        if invoice.status not in _SETTLED:
            note = f"Stripe {intent or remote.id}"
            invoice = lifecycle.move(invoice=invoice.pk, to=Status.PAID, now=now, note=note)
    row.invoice = invoice


def _succeed(invoice: Invoice, remote: RemoteInvoice, intent: str, now: datetime) -> None:
    attempts = Payment.objects.for_org(invoice.organization_id).filter(invoice=invoice)
    if attempts.filter(reference=intent).exists():
        return
    last = attempts.order_by("-attempt").first() or Payment(
        organization_id=invoice.organization_id,
        invoice=invoice,
        amount_minor=remote.total,
        currency=invoice.currency,
        created_at=now,
    )
    last.status, last.reference = Payment.Status.SUCCEEDED, intent
    last.failure, last.settled_at = "", now
    last.save()


def _close(row: Collection, now: datetime) -> None:
    """Ours is settled: settle theirs too, give back what came twice, and lift a suspension."""
    if row.remote and gateway.enabled():
        mirror.close(row)
    last = row.invoice.moves.last()
    if row.invoice.status == Status.PAID and last and not last.note.startswith(CREDITED):
        _write(row, "paid", now)
    was_suspended = row.stage == Stage.SUSPENDED
    row.stage = Stage.DONE
    row.save(update_fields=["stage"])
    others = Collection.objects.for_org(row.organization_id).filter(stage=Stage.SUSPENDED)
    organization = Organization.objects.get(pk=row.organization_id)
    if was_suspended and not others.exists() and not disputes.is_why(organization):
        organizations.reinstate(organization, now=now)
        _write(row, "reinstated", now)


def _pass_on(row: Collection, now: datetime) -> datetime | None:
    """A credit note goes to the provider after the invoice that it corrects."""
    corrected = Collection.objects.for_org(row.organization_id).filter(
        invoice=row.invoice.corrects_id
    )
    theirs = corrected.first()
    if theirs is not None and theirs.remote and gateway.enabled():
        remote = gateway.invoice(theirs.remote)
        if remote.status == "draft":
            return now + _SOON
        mirror.note(row.invoice, remote, round=row.round)
    _write(row, "credited", now)
    row.stage = Stage.DONE
    return None


def _dun(row: Collection, now: datetime, why: str) -> datetime:
    """One step on: reminders, then the grace, then the suspension; each with a mail."""
    days = settings.DUNNING_DAYS
    row.retry_at = now + timedelta(days=days[-1])
    if row.stage == Stage.SUSPENDED:
        pass
    elif row.stage == Stage.GRACE:
        reason = f"The invoice {row.invoice.number} is unpaid. Pay it to be served again."
        organizations.suspend(row.organization, now=now, reason=reason)
        row.stage = Stage.SUSPENDED
        _write(row, "suspended", now)
    elif row.step < len(days):
        row.retry_at = now + timedelta(days=days[row.step])
        row.stage, row.step = Stage.REMINDING, row.step + 1
        _write(row, "reminder", now, number=row.step, why=why, next=row.retry_at)
    else:
        row.retry_at = now + timedelta(days=settings.DUNNING_GRACE_DAYS)
        row.stage = Stage.GRACE
        _write(row, "grace", now, why=why, next=row.retry_at)
    return row.retry_at


def _announce(row: Collection, now: datetime, *, by_card: bool) -> None:
    _write(row, "issued", now, by_card=by_card)


def _write(row: Collection, letter: str, now: datetime, number: int = 0, **facts: object) -> None:
    mails.write(
        key=f"invoice-{row.invoice_id}-{letter}-{number}",
        letter=letter,
        organization=row.organization,
        now=now,
        invoice=row.invoice,
        **facts,
    )


def _days_after(invoice: Invoice, days: int) -> datetime:
    assert invoice.issued_at is not None  # noqa: S101
    return invoice.issued_at + timedelta(days=settings.INVOICE_DUE_DAYS + days)
