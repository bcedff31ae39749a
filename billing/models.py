"""Accounts, the ledger, invoices; prices are in `billing.prices`. Amounts are nanos."""

from django.core.validators import MaxValueValidator, RegexValidator
from django.db import models
from django.db.models import Q
from django.utils import timezone

from billing.prices import IN_BATCHES as IN_BATCHES
from billing.prices import LARGEST as LARGEST
from billing.prices import PART_OF as PART_OF
from billing.prices import READ as READ
from billing.prices import WRITTEN as WRITTEN
from billing.prices import Fee as Fee
from billing.prices import Meter as Meter
from billing.prices import PriceVersion as PriceVersion
from billing.prices import apart as apart
from billing.prices import known_currency as known_currency
from billing.prices import tokens as tokens
from kit import money
from tenants.models import Organization
from tenants.scoping import OwnedQuerySet

COUNTRY = RegexValidator(r"^[A-Z]{2}\Z", "An ISO 3166 code in capitals, like DE.")


class Account(models.Model):
    """What an organization may owe. Redis counts against it; `credit.renew` after a change."""

    organization = models.OneToOneField(
        Organization, on_delete=models.PROTECT, related_name="account"
    )
    currency = models.CharField(max_length=3, validators=[known_currency])
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

    class Kind(models.TextChoices):
        """What wrote it: a request, `billing.metering`, or `billing.adjustments`."""

        USE = "use"
        METER = "meter"
        TIER = "tier"
        MINIMUM = "minimum"
        PLAN = "plan"

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
    currency = models.CharField(max_length=3, validators=[known_currency])
    price_version = models.ForeignKey(
        PriceVersion, on_delete=models.PROTECT, related_name="+", null=True, db_index=False
    )
    region = models.CharField(max_length=32)
    label = models.CharField(max_length=128, blank=True)
    project = models.CharField(max_length=64, blank=True, db_default="", default="")
    kind = models.CharField(
        max_length=7, choices=Kind.choices, db_default=Kind.USE, default=Kind.USE
    )
    credit_epoch = models.BigIntegerField()
    created_at = models.DateTimeField(default=timezone.now)

    USED = (Kind.USE, Kind.METER)
    """What counts as use; the others are charged beside it."""

    objects = OwnedQuerySet["LedgerEntry"].as_manager()

    class Meta:
        ordering = ("-request",)
        verbose_name_plural = "ledger entries"

    def __str__(self) -> str:
        return str(self.request)


class BillingDetails(models.Model):
    """Whom an organization's invoices are made out to. Without a row: its name, taxed as at home.

    `version` grows with each change: what the payment provider has been told is compared to it.
    """

    organization = models.OneToOneField(
        Organization, on_delete=models.PROTECT, related_name="billing_details"
    )
    name = models.CharField(max_length=200)
    address = models.TextField(max_length=500)
    country = models.CharField(max_length=2, validators=[COUNTRY])
    vat_id = models.CharField("VAT id", max_length=16, blank=True)
    email = models.EmailField("e-mail address", blank=True)
    version = models.PositiveIntegerField(default=1, editable=False)

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
    net; `tax_minor` comes on top: it is the tax on `taxed_minor`, for what was paid for before is
    a payment and no discount. Once it has a number, only its status moves.
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
    currency = models.CharField(max_length=3, validators=[known_currency])
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
    prepaid_minor = models.BigIntegerField(
        default=0, help_text="What top-ups have paid of it: taxed, and then taken off."
    )
    merkle_root = models.CharField(max_length=64, blank=True)
    row_count = models.PositiveBigIntegerField(default=0)
    proof_format = models.CharField(max_length=16, default="ledger-rows-1")
    seller = models.JSONField(default=dict)
    buyer = models.JSONField(default=dict)

    objects = OwnedQuerySet["Invoice"].as_manager()

    class Meta:
        ordering = ("-month", "organization")
        constraints = (
            models.UniqueConstraint(
                fields=("organization", "month"),
                condition=Q(kind="invoice") & ~Q(status="void"),
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
    def taxed_minor(self) -> int:
        """The net amount before prepaid credit."""
        return self.total_minor + self.prepaid_minor

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
    """A model's use of one meter by one project in the invoice's month, or what else is charged."""

    invoice = models.ForeignKey(Invoice, on_delete=models.CASCADE, related_name="lines")
    kind = models.CharField(max_length=7, default=LedgerEntry.Kind.USE)
    model = models.CharField(max_length=64)
    meter = models.CharField(max_length=32)
    project = models.CharField(max_length=64, blank=True, default="")
    label = models.CharField(max_length=128, blank=True, default="")
    units = models.BigIntegerField()
    nanos = models.BigIntegerField()
    minor = models.BigIntegerField()

    class Meta:
        ordering = ("pk",)
        constraints = (
            models.UniqueConstraint(
                fields=("invoice", "kind", "model", "meter", "project", "label"),
                name="one_line_of_each",
            ),
        )

    def __str__(self) -> str:
        return " · ".join(filter(None, [self.model, self.meter, self.project]))
