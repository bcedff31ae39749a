"""How invoices get paid: customers and cards at the provider, attempts, events, mails."""

from uuid import uuid4

from django.db import models
from django.db.models import Q

from billing.models import Invoice, known_currency
from kit.money import from_minor, show
from tenants.models import Organization
from tenants.scoping import OwnedQuerySet


class PaymentProfile(models.Model):
    """An organization as the payment provider knows it. Card numbers are never here."""

    organization = models.OneToOneField(
        Organization, on_delete=models.PROTECT, related_name="payment_profile"
    )
    customer = models.CharField(max_length=64, null=True, blank=True, unique=True)
    method = models.CharField(max_length=64, blank=True)
    card = models.CharField(max_length=40, blank=True, help_text="Like: visa •••• 4242.")
    tax_id = models.CharField(max_length=32, blank=True)
    told = models.PositiveIntegerField(
        default=0, editable=False, help_text="The version of the billing details it knows."
    )
    round = models.PositiveIntegerField(default=0, editable=False)

    objects = OwnedQuerySet["PaymentProfile"].as_manager()

    def __str__(self) -> str:
        return f"{self.organization} · {self.card or 'no card'}"


class Collection(models.Model):
    """An issued document on its way to be settled, also at the provider. Polled by `next_at`.

    An invoice is charged, or its customer reminded, until it is paid or void; a credit note is
    passed on once. `round` counts the provider's definite failures: a key that was answered with
    one is used up.
    """

    class Stage(models.TextChoices):
        """How far it has come."""

        COLLECTING = "collecting"
        REMINDING = "reminding"
        GRACE = "grace"
        SUSPENDED = "suspended"
        DONE = "done"

    invoice = models.OneToOneField(Invoice, on_delete=models.PROTECT, related_name="collection")
    organization = models.ForeignKey(
        Organization, on_delete=models.PROTECT, related_name="collections"
    )
    stage = models.CharField(max_length=10, choices=Stage.choices, default=Stage.COLLECTING)
    step = models.PositiveSmallIntegerField(default=0)
    next_at = models.DateTimeField(
        null=True, blank=True, help_text="When to look at it; a webhook may have it looked at now."
    )
    retry_at = models.DateTimeField(
        null=True, blank=True, help_text="Before that no card is charged and nobody is reminded."
    )
    leased_until = models.DateTimeField(null=True, blank=True)
    remote = models.CharField(max_length=64, null=True, blank=True, unique=True)
    started_at = models.DateTimeField(null=True, blank=True)
    round = models.PositiveIntegerField(default=0)
    error = models.CharField(max_length=500, blank=True)

    objects = OwnedQuerySet["Collection"].as_manager()

    class Meta:
        ordering = ("-pk",)
        indexes = (
            models.Index(
                fields=("next_at",), condition=Q(next_at__isnull=False), name="collection_due"
            ),
        )

    def __str__(self) -> str:
        return f"{self.invoice} · {self.stage}"


class Payment(models.Model):
    """An attempt to charge a card: written before the provider is asked, settled by its answer."""

    class Status(models.TextChoices):
        """What came of it."""

        PENDING = "pending"
        SUCCEEDED = "succeeded"
        FAILED = "failed"
        DISPUTED = "disputed"
        LOST = "lost"

    organization = models.ForeignKey(
        Organization, on_delete=models.PROTECT, related_name="payments"
    )
    invoice = models.ForeignKey(
        Invoice, on_delete=models.PROTECT, null=True, blank=True, related_name="payments"
    )
    attempt = models.PositiveIntegerField(default=1)
    amount_minor = models.BigIntegerField()
    currency = models.CharField(max_length=3, validators=[known_currency])
    status = models.CharField(max_length=9, choices=Status.choices, default=Status.PENDING)
    reference = models.CharField(max_length=64, null=True, blank=True, unique=True)
    failure = models.CharField(max_length=300, blank=True)
    grant = models.ForeignKey(
        "billing.Grant",
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="payments",
        help_text="The credit that it bought.",
    )
    refunded_minor = models.BigIntegerField(default=0, db_default=0)
    leased_until = models.DateTimeField(null=True, blank=True, editable=False)
    created_at = models.DateTimeField()
    settled_at = models.DateTimeField(null=True, blank=True)

    objects = OwnedQuerySet["Payment"].as_manager()

    class Meta:
        ordering = ("-pk",)
        constraints = (
            models.UniqueConstraint(fields=("invoice", "attempt"), name="one_payment_an_attempt"),
            models.UniqueConstraint(
                fields=("invoice",), condition=Q(status="pending"), name="one_pending_payment"
            ),
        )

    def __str__(self) -> str:
        amount = show(from_minor(self.amount_minor, self.currency), self.currency)
        what = self.invoice or self.organization
        return f"{what} · {amount} · {self.created_at:%Y-%m-%d} · {self.status}"


