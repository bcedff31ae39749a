"""Pages at the provider that members ask for: to save a card, to pay for credit, the portal."""

from datetime import datetime
from uuid import NAMESPACE_URL, UUID, uuid4, uuid5

import structlog

from billing import gateway, profiles, topups
from billing.models import Account
from billing.receivables import Checkout
from billing.remote import Failed, Rejected, RemoteCheckout
from kit.errors import Invalid, Refused
from kit.idempotency import KeyReused
from kit.money import to_minor
from tenants.models import Organization

log = structlog.get_logger()

Kind, Status = Checkout.Kind, Checkout.Status


class NoProvider(Refused):
    """Nobody takes cards here: invoices are paid by transfer."""

    status, code = 409, "no_payment_provider"


def ask(
    *, organization: int, kind: str, back: str, now: datetime, amount: int = 0, key: str = ""
) -> Checkout:
    """Note that a page is wanted; a task asks the provider for it.

    `amount` is a top-up's, in nanos. Under the same idempotency `key` it is the same page. Raises
    `NoProvider`, `Invalid`, and `KeyReused` where the key came with another wish.
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
    row, made = Checkout.objects.for_org(organization).get_or_create(
        pk=identifier, defaults={"organization_id": organization, "created_at": now, **wish}
    )
    if not made and wish != {name: getattr(row, name) for name in wish}:
        raise KeyReused.of(key)
    return row


def open_page(checkout: UUID) -> None:
    """Ask the provider for a page that is wanted; again changes nothing."""
    row = Checkout.objects.across_organizations().select_related("organization").get(pk=checkout)
    if row.status != Status.PENDING:
        return
    try:
        row.remote, row.url = _opened(row)
        row.status = Status.READY
    except (Failed, Rejected) as error:
        log.error("a page could not be opened", checkout=str(checkout), error=str(error))
        row.status, row.error = Status.FAILED, str(error)[:300]
    row.save(update_fields=["status", "remote", "url", "error"])


def waiting() -> list[UUID]:
    """Those that are wanted and not there yet."""
    rows = Checkout.objects.across_organizations().filter(status=Status.PENDING)
    return list(rows.values_list("pk", flat=True)[:100])


def complete(session: str, *, now: datetime) -> None:
    """A person has been through a page: take over the card, or the credit that was paid."""
    row = Checkout.objects.across_organizations().filter(remote=session).first()
    found = gateway.checkout(session)
    if row is None or found.status != "complete" or row.status == Status.DONE:
        return
    _take_over(row, found, now)
    row.status = Status.DONE
    row.save(update_fields=["status"])


def _take_over(row: Checkout, found: RemoteCheckout, now: datetime) -> None:
    profile = profiles.ensure(row.organization)
    key = f"checkout-{row.pk}-card-{now:%H%M%S}"
    method = gateway.payment(found.payment_intent).method if found.payment_intent else ""
    card = gateway.save_card(
        customer=str(profile.customer), setup_intent=found.setup_intent, method=method, key=key
    )
    profiles.keep(profile, card, now=now)
    if row.kind == Kind.TOP_UP and found.paid:
        topups.paid(
            organization=row.organization_id,
            found=found,
            reference=f"checkout-{row.pk}",
            now=now,
        )


def _opened(row: Checkout) -> tuple[str | None, str]:
    customer = str(profiles.ensure(row.organization).customer)
    key = f"checkout-{row.pk}"
    if row.kind == Kind.PORTAL:
        return None, gateway.portal(customer=customer, back=row.return_url, key=key)
    currency = _currency(row.organization)
    page = {"customer": customer, "checkout": str(row.pk), "back": row.return_url, "key": key}
    if row.kind == Kind.TOP_UP:
        found = gateway.open_top_up(currency=currency, minor=row.amount_minor, **page)
    else:
        found = gateway.open_setup(currency=currency, **page)
    return found.id, found.url


def _currency(organization: Organization) -> str:
    return Account.objects.for_org(organization).values_list("currency", flat=True).get()
