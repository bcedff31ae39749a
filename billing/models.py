"""Accounts, prices, the ledger, invoices. Amounts are nanos."""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, RegexValidator
from django.db import models
from django.db.models import Q
from django.utils import timezone

from kit import money
from tenants.models import Organization
from tenants.scoping import OwnedQuerySet

LARGEST = 2**53 - 1
"""The largest amount that Lua counts exactly, in nanos: nine million currency units."""
CURRENCY = RegexValidator(r"^[A-Z]{3}\Z", "An ISO 4217 code in capitals, like EUR.")
COUNTRY = RegexValidator(r"^[A-Z]{2}\Z", "An ISO 3166 code in capitals, like DE.")


class Meter(StrEnum):
    """What is counted, and priced."""

    INPUT_TOKENS = "input_tokens"
    OUTPUT_TOKENS = "output_tokens"
    EMBEDDING_TOKENS = "embedding_tokens"
    BATCH_INPUT_TOKENS = "batch_input_tokens"
    BATCH_OUTPUT_TOKENS = "batch_output_tokens"
    BATCH_EMBEDDING_TOKENS = "batch_embedding_tokens"


IN_BATCHES = "batch_"
"""What the meters of batches begin with."""
READ = (
    Meter.INPUT_TOKENS,
    Meter.EMBEDDING_TOKENS,
    Meter.BATCH_INPUT_TOKENS,
    Meter.BATCH_EMBEDDING_TOKENS,
)
"""What counts the tokens that models read."""
WRITTEN = (Meter.OUTPUT_TOKENS, Meter.BATCH_OUTPUT_TOKENS)
"""What counts those that they wrote."""


def tokens(units: Mapping[str, int], *meters: Meter) -> int:
    """Of these meters together."""
    return sum(units.get(meter.value, 0) for meter in meters)


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
    """What a model's use costs from a moment on. Once effective, it never changes.

    An organization that has a price of its own in force pays that, and not the list's.
    """

    model = models.CharField(max_length=64)
    currency = models.CharField(max_length=3, validators=[CURRENCY])
    organization = models.ForeignKey(
        Organization,
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="prices",
        help_text="Whose price this is, instead of the list's; empty: everybody's.",
    )
    rates = models.JSONField(help_text='Nanos per million units: {"input_tokens": 150000000, …}.')
    effective_from = models.DateTimeField()

    class Meta:
        ordering = ("model", "currency", "-effective_from")
        constraints = (
            models.UniqueConstraint(
                fields=("model", "currency", "organization", "effective_from"),
                name="one_price_at_a_time",
                nulls_distinct=False,
            ),
        )

    def __str__(self) -> str:
        whose = f"{self.organization} · " if self.organization_id else ""
        return f"{whose}{self.model} · {self.currency} · from {self.effective_from:%Y-%m-%d %H:%M}"

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
    project = models.CharField(max_length=64, blank=True, db_default="", default="")
    credit_epoch = models.BigIntegerField()
    created_at = models.DateTimeField(default=timezone.now)

    objects = OwnedQuerySet["LedgerEntry"].as_manager()

    class Meta:
        ordering = ("-request",)
        verbose_name_plural = "ledger entries"

    def __str__(self) -> str:
        return str(self.request)


class BillingDetails(models.Model):
    """Whom an organization's invoices are made out to. Without a row: its name, untaxed."""

    organization = models.OneToOneField(
        Organization, on_delete=models.PROTECT, related_name="billing_details"
    )
    name = models.CharField(max_length=200)
    address = models.TextField(max_length=500)
    country = models.CharField(max_length=2, validators=[COUNTRY])
    vat_id = models.CharField("VAT id", max_length=16, blank=True)
    email = models.EmailField("e-mail address", blank=True)

    objects = OwnedQuerySet["BillingDetails"].as_manager()

    class Meta:
        verbose_name_plural = "billing details"

    def __str__(self) -> str:
        return self.name