class Refund(models.Model):
    """Money on its way back to a card: asked for here, or made at the provider and heard of.

    One of ours is written, and taken off the credit, before the provider is asked. One that was
    done may fail days later: then it is credit again.
    """

    class Status(models.TextChoices):
        """How far it has come."""

        PENDING = "pending", "asked for"
        SENT = "sent", "on its way"
        DONE = "done", "given back"
        FAILED = "failed", "failed"

    organization = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="refunds")
    payment = models.ForeignKey(Payment, on_delete=models.PROTECT, related_name="refunds")
    amount_minor = models.BigIntegerField()
    reason = models.CharField(max_length=300)
    status = models.CharField(max_length=7, choices=Status.choices, default=Status.PENDING)
    reference = models.CharField(max_length=64, null=True, blank=True, unique=True)
    taken = models.BigIntegerField(
        default=0, db_default=0, help_text="Nanos of a top-up's credit that it took away."
    )
    attempt = models.PositiveIntegerField(default=1)
    failure = models.CharField(max_length=300, blank=True)
    leased_until = models.DateTimeField(null=True, blank=True, editable=False)
    created_at = models.DateTimeField()
    settled_at = models.DateTimeField(null=True, blank=True)
    next_at = models.DateTimeField(
        null=True, blank=True, help_text="When to see whether it stands, should nothing be heard."
    )

    objects = OwnedQuerySet["Refund"].as_manager()

    class Meta:
        ordering = ("-pk",)
        constraints = (
            models.UniqueConstraint(
                fields=("payment",), condition=Q(status="pending"), name="one_pending_refund"
            ),
            models.CheckConstraint(condition=Q(amount_minor__gt=0), name="refund_amount"),
        )
        indexes = (
            models.Index(
                fields=("next_at",), condition=Q(next_at__isnull=False), name="refund_due"
            ),
        )

    def __str__(self) -> str:
        return f"{self.organization} · {self.amount_minor} · {self.status}"


class Checkout(models.Model):
    """A page at the provider that a member asked for: to save a card, to see the portal, to pay."""

    class Kind(models.TextChoices):
        """What for."""

        CARD = "card"
        PORTAL = "portal"
        TOP_UP = "top_up"

    class Status(models.TextChoices):
        """How far it has come."""

        PENDING = "pending"
        READY = "ready"
        DONE = "done"
        FAILED = "failed"

    id = models.UUIDField(primary_key=True, default=uuid4, editable=False)
    organization = models.ForeignKey(
        Organization, on_delete=models.PROTECT, related_name="checkouts"
    )
    kind = models.CharField(max_length=6, choices=Kind.choices)
    status = models.CharField(max_length=7, choices=Status.choices, default=Status.PENDING)
    amount_minor = models.BigIntegerField(default=0)
    return_url = models.URLField(max_length=500)
    remote = models.CharField(max_length=128, null=True, blank=True, unique=True)
    url = models.TextField(blank=True)
    error = models.CharField(max_length=300, blank=True)
    created_at = models.DateTimeField()
    next_at = models.DateTimeField(
        null=True, blank=True, help_text="When to look how far it is, should nothing be heard."
    )

    objects = OwnedQuerySet["Checkout"].as_manager()

    class Meta:
        ordering = ("-created_at",)

    def __str__(self) -> str:
        return f"{self.organization} · {self.kind} · {self.status}"


class ProviderEvent(models.Model):
    """A webhook as it came, its signature checked; handled once, however often it came."""

    id = models.CharField(max_length=64, primary_key=True)
    kind = models.CharField(max_length=80)
    body = models.TextField()
    received_at = models.DateTimeField()
    handled_at = models.DateTimeField(null=True, blank=True)
    leased_until = models.DateTimeField(null=True, blank=True)
    tries = models.PositiveIntegerField(default=0)
    error = models.CharField(max_length=500, blank=True)

    class Meta:
        ordering = ("-received_at",)
        indexes = (
            models.Index(
                fields=("received_at",), condition=Q(handled_at=None), name="event_unhandled"
            ),
        )

    def __str__(self) -> str:
        return f"{self.kind} · {self.id}"


class Mail(models.Model):
    """A mail about money: written with what it tells of, sent afterwards, once a `key`."""

    key = models.CharField(max_length=120, unique=True)
    organization = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="mails")
    to = models.CharField(max_length=2000)
    subject = models.CharField(max_length=200)
    text = models.TextField()
    invoice = models.ForeignKey(
        Invoice, on_delete=models.PROTECT, null=True, blank=True, related_name="mails"
    )
    created_at = models.DateTimeField()
    sent_at = models.DateTimeField(null=True, blank=True)
    next_at = models.DateTimeField(null=True, blank=True)
    tries = models.PositiveIntegerField(default=0)
    error = models.CharField(max_length=300, blank=True)

    objects = OwnedQuerySet["Mail"].as_manager()

    class Meta:
        ordering = ("-pk",)

    def __str__(self) -> str:
        return self.subject
