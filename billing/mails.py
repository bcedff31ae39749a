"""Mails about money: written in the transaction that they tell of, sent by a task afterwards."""

from datetime import datetime, timedelta
from typing import Any

import structlog
from django.conf import settings
from django.core.mail import EmailMessage
from django.db.models import Q
from django.template.loader import render_to_string

from billing.documents import invoice_pdf
from billing.invoicing import shown
from billing.models import BillingDetails, Invoice
from billing.receivables import Mail
from tenants.models import Membership, Organization, Role

log = structlog.get_logger()

_LEASE = timedelta(minutes=5)
_PAUSES = tuple(timedelta(minutes=each) for each in (1, 5, 30, 120, 480, 1440))


def write(
    *,
    key: str,
    letter: str,
    organization: Organization,
    now: datetime,
    invoice: Invoice | None = None,
    **facts: Any,
) -> None:
    """Write `templates/billing/mail/<letter>.txt`, whose first line is the subject, once a `key`.

    To the address in the billing details, or else to the owners and those whose role is billing.
    With an invoice its PDF goes along.
    """
    to = recipients(organization)
    if not to:
        log.warning("nobody to write to", organization=organization.slug, letter=letter)
        return
    facts |= {"organization": organization, "invoice": invoice, "seller": settings.SELLER["name"]}
    if invoice is not None:
        facts["due"] = shown(invoice.due_minor, invoice.currency)
    subject, _, text = render_to_string(f"billing/mail/{letter}.txt", facts).partition("\n")
    mail = Mail(
        key=key,
        organization=organization,
        to=", ".join(to),
        subject=subject.strip(),
        text=text.strip() + "\n",
        invoice=invoice,
        created_at=now,
        next_at=now,
    )
    Mail.objects.bulk_create([mail], ignore_conflicts=True)


def recipients(organization: Organization) -> list[str]:
    """Who hears about an organization's money."""
    details = BillingDetails.objects.for_org(organization).first()
    if details is not None and details.email:
        return [details.email]
    places = Membership.objects.for_org(organization).filter(role__in=[Role.OWNER, Role.BILLING])
    return list(places.order_by("user__email").values_list("user__email", flat=True))


def send_due(*, now: datetime) -> int:
    """Send what is due; how many went. What fails is tried again, for a day or so."""
    free = Q(next_at__lte=now, sent_at=None)
    sent = 0
    for mail in Mail.objects.across_organizations().filter(free).order_by("pk")[:100]:
        claim = Mail.objects.across_organizations().filter(free, pk=mail.pk)
        if claim.update(next_at=now + _LEASE, tries=mail.tries + 1):
            sent += _send(mail, now)
    return sent


def _send(mail: Mail, now: datetime) -> bool:
    message = EmailMessage(
        mail.subject, mail.text, settings.DEFAULT_FROM_EMAIL, mail.to.split(", ")
    )
    row = Mail.objects.across_organizations().filter(pk=mail.pk)
    try:
        if mail.invoice is not None and mail.invoice.number:
            pdf = invoice_pdf(mail.invoice)
            message.attach(f"{mail.invoice.number}.pdf", pdf, "application/pdf")
        message.send()
    except Exception as error:
        log.warning("a mail could not be sent", mail=mail.pk, error=str(error))
        again = now + _PAUSES[mail.tries] if mail.tries < len(_PAUSES) else None
        row.update(error=str(error)[:300], next_at=again)
        return False
    row.update(sent_at=now, next_at=None, error="")
    return True
