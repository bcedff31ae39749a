"""What an organization may still spend: counted in Redis, refilled from PostgreSQL.

A request holds the most it can cost from admission to its end; then what it did cost is counted
as spent. `spent` is always the sum of the ledger's unpaid rows: each rebuild begins a new epoch
under the account's lock, booking reads the epoch under the same lock, and a settlement counts only
what was booked in the counters' own epoch or later. A request carries the epoch it reserved in;
where the account has moved on since, booking sees to its hold (`hold_again`) or makes it free.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, time
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import structlog
from django.db import close_old_connections, connection, transaction

from billing.allowances import Budget, Renewal
from billing.models import Account
from billing.months import month_after, month_of
from billing.owing import good
from billing.owing import owed as owed
from billing.owing import spent_of as spent_of
from billing.owing import sums as sums
from kit.errors import Refused, Unavailable
from kit.money import show
from kit.redis import Argument, Lua, pipeline, state

log = structlog.get_logger()

_LUA = Path(__file__).parent / "lua"
_reserve = Lua(_LUA / "credit_reserve.lua")
_settle = Lua(_LUA / "credit_settle.lua")
_load = Lua(_LUA / "credit_load.lua")
_confirm = Lua(_LUA / "credit_confirm.lua")
_hold = Lua(_LUA / "credit_hold.lua")


class OutOfCredit(Refused):
    """What is left of the credit can't pay for the request, whatever others do."""

    status, code = 402, "insufficient_quota"


class CreditReserved(Refused):
    """The credit would pay, were it not held for requests that run now."""

    status, code = 429, "credit_reserved"


class OverBudget(Refused):
    """A hard budget can't pay for the request, whatever others do."""

    status, code = 402, "budget_exceeded"


class BudgetReserved(CreditReserved):
    """A hard budget would pay, were it not held for requests that run now."""

    code = "budget_reserved"


class NoAccount(Refused):
    """An organization that nobody has opened an account for."""

    status, code = 402, "no_billing_account"


class OtherCurrency(Unavailable):
    """Priced in another currency than the account's: nothing could be booked."""

    code = "account_currency"


class CreditMissing(Exception):
    """Redis lacks the counters: `rebuild` them (in a thread) and send the pipeline again."""


def reserve(
    pipe: Any,
    *,
    ticket: str,
    organization: int,
    request: UUID,
    amount: int,
    currency: str,
    key: str = "",
    project: str = "",
) -> None:
    """Queue the hold of `amount` nanos of a currency; hand its reply to `reserved`.

    The budgets of the organization, of its API key and of its project have to pay for it too.

    It acts only where the ticket says that the limits let the request pass, and then says on the
    ticket that credit did. Repeating it holds once.
    """
    names = [ticket, *_keys(organization)]
    _reserve.add(pipe, names, [str(request), amount, key, _plain(project), currency])


def reserved(reply: list[bytes]) -> None:
    """Raise what a reservation's reply means.

    `OutOfCredit`, `CreditReserved`, `OverBudget`, `BudgetReserved`, `OtherCurrency` or
    `CreditMissing`.
    """
    word = reply[0]
    if word in (b"ok", b"skipped"):
        return
    if word == b"missing":
        raise CreditMissing
    amount, spent, limit = (int(number) for number in reply[1:4])
    currency = reply[4].decode()
    if word == b"currency":
        raise OtherCurrency(
            f"Your account is in {currency}, and the model was priced in another currency. Nothing "
            "ran and nothing is charged; try again.",
            retry_after=5,
        )
    cost, left = show(amount, currency), show(max(0, limit - spent), currency)
    if word in (b"over", b"crowded"):
        raise _budget_refusal(word, reply[5].decode(), cost, left, show(limit, currency))
    if word == b"insufficient":
        raise OutOfCredit(
            f"This request can cost up to {cost}, but of your credit of {show(limit, currency)} "
            f"only {left} is left. Lower max_tokens, or have the credit raised."
        )
    raise CreditReserved(
        f"This request can cost up to {cost}; your credit has {left} left, but other requests "
        "that run now hold it. Try again when they have ended.",
        retry_after=1,
    )


