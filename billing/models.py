"""What money is written down in: accounts, prices, the ledger, invoices. Amounts are nanos."""

from datetime import datetime
from enum import StrEnum

from django.core.exceptions import ValidationError
from django.core.validators import RegexValidator
from django.db import models
from django.db.models import Q
from django.utils import timezone

from kit import money
from tenants.models import Organization
from tenants.scoping import OwnedQuerySet

LARGEST = 2**53 - 1
"""The largest amount that Lua counts exactly, in nanos: nine million currency units."""
CURRENCY = RegexValidator(r"^[A-Z]{3}\Z", "An ISO 4217 code in capitals, like EUR.")


class Meter(StrEnum):
    """What is counted, and priced."""

    INPUT_TOKENS = "input_tokens"
    OUTPUT_TOKENS = "output_tokens"


class Account(models.Model):
    """What an organization may owe. Redis counts against it; `credit.renew` after a change."""

    organization = models.OneToOneField(
        Organization, on_delete=models.PROTECT, related_name="account"
    )
    currency = models.CharField(max_length=3, validators=[CURRENCY])
    credit_limit = models.BigIntegerField(
        help_text="The most that may be owed at once, in nanos (10⁻⁹ units)."
    )
    credit_epoch = models.BigIntegerField(default=0, editable=False)

    objects = OwnedQuerySet["Account"].as_manager()

    class Meta:
        constraints = (
            models.CheckConstraint(
                condition=Q(credit_limit__gte=0, credit_limit__lte=LARGEST),
                name="account_credit_limit",
                violation_error_message=f"Between 0 and {LARGEST:,} nanos.",
            ),
        )

    def __str__(self) -> str:
        return f"{self.organization} · {money.show(self.credit_limit, self.currency)}"


class PriceVersion(models.Model):
    """What a model's use costs from a moment on. Once effective, it never changes."""

    model = models.CharField(max_length=64)
    currency = models.CharField(max_length=3, validators=[CURRENCY])
    rates = models.JSONField(help_text='Nanos per million units: {"input_tokens": 150000000, …}.')
    effective_from = models.DateTimeField()

    class Meta:
        ordering = ("model", "currency", "-effective_from")
        constraints = (
            models.UniqueConstraint(
                fields=("model", "currency", "effective_from"), name="one_price_at_a_time"
            ),
        )

    def __str__(self) -> str:
        return f"{self.model} · {self.currency} · from {self.effective_from:%Y-%m-%d %H:%M}"

    def clean(self) -> None:
        """Refuse rates that are no price."""
        problem = rates_problem(self.rates)
        if problem:
            raise ValidationError({"rates": problem})

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
    return ""


class Period(models.Model):
    """A month of an organization's. Booking locks its row FOR SHARE, closing FOR UPDATE."""

    organization = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="periods")
    month = models.DateField()
    closed_at = models.DateTimeField(null=True, blank=True)

    objects = OwnedQuerySet["Period"].as_manager()

    class Meta:
        ordering = ("-month", "organization")
        constraints = (
            models.UniqueConstraint(fields=("organization", "month"), name="one_period_a_month"),
            models.CheckConstraint(condition=Q(month__day=1), name="period_begins_a_month"),
        )

    def __str__(self) -> str:
        return f"{self.month:%Y-%m} · {self.organization}"


class State(models.TextChoices):
    """How a request ended."""

    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"


class LedgerEntry(models.Model):
    """What one request used and costs. Insert-only, by trigger; a correction is another row.

    The table is partitioned by month of its key, a UUIDv7: see `billing.partitions`.
    """

    request = models.UUIDField(primary_key=True)
    organization = models.ForeignKey(
        Organization, on_delete=models.PROTECT, related_name="ledger", db_index=False
    )
    key = models.CharField(max_length=16)
    model = models.CharField(max_length=64)
    month = models.DateField()
    state = models.CharField(max_length=9, choices=State.choices)
    units = models.JSONField()
    amounts = models.JSONField()
    amount = models.BigIntegerField()
    currency = models.CharField(max_length=3, validators=[CURRENCY])
    price_version = models.ForeignKey(
        PriceVersion, on_delete=models.PROTECT, related_name="+", null=True, db_index=False
    )
    region = models.CharField(max_length=32)
    label = models.CharField(max_length=128, blank=True)
    credit_epoch = models.BigIntegerField()
    created_at = models.DateTimeField(default=timezone.now)

    objects = OwnedQuerySet["LedgerEntry"].as_manager()

    class Meta:
        ordering = ("-request",)
        verbose_name_plural = "ledger entries"

    def __str__(self) -> str:
        return str(self.request)


class Invoice(models.Model):
    """A closed month's bill: the sum of its ledger rows, rounded once."""

    class Status(models.TextChoices):
        """Stripe's words."""

        DRAFT = "draft"
        OPEN = "open"
        PAID = "paid"
        VOID = "void"
        UNCOLLECTIBLE = "uncollectible"

    organization = models.ForeignKey(
        Organization, on_delete=models.PROTECT, related_name="invoices"
    )
    month = models.DateField()
    currency = models.CharField(max_length=3, validators=[CURRENCY])
    subtotal = models.BigIntegerField(help_text="In nanos: exactly the sum of the ledger rows.")
    total_minor = models.BigIntegerField(help_text="In the currency's minor unit, rounded once.")
    status = models.CharField(max_length=13, choices=Status.choices, default=Status.DRAFT)
    closed_at = models.DateTimeField()

    objects = OwnedQuerySet["Invoice"].as_manager()

    class Meta:
        ordering = ("-month", "organization")
        constraints = (
            models.UniqueConstraint(fields=("organization", "month"), name="one_invoice_a_month"),
        )

    def __str__(self) -> str:
        return f"{self.month:%Y-%m} · {self.organization}"


class InvoiceLine(models.Model):
    """A model's use of one meter in the invoice's month."""

    invoice = models.ForeignKey(Invoice, on_delete=models.CASCADE, related_name="lines")
    model = models.CharField(max_length=64)
    meter = models.CharField(max_length=32)
    units = models.BigIntegerField()
    nanos = models.BigIntegerField()
    minor = models.BigIntegerField()

    class Meta:
        ordering = ("invoice_id", "model", "meter")
        constraints = (
            models.UniqueConstraint(
                fields=("invoice", "model", "meter"), name="one_line_a_model_and_meter"
            ),
        )

    def __str__(self) -> str:
        return f"{self.model} · {self.meter}"
