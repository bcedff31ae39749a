"""/api/v1/billing/auto-top-up: credit that is bought by itself, with the saved card."""

from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.utils import timezone
from drf_spectacular.utils import OpenApiExample, extend_schema
from pydantic import BaseModel, ConfigDict, Field, field_validator

from billing import topup_rules
from billing.api.access import AccountEndpoint
from billing.topup_rules import Rule
from kit import money
from kit.edge import Json, NotFound, body
from kit.threads import in_thread


class WantedRule(BaseModel):
    """When to buy, and how much."""

    model_config = ConfigDict(extra="forbid")

    below: str = Field(description="Buy when less than this is left.", examples=["10.00"])
    amount: str = Field(description="What the card is charged.", examples=["50.00"])

    @field_validator("below", "amount")
    @classmethod
    def is_an_amount(cls, value: str) -> str:
        """In the account's currency, like `12.50`."""
        money.parse(value)
        return value


class AutoTopUpRule(BaseModel):
    """What holds; `stopped` says why nothing is bought any more, until the rule is put again."""

    below: str
    amount: str
    currency: str
    stopped: str


class AutoTopUps(AccountEndpoint):
    """The organization's rule."""

    @extend_schema(
        operation_id="auto_top_up",
        tags=["Usage"],
        summary="When credit is bought by itself",
        responses=AutoTopUpRule,
    )
    async def get(self, request: HttpRequest) -> HttpResponseBase:
        """404 where nothing is."""
        found = await in_thread(lambda: topup_rules.rule(self.caller.organization))
        if found is None:
            raise NotFound("No credit is bought by itself.")
        return Json(_shown(found).model_dump())

    @extend_schema(
        operation_id="set_auto_top_up",
        tags=["Usage"],
        summary="Buy credit by itself",
        request=WantedRule,
        responses=AutoTopUpRule,
        examples=[
            OpenApiExample("When less than 10 is left", value={"below": "10.00", "amount": "50.00"})
        ],
    )
    async def put(self, request: HttpRequest) -> HttpResponseBase:
        """With the saved card, at most once in five minutes; one that stopped goes on."""
        wanted, now = await body(request, WantedRule), timezone.now()
        found = await in_thread(
            lambda: topup_rules.decide(
                organization=self.caller.organization,
                below=money.parse(wanted.below),
                amount=money.parse(wanted.amount),
                now=now,
                by=self.actor,
            )
        )
        return Json(_shown(found).model_dump())

    @extend_schema(
        operation_id="delete_auto_top_up",
        tags=["Usage"],
        summary="Buy none by itself",
        responses={204: None},
    )
    async def delete(self, request: HttpRequest) -> HttpResponseBase:
        """Again changes nothing."""
        now, organization = timezone.now(), self.caller.organization
        await in_thread(
            lambda: topup_rules.give_up(organization=organization, now=now, by=self.actor)
        )
        return HttpResponse(status=204)


def _shown(found: Rule) -> AutoTopUpRule:
    return AutoTopUpRule(
        below=money.decimal(found.below),
        amount=money.decimal(found.amount),
        currency=found.currency,
        stopped=found.stopped,
    )