def _budget_refusal(word: bytes, budget: str, cost: str, left: str, limit: str) -> Refused:
    if word == b"over":
        return OverBudget(
            f"This request can cost up to {cost}, but of this month's budget of {limit} "
            f"({budget}) only {left} is left. Lower max_tokens, or have the budget raised."
        )
    return BudgetReserved(
        f"This request can cost up to {cost}; the budget of {limit} ({budget}) has {left} left, "
        "but other requests that run now hold it. Try again when they have ended.",
        retry_after=1,
    )


def settle(pipe: Any, *, organization: int, request: UUID, amount: int, epoch: int) -> None:
    """Queue the end of a hold, and `amount` nanos as spent.

    `epoch` is what `ledger.book` gave for the request. Repeating it counts once.
    """
    _settle.add(pipe, _keys(organization), [str(request), amount, epoch])


def release(pipe: Any, *, organization: int, request: UUID, unless: str | None = None) -> None:
    """Queue the end of a hold that nothing came of, unless that key exists in Redis then."""
    _settle.add(pipe, [*_keys(organization), *([unless] if unless else [])], [str(request), 0, 0])


@dataclass(frozen=True, slots=True)
class Hold:
    """What a request needs held while it is booked: nanos, in the account's locked epoch."""

    organization: int
    request: UUID
    amount: int
    epoch: int
    key: str = ""
    project: str = ""


def hold_again(holds: Sequence[Hold]) -> dict[UUID, str]:
    """For requests reserved in an older epoch, while their accounts are locked FOR SHARE.

    Says of each: "held" (it still was), "taken" (lost with Redis's data, and held again) or
    "lost" (there is no room for it any more: it has to be free).
    """

    def scripts(pipe: Any) -> None:
        for each in holds:
            arguments: list[Argument] = [str(each.request), each.amount, each.epoch]
            arguments += [each.key, _plain(each.project)]
            _hold.add(pipe, _keys(each.organization), arguments)

    replies = pipeline(scripts) if holds else []
    return {each.request: word.decode() for each, word in zip(holds, replies, strict=True)}


def renew(organization: int) -> None:
    """Have Redis learn what has changed in PostgreSQL: a credit limit, a payment.

    To be called after that change is committed.
    """
    noted = list(Renewal.objects.for_org(organization).values_list("pk", flat=True))
    rebuild(organization, only_missing=False)
    if noted:
        Renewal.objects.for_org(organization).filter(pk__in=noted).delete()


def renew_on_commit(organization: int) -> None:
    """`renew`, once what the running transaction changes is committed.

    It is noted with the change: should we die in between, or Redis be away, `renewals` does it.
    """
    Renewal.objects.create(organization_id=organization)
    transaction.on_commit(partial(renew, organization), robust=True)


def rebuild(organization: int, *, only_missing: bool = True) -> None:
    """Fill the counters in Redis from the ledger, if they are missing; holds are kept.

    Many may call it at once: the account's lock lets one do it, the others find it done. Raises
    `NoAccount`.
    """
    try:
        epoch = _refill(organization, only_missing)
    finally:
        if not connection.in_atomic_block:
            close_old_connections()
    if epoch is not None:
        _confirm([_keys(organization)[0]], [epoch])


def _refill(organization: int, only_missing: bool) -> int | None:
    """The new epoch, whose counters still want confirming once this has been committed.

    Should we die before the commit, or after it and before the confirmation, the counters stay
    unconfirmed, and the next reservation calls for a rebuild.
    """
    with transaction.atomic():
        account = Account.objects.select_for_update().filter(organization=organization).first()
        if account is None:
            raise NoAccount("Your organization has no billing account yet. Ask the operator.")
        if only_missing and (stands := _standing(account)) is not None:
            return None if stands == "current" else account.credit_epoch
        account.credit_epoch += 1
        account.save(update_fields=["credit_epoch"])
        _load(_keys(organization), _figures(account, _clock()))
        return account.credit_epoch