class TaxRate(models.Model):
    """What a country takes of a sale, from a day on. A country without a rate takes nothing."""

    country = models.CharField(max_length=2, validators=[COUNTRY])
    rate = models.PositiveIntegerField(
        help_text="In thousandths of a percent: 19000 is 19 %.",
        validators=[MaxValueValidator(100_000)],
    )
    name = models.CharField(max_length=20, default="VAT", help_text="As invoices call it.")
    effective_from = models.DateField()

    class Meta:
        ordering = ("country", "-effective_from")
        constraints = (
            models.UniqueConstraint(fields=("country", "effective_from"), name="one_rate_a_day"),
        )

    def __str__(self) -> str:
        return f"{self.country} · {self.name} · from {self.effective_from}"


class InvoiceSeries(models.Model):
    """The last number given in a series; its row is locked until the invoice is committed."""

    name = models.CharField(max_length=16, primary_key=True)
    last = models.PositiveIntegerField()

    def __str__(self) -> str:
        return f"{self.name}: {self.last}"


class Invoice(models.Model):
    """A closed month's bill: the sum of its ledger rows, rounded once.

    A credit note is one of negative amounts that corrects another. Amounts in minor units are
    net; `tax_minor` comes on top. Once it has a number, only its status moves.
    """

    class Kind(models.TextChoices):
        """What the document is."""

        INVOICE = "invoice"
        CREDIT_NOTE = "credit_note"

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
    kind = models.CharField(max_length=11, choices=Kind.choices, default=Kind.INVOICE)
    corrects = models.ForeignKey(
        "self", on_delete=models.PROTECT, null=True, blank=True, related_name="credit_notes"
    )
    number = models.CharField(max_length=24, null=True, blank=True, unique=True)
    issued_at = models.DateTimeField(null=True, blank=True)
    due_on = models.DateField(null=True, blank=True)
    tax_name = models.CharField(max_length=20, blank=True)
    tax_rate = models.PositiveIntegerField(default=0, help_text="Thousandths of a percent.")
    tax_minor = models.BigIntegerField(default=0)
    note = models.CharField(max_length=500, blank=True)
    granted = models.BigIntegerField(
        default=0, help_text="In nanos: what grants have paid of the subtotal."
    )
    merkle_root = models.CharField(max_length=64, blank=True)
    row_count = models.PositiveBigIntegerField(default=0)
    seller = models.JSONField(default=dict)
    buyer = models.JSONField(default=dict)

    objects = OwnedQuerySet["Invoice"].as_manager()

    class Meta:
        ordering = ("-month", "organization")
        constraints = (
            models.UniqueConstraint(
                fields=("organization", "month"),
                condition=Q(kind="invoice"),
                name="one_invoice_a_month",
            ),
            models.CheckConstraint(
                condition=Q(status="draft") | Q(status="void") | Q(number__isnull=False),
                name="issued_is_numbered",
            ),
            models.CheckConstraint(
                condition=Q(kind="invoice", corrects=None)
                | Q(kind="credit_note", corrects__isnull=False, total_minor__lte=0),
                name="credit_note_corrects",
            ),
        )

    def __str__(self) -> str:
        return self.number or f"{self.month:%Y-%m} · {self.organization}"

    @property
    def due_minor(self) -> int:
        """With tax."""
        return self.total_minor + self.tax_minor


class InvoiceMove(models.Model):
    """A step in an invoice's life: when, by whom, and why."""

    invoice = models.ForeignKey(Invoice, on_delete=models.CASCADE, related_name="moves")
    source = models.CharField(max_length=13, choices=Invoice.Status.choices)
    target = models.CharField(max_length=13, choices=Invoice.Status.choices)
    at = models.DateTimeField()
    by = models.CharField(max_length=254, blank=True)
    note = models.CharField(max_length=500, blank=True)

    class Meta:
        ordering = ("invoice_id", "pk")

    def __str__(self) -> str:
        return f"{self.source} → {self.target}"


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
