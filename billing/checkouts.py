"""Pages at the provider that members ask for: to save a card, to pay for credit, the portal."""

from datetime import datetime, timedelta
from uuid import NAMESPACE_URL, UUID, uuid4, uuid5

import structlog
from django.db import transaction

from billing import gateway, profiles, topups
from billing.models import Account
from billing.receivables import Checkout
from billing.remote import Failed, Rejected, RemoteCheckout, RemotePayment
from kit.errors import Invalid, Refused
from kit.idempotency import KeyReused
from kit.money import to_minor
from tenants.models import Organization

log = structlog.get_logger()

Kind, Status = Checkout.Kind, Checkout.Status

MOST_AN_HOUR = 60
"""Pages of one organization: each is a call to the provider, and a row that stays."""
_HOUR = timedelta(hours=1)
_FIRST_LOOK = timedelta(minutes=5)
"""How long a webhook has to tell of a page; then we ask, and again after as long as it is old."""


class NoProvider(Refused):
    """Nobody takes cards here: invoices are paid by transfer."""

    status, code = 409, "no_payment_provider"


class TooManyPages(Refused):
    """As many as an hour allows."""

    status, code = 429, "too_many_pages"


def ask(
    *, organization: int, kind: str, back: str, now: datetime, amount: int = 0, key: str = ""
) -> Checkout:
    """Note that a page is wanted; a task asks the provider for it.

    `amount` is a top-up's, in nanos. Under the same idempotency `key` it is the same page. Raises
    `NoProvider`, `TooManyPages`, `Invalid`, and `KeyReused` where the key came with another wish.
    """
    if not gateway.enabled():
        raise NoProvider("Cards are not taken here; pay your invoices by transfer.")
    amount_minor = 0
    if kind == Kind.TOP_UP:
        account = Account.objects.for_org(organization).get()
        [amount_minor] = to_minor([amount], account.currency)
        amount_minor = gateway.chargeable(amount_minor, account.currency)
        if gateway.is_too_small(amount_minor, account.currency):
            raise Invalid("amount: that is less than can be paid by card.", param="amount")
    wish = {"kind": kind, "return_url": back, "amount_minor": amount_minor}
    identifier = uuid5(NAMESPACE_URL, f"checkout:{organization}:{key}") if key else uuid4()
    with transaction.atomic():
        Organization.objects.select_for_update(no_key=True).get(pk=organization)
        mine = Checkout.objects.for_org(organization)
        row, made = mine.get_or_create(
            pk=identifier, defaults={"organization_id": organization, "created_at": now, **wish}
        )
        if made:
            _refuse_crowd(organization, now)
    if not made and wish != {name: getattr(row, name) for name in wish}:
        raise KeyReused.of(key)
    return row


def _refuse_crowd(organization: int, now: datetime) -> None:
    """Raises `TooManyPages` where the last hour has more than it may."""
    lately = Checkout.objects.for_org(organization).filter(created_at__gt=now - _HOUR)
    over = lately.values_list("created_at", flat=True)[MOST_AN_HOUR : MOST_AN_HOUR + 1]
    if (before := next(iter(over), None)) is not None:
        raise TooManyPages(
            f"Your organization has asked for {MOST_AN_HOUR} pages in an hour; use one of those, "
            "or come back when Retry-After says.",
            retry_after=(before + _HOUR - now).total_seconds(),
        )


def open_page(checkout: UUID, *, now: datetime) -> None:
    """Ask the provider for a page that is wanted; again changes nothing."""
    row = Checkout.objects.across_organizations().select_related("organization").get(pk=checkout)
    if row.status != Status.PENDING:
        return
    try:
        row.remote, row.url = _opened(row)
        row.status = Status.READY
        row.next_at = now + _FIRST_LOOK if row.remote else None
    except (Failed, Rejected) as error:
        log.error("a page could not be opened", checkout=str(checkout), error=str(error))
        row.status, row.error = Status.FAILED, str(error)[:300]
    row.save(update_fields=["status", "remote", "url", "error", "next_at"])


def waiting() -> list[UUID]:
    """Those that are wanted and not there yet."""
    rows = Checkout.objects.across_organizations().filter(status=Status.PENDING)
    return list(rows.values_list("pk", flat=True)[:100])


def unheard(*, now: datetime) -> list[str]:
    """The sessions of open pages that no webhook has told of for a while."""
    rows = Checkout.objects.across_organizations().filter(status=Status.READY, next_at__lte=now)
    return [str(each) for each in rows.values_list("remote", flat=True)[:100]]


def complete(session: str, *, now: datetime) -> None:
    """See how far a person is on a page: take over the card, or the credit that was paid.

    Nothing is over before the provider says that it is paid, or that it never will be.
    """
    rows = Checkout.objects.across_organizations().filter(remote=session, status=Status.READY)
    row = rows.select_related("organization").first()
    if row is None:
        return
    found = gateway.checkout(session)
    row.next_at = now + max(_FIRST_LOOK, now - row.created_at)
    if found.status == "complete":
        _take_over(row, found, now)
    elif found.status == "expired":
        row.status, row.error = Status.FAILED, "The page was left open, and is over."
    if row.status != Status.READY:
        row.next_at = None
    row.save(update_fields=["status", "error", "next_at"])


def _take_over(row: Checkout, found: RemoteCheckout, now: datetime) -> None:
    intent = gateway.payment(found.payment_intent) if found.payment_intent else None
    if row.kind == Kind.TOP_UP and intent is not None:
        if intent.status == "processing":
            return
        if intent.status != "succeeded":
            row.status, row.error = Status.FAILED, "It was not paid."
            return
        topups.paid(
            organization=row.organization_id,
            payment=intent,
            reference=f"checkout-{row.pk}",
            now=now,
        )
    row.status = Status.DONE
    try:
        _save_card(row, found, intent, now)
    except Rejected as error:
        log.warning("a card could not be saved", checkout=str(row.pk), error=str(error))
        row.error = str(error)[:300]
        row.status = Status.DONE if row.kind == Kind.TOP_UP else Status.FAILED


def _save_card(
    row: Checkout, found: RemoteCheckout, intent: RemotePayment | None, now: datetime
) -> None:
    profile = profiles.ensure(row.organization)
    card = gateway.save_card(
        customer=str(profile.customer),
        setup_intent=found.setup_intent,
        method=intent.method if intent else "",
        key=f"checkout-{row.pk}-card-{now:%H%M%S}",
    )
    profiles.keep(profile, card, now=now)


def _opened(row: Checkout) -> tuple[str | None, str]:
    customer = str(profiles.ensure(row.organization).customer)
    key = f"checkout-{row.pk}"
    if row.kind == Kind.PORTAL:
        return None, gateway.portal(customer=customer, back=row.return_url, key=key)
    page = {"customer": customer, "checkout": str(row.pk), "back": row.return_url, "key": key}
    if row.kind == Kind.TOP_UP:
        currency = _currency(row.organization)
        found = gateway.open_top_up(currency=currency, minor=row.amount_minor, **page)
    else:
        found = gateway.open_setup(**page)
    return found.id, found.url


def _currency(organization: Organization) -> str:
    return Account.objects.for_org(organization).values_list("currency", flat=True).get()
