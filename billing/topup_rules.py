"""When credit is bought by itself: an organization's rule, set and stopped."""

from dataclasses import dataclass
from datetime import datetime

from django.db import transaction

from billing import credit
from billing.allowances import AutoTopUp
from billing.models import LARGEST, Account
from kit.errors import Invalid
from kit.money import from_minor, to_minor
from tenants import audit
from tenants.audit import Actor, Change


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


def stop(*, organization: int, why: str) -> bool:
    """Nothing is bought any more until the rule is set again; whether that is new."""
    rows = AutoTopUp.objects.for_org(organization).filter(stopped="")
    return bool(rows.update(stopped=why[:300]))


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
