"""Budgets set by those who may: what may be spent in a month, and what of it is."""

from dataclasses import dataclass
from datetime import datetime

from django.db import transaction

from billing import credit
from billing.allowances import Budget
from billing.models import LARGEST, Account
from kit import origin
from kit.edge import NotFound
from kit.errors import Invalid, Refused
from tenants import audit
from tenants.audit import Actor, Change
from tenants.models import ApiKey, Organization

MOST = 1_000
"""Of an organization: each is loaded with its credit, and looked at by every request it bounds."""


class BudgetTaken(Refused):
    """One subject, one budget."""

    status, code = 409, "budget_exists"


class TooManyBudgets(Refused):
    """Of one organization."""

    status, code = 409, "too_many_budgets"


@dataclass(frozen=True, slots=True)
class Set:
    """A budget and how far it is used; amounts in nanos."""

    id: int
    scope: str
    subject: str
    amount: int
    hard: bool
    spent: int
    currency: str


def listed(*, organization: int, now: datetime) -> list[Set]:
    """An organization's, with what the month has spent of each."""
    account = _account(organization)
    return [_set(row, account, now) for row in Budget.objects.for_org(organization)]


def create(
    *,
    organization: int,
    scope: str,
    subject: str,
    amount: int,
    hard: bool,
    now: datetime,
    by: Actor,
) -> Set:
    """Set one; the counters learn of it at once. Raises `Invalid`, `BudgetTaken`,
    `TooManyBudgets`."""
    account = _account(organization)
    subject = counted_as(scope, subject)
    _require_subject(organization, scope, subject)
    _require_amount(amount)
    row = Budget(
        organization_id=organization, scope=scope, subject=subject, amount=amount, hard=hard
    )
    with transaction.atomic():
        Organization.objects.select_for_update(no_key=True).get(pk=organization)
        found = Budget.objects.for_org(organization)
        if found.filter(scope=scope, subject=subject).exists():
            raise BudgetTaken(f"There is a budget of the {row.named} already; change that one.")
        if found.count() >= MOST:
            raise TooManyBudgets(
                f"subject: your organization has {MOST:,} budgets, the most there may be; delete "
                "one first, or bound several projects by the organization's budget.",
                param="subject",
            )
        row.save()
        _record(row, "budget.created", by, now)
    return _set(row, account, now)


def change(
    *,
    organization: int,
    budget: int,
    amount: int | None,
    hard: bool | None,
    now: datetime,
    by: Actor,
) -> Set:
    """Change the amount, or whether it refuses; raises `NotFound` and `Invalid`."""
    account = _account(organization)
    with transaction.atomic():
        row = _locked(organization, budget)
        if amount is not None:
            _require_amount(amount)
            row.amount = amount
        row.hard = row.hard if hard is None else hard
        row.save()
        _record(row, "budget.changed", by, now)
    return _set(row, account, now)


def remove(*, organization: int, budget: int, now: datetime, by: Actor) -> None:
    """Take one away; raises `NotFound`."""
    with transaction.atomic():
        row = _locked(organization, budget)
        _record(row, "budget.deleted", by, now)
        row.delete()


def counted_as(scope: str, subject: str) -> str:
    """A subject as requests name it: projects' names are cleaned at the door."""
    return origin.project(subject) if scope == Budget.Scope.PROJECT else subject


def _record(row: Budget, action: str, by: Actor, now: datetime) -> None:
    credit.renew_on_commit(row.organization_id)
    facts = {"amount": row.amount, "hard": row.hard}
    change_of = Change(action, f"budget:{row.named}", after=facts)
    audit.record(change_of, by=by, organization=row.organization_id, now=now)


def _require_subject(organization: int, scope: str, subject: str) -> None:
    if (scope == Budget.Scope.ORGANIZATION) != (not subject):
        raise Invalid(
            "subject: name the project or the key; the organization's budget has none.",
            param="subject",
        )
    keys = ApiKey.objects.for_org(organization)
    if scope == Budget.Scope.KEY and not keys.filter(pk=subject).exists():
        raise Invalid(f"subject: there is no API key {subject!r}.", param="subject")


def _require_amount(amount: int) -> None:
    if amount > LARGEST:
        raise Invalid("amount: that is more than can be counted.", param="amount")


def _locked(organization: int, budget: int) -> Budget:
    row = Budget.objects.for_org(organization).select_for_update().filter(pk=budget).first()
    if row is None:
        raise NotFound(f"There is no budget {budget}.")
    return row


def _set(row: Budget, account: Account, now: datetime) -> Set:
    spent = credit.spent_of(row, now=now)
    return Set(row.pk, row.scope, row.subject, row.amount, row.hard, spent, account.currency)


def _account(organization: int) -> Account:
    found = Account.objects.for_org(organization).first()
    if found is None:
        raise credit.NoAccount("Your organization has no billing account yet. Ask the operator.")
    return found
