"""What is counted, and what it costs. Amounts are nanos."""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum

from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import Q

from billing import tiers
from kit.money import UnknownCurrency, minor_exponent
from tenants.models import Organization, Plan

LARGEST = 2**53 - 1
"""The largest amount that Lua counts exactly, in nanos: nine million currency units."""


def known_currency(value: str) -> None:
    """Refuse what is no currency of ISO 4217's."""
    try:
        minor_exponent(value if value.isupper() else "")
    except UnknownCurrency as error:
        raise ValidationError("An ISO 4217 code in capitals, like EUR.") from error


class Meter(StrEnum):
    """What is counted, and priced."""

    INPUT_TOKENS = "input_tokens"
    OUTPUT_TOKENS = "output_tokens"
    EMBEDDING_TOKENS = "embedding_tokens"
    BATCH_INPUT_TOKENS = "batch_input_tokens"
    BATCH_OUTPUT_TOKENS = "batch_output_tokens"
    BATCH_EMBEDDING_TOKENS = "batch_embedding_tokens"
    RESPONSE_CACHE_TOKENS = "response_cache_tokens"
    CACHED_INPUT_TOKENS = "cached_input_tokens"
    REASONING_TOKENS = "reasoning_tokens"
    STORAGE_BYTE_HOURS = "storage_byte_hours"
    DEVICE_SECONDS = "device_seconds"


IN_BATCHES = "batch_"
"""What the meters of batches begin with."""
READ = (
    Meter.INPUT_TOKENS,
    Meter.EMBEDDING_TOKENS,
    Meter.BATCH_INPUT_TOKENS,
    Meter.BATCH_EMBEDDING_TOKENS,
    Meter.CACHED_INPUT_TOKENS,
)
"""What counts the tokens that models read."""
WRITTEN = (Meter.OUTPUT_TOKENS, Meter.BATCH_OUTPUT_TOKENS, Meter.REASONING_TOKENS)
"""What counts those that they wrote."""


PART_OF = {
    Meter.CACHED_INPUT_TOKENS: Meter.INPUT_TOKENS,
    Meter.REASONING_TOKENS: Meter.OUTPUT_TOKENS,
}
"""Tokens that a request reads or writes and that may be priced lower, and what they are else."""


def apart(units: Mapping[str, int], parts: Mapping[Meter, int]) -> dict[str, int]:
    """Units with their parts as meters of their own: so many less of the whole.

    Where the whole is not counted, as in batches, whose tokens cost less already, there are none.
    """
    found = dict(units)
    for part, count in parts.items():
        if count and (whole := PART_OF[part].value) in found:
            found |= {whole: found[whole] - count, part.value: count}
    return found


def tokens(units: Mapping[str, int], *meters: Meter) -> int:
    """Of these meters together."""
    return sum(units.get(meter.value, 0) for meter in meters)


class Fee(StrEnum):
    """What is charged beside use, named like a meter."""

    PLAN = "plan_fee"
    SEATS = "seats"
    PRORATION = "proration"
    MINIMUM = "minimum"


class PriceVersion(models.Model):
    """What a model's use costs from a moment on. Once effective, it never changes.

    `rates` is what requests are booked at, `tiers` what the whole month comes to. An organization
    that has a price of its own in force pays that, or else its plan's, or else the list's.
    """

    model = models.CharField(max_length=64)
    currency = models.CharField(max_length=3, validators=[known_currency])
    organization = models.ForeignKey(
        Organization,
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="prices",
        help_text="Whose price this is, instead of the list's; empty: everybody's.",
    )
    plan = models.ForeignKey(
        Plan,
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="prices",
        help_text="Of every organization on this plan, instead of the list's.",
    )
    rates = models.JSONField(help_text='Nanos per million units: {"input_tokens": 150000000, …}.')
    tiers = models.JSONField(
        default=dict,
        blank=True,
        help_text=(
            'By meter, what a month comes to: {"input_tokens": {"mode": "graduated", "steps": '
            "[[0, 0], [1000000, 150000000]]}}: from so many units on, nanos for a million. "
            "Graduated or volume; none dearer than the list price."
        ),
    )
    effective_from = models.DateTimeField()

    class Meta:
        ordering = ("model", "currency", "-effective_from")
        constraints = (
            models.UniqueConstraint(
                fields=("model", "currency", "organization", "plan", "effective_from"),
                name="one_price_at_a_time",
                nulls_distinct=False,
            ),
            models.CheckConstraint(
                condition=Q(organization=None) | Q(plan=None), name="price_of_one_or_a_plan"
            ),
        )

    def __str__(self) -> str:
        owner = self.organization or self.plan
        whose = f"{owner} · " if owner else ""
        return f"{whose}{self.model} · {self.currency} · from {self.effective_from:%Y-%m-%d %H:%M}"

    def clean(self) -> None:
        """Refuse rates that are no price."""
        if problem := rates_problem(self.rates):
            raise ValidationError({"rates": problem})
        if problem := tiers.problem(self.tiers, self.rates):
            raise ValidationError({"tiers": problem})

    def is_effective(self, now: datetime) -> bool:
        """Whether requests may already have been charged at it."""
        return self.effective_from <= now


def rates_problem(rates: object) -> str:
    """Why `rates` is not a price list of known meters in whole, non-negative nanos; or ""."""
    if not isinstance(rates, dict) or not rates:
        return "An object of meters and nanos for a million units."
    for meter, nanos in rates.items():
        if meter not in list(Meter):
            return f"{meter!r} is no meter; there are {', '.join(Meter)}."
        if type(nanos) is not int or not 0 <= nanos <= LARGEST:
            return f"{meter}: {nanos!r} is no whole number of nanos from 0 to {LARGEST}."
    for part, whole in PART_OF.items():
        if rates.get(part, 0) > rates.get(whole, 0):
            most = rates.get(whole, 0)
            return f"{part}: {rates[part]} is more than {whole}'s {most}, which is held for it."
    return ""
