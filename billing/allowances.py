"""What may be spent besides the credit limit, and how much of it by whom: grants and budgets."""

from typing import TypeVar

from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now

from billing.days import UsageDay
from billing.models import LARGEST, LedgerEntry
from tenants.models import Organization
from tenants.scoping import OwnedQuerySet

Row = TypeVar("Row", bound=models.Model)


class Grant(models.Model):
    """Credit that was given or paid for before: used up before anything is owed.

    What expires first is used first. It covers requests made while it was good; `remaining` is
    moved by booking alone.
    """

    class Kind(models.TextChoices):
        """Where it comes from."""

        TOP_UP = "top_up"
        GIFT = "gift"
        PLAN = "plan"

    organization = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="grants")
    kind = models.CharField(max_length=6, choices=Kind.choices, default=Kind.GIFT)
    amount = models.BigIntegerField(help_text="In nanos.")
    remaining = models.BigIntegerField(editable=False)
    expires_at = models.DateTimeField(null=True, blank=True)
    reason = models.CharField(max_length=200)
    reference = models.CharField(max_length=128, null=True, blank=True, unique=True)
    created_at = models.DateTimeField()

    objects = OwnedQuerySet["Grant"].as_manager()

    class Meta:
        ordering = ("-pk",)
        constraints = (
            models.CheckConstraint(
                condition=Q(amount__gte=0, amount__lte=LARGEST), name="grant_amount"
            ),
            models.CheckConstraint(
                condition=Q(remaining__gte=0, remaining__lte=F("amount")), name="grant_remaining"
            ),
        )
        indexes = (
            models.Index(
                fields=("organization",), condition=Q(remaining__gt=0), name="grant_usable"
            ),
        )

    def __str__(self) -> str:
        return f"{self.organization} · {self.reason}"


class AutoTopUp(models.Model):
    """Credit that is bought by itself, with the saved card, whenever little is left."""

    organization = models.OneToOneField(
        Organization, on_delete=models.PROTECT, related_name="auto_top_up"
    )
    below = models.BigIntegerField(help_text="In nanos: when less than this is left.")
    amount_minor = models.BigIntegerField(help_text="In the currency's minor unit.")
    stopped = models.CharField(max_length=300, blank=True, help_text="Why it is not done any more.")

    objects = OwnedQuerySet["AutoTopUp"].as_manager()
    kept_when_erased = ""

    class Meta:
        constraints = (
            models.CheckConstraint(
                condition=Q(below__gt=0, amount_minor__gt=0), name="auto_top_up_amounts"
            ),
        )

    def __str__(self) -> str:
        return f"{self.organization} · below {self.below}"


class GrantUse(models.Model):
    """What of a grant paid for a request, and in which month that was booked.

    What a closing month's tiers give back is negative, and names their row.
    """

    grant = models.ForeignKey(Grant, on_delete=models.PROTECT, related_name="uses")
    organization = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="+")
    request = models.UUIDField()
    month = models.DateField()
    amount = models.BigIntegerField()

    objects = OwnedQuerySet["GrantUse"].as_manager()

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=("request", "grant"), name="one_use_a_request"),
            models.CheckConstraint(condition=~Q(amount=0), name="grant_use_amount"),
        )
        indexes = (models.Index(fields=("organization", "month"), name="grant_use_of_month"),)

    def __str__(self) -> str:
        return f"{self.request} · {self.grant_id}"


class Budget(models.Model):
    """What may be spent in a calendar month (UTC): by all, by a project, by an API key.

    A soft one tells of it, a hard one refuses what would go past it.
    """

    class Scope(models.TextChoices):
        """Whose spending it counts."""

        ORGANIZATION = "organization"
        PROJECT = "project"
        KEY = "key"

    organization = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="budgets")
    scope = models.CharField(max_length=12, choices=Scope.choices)
    subject = models.CharField(max_length=64, blank=True)
    amount = models.BigIntegerField(help_text="In nanos, a month.")
    hard = models.BooleanField(default=False)

    objects = OwnedQuerySet["Budget"].as_manager()
    kept_when_erased = ""

    class Meta:
        ordering = ("scope", "subject")
        constraints = (
            models.UniqueConstraint(
                fields=("organization", "scope", "subject"), name="one_budget_a_subject"
            ),
            models.CheckConstraint(
                condition=Q(amount__gte=0, amount__lte=LARGEST), name="budget_amount"
            ),
            models.CheckConstraint(
                condition=Q(scope="organization", subject="")
                | (~Q(scope="organization") & ~Q(subject="")),
                name="budget_has_a_subject",
            ),
        )

    def __str__(self) -> str:
        return self.named

    @property
    def named(self) -> str:
        """As messages call it: `project site`, `organization`."""
        return f"{self.scope} {self.subject}".strip()

    @property
    def counted(self) -> str:
        """As the counters call its subject."""
        return f"{self.scope[0]}:{self.subject}"

    def rows(self) -> models.QuerySet[LedgerEntry]:
        """The use that it counts, of all months; what else is charged is nobody's budget."""
        return self._of(
            LedgerEntry.objects.for_org(self.organization_id).filter(kind__in=LedgerEntry.USED)
        )

    def days(self) -> models.QuerySet[UsageDay]:
        """The same, summed."""
        return self._of(UsageDay.objects.for_org(self.organization_id))

    def _of(self, found: models.QuerySet[Row]) -> models.QuerySet[Row]:
        if self.scope == Budget.Scope.ORGANIZATION:
            return found
        return found.filter(**{self.scope: self.subject})


class Renewal(models.Model):
    """What Redis has yet to learn of an organization's credit: written with the change itself.

    As many rows as changes, so that nobody waits for another; gone once Redis has learned.
    """

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="+")
    at = models.DateTimeField(db_default=Now())

    objects = OwnedQuerySet["Renewal"].as_manager()

    def __str__(self) -> str:
        return f"{self.organization_id} · {self.at}"


class BudgetAlert(models.Model):
    """A threshold that was passed in a month, and told of once. Without a budget: of the credit."""

    organization = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="+")
    budget = models.ForeignKey(Budget, on_delete=models.CASCADE, null=True, related_name="alerts")
    month = models.DateField()
    percent = models.PositiveSmallIntegerField()
    at = models.DateTimeField()

    objects = OwnedQuerySet["BudgetAlert"].as_manager()
    kept_when_erased = ""

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=("organization", "budget", "month", "percent"),
                name="one_alert_a_threshold",
                nulls_distinct=False,
            ),
        )

    def __str__(self) -> str:
        return f"{self.budget or 'credit'} · {self.percent} %"
