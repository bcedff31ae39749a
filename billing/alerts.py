"""Telling of what is spent: at 50, 80 and 100 % of a budget or of the credit, once each a month."""

from datetime import datetime

import structlog
from django.db import transaction

from billing import credit, mails
from billing.allowances import Budget, BudgetAlert
from billing.models import Account
from billing.months import month_of
from kit.money import show
from tenants.webhooks import events
from tenants.webhooks.events import Happened, Kind

log = structlog.get_logger()

THRESHOLDS = (50, 80, 100)


def watch(*, now: datetime) -> int:
    """Look at everybody's credit and budgets; how many alerts were new."""
    told = 0
    for account in Account.objects.across_organizations().select_related("organization"):
        try:
            told += _look(account, now)
        except Exception:
            log.exception("alerts failed", organization=account.organization.slug)
    return told


def _look(account: Account, now: datetime) -> int:
    counters = credit.counters(account.organization_id)
    if counters is None:
        return 0
    told = 0
    for budget in Budget.objects.for_org(account.organization_id):
        if budget.pk in counters.budgets:
            spent, refuses = counters.budgets[budget.pk][0], budget.pk in counters.refusing
            told += _tell(account, budget, spent, budget.amount, refuses=refuses, now=now)
    refuses = None in counters.refusing
    return told + _tell(account, None, counters.spent, counters.limit, refuses=refuses, now=now)


def _tell(
    account: Account,
    budget: Budget | None,
    spent: int,
    limit: int,
    *,
    refuses: bool,
    now: datetime,
) -> int:
    """The highest threshold that is passed; those below it are passed in silence.

    What refuses requests for want of money is spent as far as it can be.
    """
    passed = [each for each in THRESHOLDS if limit and spent * 100 >= limit * each]
    if not passed:
        return 0
    if refuses:
        passed = list(THRESHOLDS)
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
                left=show(max(0, limit - spent), account.currency),
                is_left=spent < limit,
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
