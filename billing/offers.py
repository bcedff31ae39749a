"""What plans cost, and who is on which: the money's side of `tenants.Plan`. Amounts are nanos."""

from django.db import models
from django.db.models import F, Q

from billing.prices import LARGEST, known_currency
from tenants.models import Organization, Plan
from tenants.scoping import OwnedQuerySet


class PlanTerms(models.Model):
    """What a plan costs in a currency from a moment on; a period keeps those it began under."""

    plan = models.ForeignKey(Plan, on_delete=models.PROTECT, related_name="terms")
    currency = models.CharField(max_length=3, validators=[known_currency])
    effective_from = models.DateTimeField()
    fee = models.BigIntegerField(default=0, help_text="In nanos, for a month from its anniversary.")
    seat_fee = models.BigIntegerField(default=0, help_text="In nanos, for each seat past those.")
    included_seats = models.PositiveIntegerField(default=0)
    allowance = models.BigIntegerField(
        default=0, help_text="In nanos: what each period pays of the use; what is left then ends."
    )
    minimum = models.BigIntegerField(
        default=0, help_text="In nanos: what a whole calendar month's use comes to at least."
    )
    trial_days = models.PositiveSmallIntegerField(default=0)
    self_service = models.BooleanField(
        default=True, help_text="Whether customers may choose it; operators may always."
    )
    summary = models.CharField(max_length=200, blank=True)

    class Meta:
        ordering = ("currency", "fee", "plan", "-effective_from")
        verbose_name_plural = "plan terms"
        constraints = (
            models.UniqueConstraint(
                fields=("plan", "currency", "effective_from"), name="one_terms_at_a_time"
            ),
            models.CheckConstraint(
                condition=Q(
                    fee__range=(0, LARGEST),
                    seat_fee__range=(0, LARGEST),
                    allowance__range=(0, LARGEST),
                    minimum__range=(0, LARGEST),
                ),
                name="terms_amounts",
            ),
        )

    def __str__(self) -> str:
        return f"{self.plan} · {self.currency} · from {self.effective_from:%Y-%m-%d}"

    def cost(self, seats: int) -> int:
        """Of a whole period."""
        return self.fee + self.seat_fee * self.paid_seats(seats)

    def paid_seats(self, seats: int) -> int:
        """Those past the included ones."""
        return max(0, seats - self.included_seats)


class Subscription(models.Model):
    """An organization on a plan: until when it has paid, and what comes then.

    Moved by `billing.subscriptions` alone, one row at a time and locked.
    """

    class State(models.TextChoices):
        """How it stands."""

        TRIALING = "trialing"
        ACTIVE = "active"
        ENDED = "ended"

    organization = models.OneToOneField(
        Organization, on_delete=models.PROTECT, related_name="subscription"
    )
    terms = models.ForeignKey(PlanTerms, on_delete=models.PROTECT, related_name="+")
    seats = models.PositiveIntegerField(default=1)
    state = models.CharField(max_length=8, choices=State.choices)
    zone = models.CharField("time zone", max_length=64, default="UTC")
    anchor = models.DateTimeField()
    number = models.PositiveIntegerField(default=0)
    period_start = models.DateTimeField()
    period_end = models.DateTimeField()
    next_plan = models.ForeignKey(
        Plan, on_delete=models.PROTECT, null=True, blank=True, related_name="+"
    )
    next_seats = models.PositiveIntegerField(null=True, blank=True)
    cancel_at_end = models.BooleanField(default=False)
    paused_at = models.DateTimeField(
        null=True, blank=True, help_text="The period's end that came while it was suspended."
    )
    trialed = models.BooleanField(default=False)
    changes = models.PositiveIntegerField(default=0)

    objects = OwnedQuerySet["Subscription"].as_manager()

    class Meta:
        ordering = ("organization",)
        constraints = (
            models.CheckConstraint(
                condition=Q(period_start__lt=F("period_end")), name="period_has_a_length"
            ),
            models.CheckConstraint(condition=Q(seats__gte=1), name="a_seat_at_least"),
        )
        indexes = (
            models.Index(
                fields=("period_end",), condition=~Q(state="ended"), name="subscription_due"
            ),
        )

    def __str__(self) -> str:
        return f"{self.organization} · {self.plan}"

    @property
    def plan(self) -> Plan:
        """Of the terms that the running period is under."""
        return self.terms.plan

    @property
    def is_on(self) -> bool:
        """Whether the plan holds."""
        return self.state != Subscription.State.ENDED


class Spell(models.Model):
    """From when till when an organization was on a plan."""

    organization = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="+")
    plan = models.ForeignKey(Plan, on_delete=models.PROTECT, related_name="+")
    began_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True, blank=True)

    objects = OwnedQuerySet["Spell"].as_manager()

    class Meta:
        ordering = ("organization", "began_at")
        constraints = (
            models.UniqueConstraint(
                fields=("organization",), condition=Q(ended_at=None), name="one_plan_at_a_time"
            ),
        )

    def __str__(self) -> str:
        return f"{self.organization} · {self.plan} · from {self.began_at:%Y-%m-%d}"
