"""/api/v1/budgets: what may be spent in a month, by all, by a project, by a key."""

from typing import Literal

from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from pydantic import BaseModel, ConfigDict, Field, field_validator

from billing import budgets
from billing.api.access import AccountEndpoint
from billing.budgets import Set
from kit import money
from kit.edge import Json, body
from kit.threads import in_thread

_AMOUNT = "A month's, in the account's currency, like `12.50`."


class _Amount(BaseModel):
    model_config = ConfigDict(extra="forbid")

    @field_validator("amount", check_fields=False)
    @classmethod
    def is_an_amount(cls, value: str | None) -> str | None:
        """To the nano, and not below none."""
        if value is not None:
            money.parse(value)
        return value


class NewBudget(_Amount):
    """A budget to set."""

    scope: Literal["organization", "project", "key"]
    subject: str = Field("", max_length=64, description="The project, or the key's id.")
    amount: str = Field(description=_AMOUNT, examples=["50.00"])
    hard: bool = Field(False, description="Refuse what would go past it, with 402.")


class BudgetChange(_Amount):
    """What to change."""

    amount: str | None = Field(None, description=_AMOUNT)
    hard: bool | None = None


class OneBudget(BaseModel):
    """A budget, and what the running month has spent of it."""

    id: int
    scope: str
    subject: str
    currency: str
    amount: str
    spent: str
    left: str
    hard: bool


class BudgetList(BaseModel):
    """All of them."""

    data: list[OneBudget]


class Budgets(AccountEndpoint):
    """All of an organization's."""

    @extend_schema(
        operation_id="budgets", tags=["Usage"], summary="List budgets", responses=BudgetList
    )
    async def get(self, request: HttpRequest) -> HttpResponseBase:
        """With what is spent of each."""
        now, organization = timezone.now(), self.caller.organization
        found = await in_thread(lambda: budgets.listed(organization=organization, now=now))
        return Json(BudgetList(data=[as_budget(each) for each in found]).model_dump())

    @extend_schema(
        operation_id="create_budget",
        tags=["Usage"],
        summary="Set a budget",
        request=NewBudget,
        responses={201: OneBudget},
    )
    async def post(self, request: HttpRequest) -> HttpResponseBase:
        """It counts at once, also what the month has spent already."""
        wanted, now = await body(request, NewBudget), timezone.now()
        made = await in_thread(
            lambda: budgets.create(
                organization=self.caller.organization,
                scope=wanted.scope,
                subject=wanted.subject,
                amount=money.parse(wanted.amount),
                hard=wanted.hard,
                now=now,
                by=self.actor,
            )
        )
        return Json(as_budget(made).model_dump(), status=201)


class BudgetById(AccountEndpoint):
    """One of them."""

    @extend_schema(
        operation_id="change_budget",
        tags=["Usage"],
        summary="Change a budget",
        request=BudgetChange,
        responses=OneBudget,
    )
    async def patch(self, request: HttpRequest, identifier: int) -> HttpResponseBase:
        """What is given changes, the rest stays."""
        wanted, now = await body(request, BudgetChange), timezone.now()
        made = await in_thread(
            lambda: budgets.change(
                organization=self.caller.organization,
                budget=identifier,
                amount=None if wanted.amount is None else money.parse(wanted.amount),
                hard=wanted.hard,
                now=now,
                by=self.actor,
            )
        )
        return Json(as_budget(made).model_dump())

    @extend_schema(
        operation_id="delete_budget",
        tags=["Usage"],
        summary="Take a budget away",
        responses={204: None},
    )
    async def delete(self, request: HttpRequest, identifier: int) -> HttpResponseBase:
        """It counts no more."""
        now = timezone.now()
        await in_thread(
            lambda: budgets.remove(
                organization=self.caller.organization, budget=identifier, now=now, by=self.actor
            )
        )
        return HttpResponse(status=204)


def as_budget(each: Set) -> OneBudget:
    """As the API says it."""
    return OneBudget(
        id=each.id,
        scope=each.scope,
        subject=each.subject,
        currency=each.currency,
        amount=money.decimal(each.amount),
        spent=money.decimal(each.spent),
        left=money.decimal(max(0, each.amount - each.spent)),
        hard=each.hard,
    )
