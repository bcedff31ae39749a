"""What an organization owes and may spend, as PostgreSQL has it: what the counters have to say."""

from datetime import datetime
from typing import Any

from django.db.models import Q, Sum

from billing.allowances import Budget, Grant, GrantUse
from billing.models import LARGEST, Account, Invoice, LedgerEntry
from billing.months import month_of

_OWED_NO_MORE = (Invoice.Status.PAID, Invoice.Status.VOID)


def sums(account: Account, *, now: datetime) -> tuple[int, int]:
    """What the counters' `limit` and `spent` have to be, in nanos.

    A grant that is good raises the limit by its whole amount; what it has paid for counts as
    spent, beside what is owed. So each booking adds its amount, whoever pays for it.
    """
    rows = good(account.organization_id, now).aggregate(
        whole=Sum("amount", default=0), left=Sum("remaining", default=0)
    )
    whole, left = int(rows["whole"]), int(rows["left"])
    limit = min(LARGEST, account.credit_limit + whole)
    return limit, owed(account.organization_id) + whole - left


def spent_of(budget: Budget, *, now: datetime) -> int:
    """What the ledger has for a budget in the month of `now`, in nanos."""
    rows = budget.days().filter(month=month_of(now))
    return int(rows.aggregate(sum=Sum("amount", default=0))["sum"])


def good(organization: int, now: datetime) -> Any:
    """The grants that pay for what is used now."""
    rows = Grant.objects.for_org(organization)
    return rows.filter(Q(expires_at=None) | Q(expires_at__gt=now))


def owed(organization: int) -> int:
    """The ledger's rows, in nanos, of all months but those whose invoice is settled.

    A month whose void invoice was followed by another is settled as that one is.
    Credit notes take away from it, as long as the invoice that they correct is not settled; so
    does what grants have paid.
    """
    documents = Invoice.objects.for_org(organization)
    invoices = documents.filter(kind=Invoice.Kind.INVOICE)
    due = invoices.exclude(status__in=_OWED_NO_MORE)
    settled = invoices.filter(status__in=_OWED_NO_MORE).exclude(month__in=due.values("month"))
    rows = LedgerEntry.objects.for_org(organization).exclude(month__in=settled.values("month"))
    notes = documents.filter(kind=Invoice.Kind.CREDIT_NOTE)
    credited = notes.exclude(corrects__status__in=_OWED_NO_MORE).aggregate(sum=Sum("subtotal"))
    paid = GrantUse.objects.for_org(organization).exclude(month__in=settled.values("month"))
    granted = paid.aggregate(sum=Sum("amount", default=0))["sum"]
    sum_of = int(rows.aggregate(sum=Sum("amount"))["sum"] or 0) + int(credited["sum"] or 0)
    return sum_of - int(granted)
