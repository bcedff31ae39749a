"""Scheduled work: partitions ahead of time, invoices after it, and the money for them."""

from uuid import UUID

import structlog
from celery import shared_task
from django.utils import timezone

from billing import (
    alerts,
    checkouts,
    closing,
    collecting,
    events,
    ledger,
    mails,
    profiles,
    refunds,
    renewals,
    subscriptions,
    topups,
)

log = structlog.get_logger()


@shared_task(name="billing.make_partitions")
def make_partitions() -> list[str]:
    """Have the ledger's next months ready."""
    return ledger.make_partitions(timezone.now())


@shared_task(name="billing.close_months")
def close_months() -> int:
    """Close every month that has ended and is open still; how many that were."""
    now = closing.clock()
    done = closing.close_all(closing.due(now=now), now=now)
    return sum(each.invoice is not None for each in done)


@shared_task(name="billing.collect", ignore_result=True)
def collect() -> int:
    """Open pages, handle webhooks, collect what is to be paid, renew plans, and send mails."""
    for checkout in checkouts.waiting():
        _guarded("a page could not be opened", open_checkout, str(checkout))
    for event in events.due(now=timezone.now()):
        events.handle(event, now=timezone.now())
    for session in checkouts.unheard(now=timezone.now()):
        _guarded("a page could not be looked at", look_at_checkout, session)
    done = _advance_due()
    renewals.make_good(now=timezone.now())
    subscriptions.watch(now=timezone.now())
    topups.watch(now=timezone.now())
    refunds.watch(now=timezone.now())
    alerts.watch(now=timezone.now())
    mails.send_due(now=timezone.now())
    return done


@shared_task(name="billing.tell_details", ignore_result=True)
def tell_details(organization: str) -> None:
    """Have the payment provider know whom invoices are made out to."""
    profiles.tell(int(organization))


@shared_task(name="billing.open_checkout", ignore_result=True)
def open_checkout(checkout: str) -> None:
    """Ask the provider for a page."""
    checkouts.open_page(UUID(checkout), now=timezone.now())


@shared_task(name="billing.handle_event", ignore_result=True)
def handle_event(event: str) -> None:
    """Handle one webhook, and go on with what it woke."""
    if events.handle(event, now=timezone.now()):
        _advance_due()


def look_at_checkout(session: str) -> None:
    """How far a page is that no webhook told of."""
    checkouts.complete(session, now=timezone.now())


def _advance_due() -> int:
    due = collecting.due(now=timezone.now())
    complaint = "an invoice could not be collected"
    return sum(bool(_guarded(complaint, advance, collection)) for collection in due)


def advance(collection: int) -> bool:
    """One collection, now."""
    return collecting.advance(collection, now=timezone.now())


def _guarded(complaint: str, do: object, subject: object) -> object:
    """One that fails shall not keep the others waiting."""
    try:
        return do(subject)  # type: ignore[operator]
    except Exception:
        log.exception(complaint, subject=str(subject))
        return None
