"""Telling of what is spent: at 50, 80 and 100 % of a budget or of the credit, once each a month."""

from datetime import datetime

from django.db import transaction

from billing import credit, mails
from billing.allowances import Budget, BudgetAlert
from billing.models import Account
from billing.months import month_of
from kit.money import show
from tenants.webhooks import events
from tenants.webhooks.events import Happened, Kind

THRESHOLDS = (50, 80, 100)


def watch(*, now: datetime) -> int:
    """Look at everybody's credit and budgets; how many alerts were new."""
    told = 0
    for account in Account.objects.across_organizations().select_related("organization"):
        counters = credit.counters(account.organization_id)
        budgets = list(Budget.objects.for_org(account.organization_id)) if counters else []
        for budget in budgets:
            if counters is not None and budget.pk in counters.budgets:
                spent = counters.budgets[budget.pk][0]
                told += _tell(account, budget, spent, budget.amount, now)
        if counters is not None:
            told += _tell(account, None, counters.spent, counters.limit, now)
    return told


def _tell(account: Account, budget: Budget | None, spent: int, limit: int, now: datetime) -> int:
    """The highest threshold that is passed; those below it are passed in silence."""
    passed = [each for each in THRESHOLDS if limit and spent * 100 >= limit * each]
    if not passed:
        return 0
    organization, month = account.organization, month_of(now)
    which = f"budget-{budget.pk}" if budget else f"credit-{organization.pk}"
    with transaction.atomic():
        _, is_new = BudgetAlert.objects.for_org(organization).get_or_create(
            organization=organization,
            budget=budget,
            month=month,
            percent=passed[-1],
            defaults={"at": now},
        )
        if is_new:
            mails.write(
                key=f"alert-{which}-{month:%Y-%m}-{passed[-1]}",
                letter="alert",
                organization=organization,
                now=now,
                percent=passed[-1],
                what=f"the budget ({budget.named})" if budget else "your credit",
                hard=budget.hard if budget else True,
                spent=show(spent, account.currency),
                limit=show(limit, account.currency),
            )
            reached = {
                "budget": budget.named if budget else None,
                "percent": passed[-1],
                "spent_nanos": spent,
                "limit_nanos": limit,
                "currency": account.currency,
            }
            subject = f"{which}-{month:%Y-%m}-{passed[-1]}"
            happened = Happened(organization.pk, Kind.BUDGET_REACHED, subject, reached)
            events.tell([happened], now=now)
    return int(is_new)
