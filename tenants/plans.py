"""How much, as rows: limits of whatever may be limited, plans that many organizations share, and
limits on single models."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from django.db import models
from django.db.models import Q

from tenants.records import changing
from tenants.scoping import OwnedQuerySet

LEAST_ALIKE = 0.8
"""Below this cosine no two questions are the same, whatever their words say: see docs/api.md."""


class Limited(models.Model):
    """Rates of one minute, and how many requests may run at once; 0 is no limit."""

    requests_per_minute = models.PositiveIntegerField(default=0, help_text="0: no limit")
    tokens_per_minute = models.PositiveIntegerField(default=0, help_text="0: no limit")
    concurrent_requests = models.PositiveIntegerField(default=0, help_text="0: no limit")

    class Meta:
        abstract = True


class Caching(models.TextChoices):
    """Whether an organization's answers are given again to the same question."""

    OFF = "off", "Never"
    EXACT = "exact", "Where prompt, model and parameters are the same"
    SEMANTIC = "semantic", "Also where the last thing asked says the same in other words"


@dataclass(frozen=True, slots=True)
class Reusing:
    """What holds where a request says nothing of the cache of answers."""

    mode: str = Caching.OFF
    seconds: int = 3600
    """How long an answer may be given again."""
    likeness: float = 0.9
    """The cosine from which on two questions may be the same, if their words say so."""
    adaptive: bool = False
    """Whether that time is had by those answers alone that are asked for again and again."""
    epoch: int = 0
    epochs: Mapping[str, int] = field(default_factory=dict)

    def epoch_of(self, model: str) -> int:
        """A number that grows whenever the model's answers are forgotten."""
        return self.epoch + self.epochs.get(model, 0)


class Plan(Limited):
    """Limits of every organization on it. Where an organization has one of its own, that counts."""

    name = models.CharField(max_length=60, unique=True)
    caching = models.CharField(
        max_length=8,
        choices=Caching,
        default=Caching.OFF,
        db_default=Caching.OFF,
        help_text="Of answers, where an organization has not chosen itself.",
    )

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Save, and let every process know of its organizations' new limits."""
        with _changing(Q(plan=self.pk)):
            super().save(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> tuple[int, dict[str, int]]:
        """Delete, and let every process know."""
        with _changing(Q(plan=self.pk)):
            return super().delete(*args, **kwargs)


class ModelLimit(Limited):
    """Limits on one model: of an organization, or of each organization on a plan."""

    organization = models.ForeignKey(
        "tenants.Organization",
        on_delete=models.CASCADE,
        null=True,
        blank=True,
        related_name="model_limits",
    )
    plan = models.ForeignKey(
        Plan, on_delete=models.CASCADE, null=True, blank=True, related_name="model_limits"
    )
    model = models.CharField(max_length=64, help_text="The name that requests say.")

    objects = OwnedQuerySet["ModelLimit"].as_manager()

    class Meta:
        ordering = ("model",)
        constraints = (
            models.CheckConstraint(
                condition=Q(organization=None) ^ Q(plan=None), name="model_limit_of_one"
            ),
            models.UniqueConstraint(
                fields=("organization", "model"), name="one_limit_an_organization_and_model"
            ),
            models.UniqueConstraint(fields=("plan", "model"), name="one_limit_a_plan_and_model"),
        )

    def __str__(self) -> str:
        return self.model

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Save, and let every process know."""
        with _changing(self._whose):
            super().save(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> tuple[int, dict[str, int]]:
        """Delete, and let every process know."""
        with _changing(self._whose):
            return super().delete(*args, **kwargs)

    @property
    def _whose(self) -> Q:
        return Q(pk=self.organization_id) if self.plan_id is None else Q(plan=self.plan_id)


@contextmanager
def _changing(organizations: Q) -> Iterator[None]:
    from tenants.models import Organization

    with ExitStack() as stack:
        for pk in Organization.objects.filter(organizations).values_list("pk", flat=True):
            stack.enter_context(changing(Organization.kind, pk))
        yield