def _figures(account: Account, now: datetime) -> list[Argument]:
    """What `credit_load.lua` wants: all that counts from `now` on, and until when it does."""
    organization = account.organization_id
    budgets = list(Budget.objects.for_org(organization))
    limit, spent = sums(account, now=now)
    ends = _expiries(organization, now)
    if budgets:
        ends.append(datetime.combine(month_after(month_of(now)), time(), UTC))
    until = int(min(ends).timestamp() * 1000) if ends else ""
    found: list[Argument] = [limit, spent, account.credit_epoch, account.currency, until]
    for budget in budgets:
        used = spent_of(budget, now=now)
        found += [budget.pk, budget.counted, budget.amount, used, int(budget.hard), budget.named]
    return found


def _expiries(organization: int, now: datetime) -> list[datetime]:
    rows = good(organization, now).exclude(expires_at=None)
    return list(rows.order_by("expires_at").values_list("expires_at", flat=True)[:1])


def _clock() -> datetime:
    """Redis's, by which the scripts know when a figure's time is over."""
    seconds, micros = state().time()
    return datetime.fromtimestamp(seconds + micros // 1000 / 1000, UTC)


def _plain(project: str) -> str:
    """A project's name as a hold carries it."""
    return project.replace("|", "/")


@dataclass(frozen=True, slots=True)
class Counters:
    """What Redis has, read at one moment.

    `held` is nanos by request, `budgets` what is spent and held of each, by its primary key.
    `refusing` are the budgets, None for the credit, that have refused what they cannot pay for.
    """

    limit: int
    spent: int
    reserved: int
    epoch: int
    currency: str
    held: Mapping[UUID, int]
    budgets: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    refusing: frozenset[int | None] = frozenset()


def counters(organization: int) -> Counters | None:
    """The counters in use, to be compared; None where they are missing or unconfirmed."""
    names = ("limit", "spent", "reserved", "epoch", "currency", "pending", "refusing")
    with state().pipeline(transaction=True) as pipe:
        pipe.hmget(_keys(organization)[0], names)
        pipe.hgetall(_keys(organization)[1])
        pipe.hgetall(_keys(organization)[2])
        found, held, budgets = pipe.execute()
    limit, spent, reserved, epoch, currency, pending, refusing = found
    if limit is None or pending is not None:
        return None

    def budget(what: bytes) -> dict[int, bytes]:
        names = (each.split(b":") for each in budgets)
        return {int(n[0]): budgets[b":".join(n)] for n in names if n[0] != b"of" and n[-1] == what}

    paid, reserving = budget(b"spent"), budget(b"reserved")
    return Counters(
        limit=int(limit),
        spent=int(spent),
        reserved=int(reserved),
        epoch=int(epoch),
        currency=currency.decode(),
        held={
            UUID(request.decode()): int(hold.partition(b"|")[0]) for request, hold in held.items()
        },
        budgets={each: (int(nanos), int(reserving[each])) for each, nanos in paid.items()},
        refusing=frozenset([*budget(b"refusing"), *([None] if refusing else [])]),
    )


def _standing(account: Account) -> str | None:
    """Whether the counters are of the epoch that was committed last: "current", or "unconfirmed"
    where whoever loaded them has not said so yet, which anybody may; None where they are not."""
    names = ["epoch", "pending", "until"]
    epoch, pending, until = state().hmget(_keys(account.organization_id)[0], names)
    if until is not None and _clock().timestamp() * 1000 >= int(until):
        return None
    if epoch is None or int(epoch) != account.credit_epoch:
        return None
    return "current" if pending is None else "unconfirmed"


def _keys(organization: int) -> list[str]:
    credit = f"credit:{organization}"
    return [credit, f"{credit}:held", f"{credit}:budgets"]
