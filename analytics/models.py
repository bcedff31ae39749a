"""Exports, everything that an organization owns as a file to take away; and books compared."""

from pathlib import Path
from typing import Any
from uuid import uuid4

from django.conf import settings
from django.db import models, transaction

from tenants.models import Organization
from tenants.scoping import OwnedQuerySet


class Export(models.Model):
    """One export, asked for and then written by a worker. At most one of an organization is open.

    Its file lies sealed in `settings.EXPORTS_DIR`; see `analytics.exports`.
    """

    class State(models.TextChoices):
        """Where it is."""

        WAITING = "waiting"
        RUNNING = "running"
        READY = "ready"
        FAILED = "failed"
        EXPIRED = "expired"

    OPEN = (State.WAITING, State.RUNNING)

    id = models.UUIDField(primary_key=True, default=uuid4, editable=False)
    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="+")
    state = models.CharField(max_length=8, choices=State.choices, default=State.WAITING)
    asked_by = models.CharField(max_length=64)
    created_at = models.DateTimeField()
    leased_until = models.DateTimeField(null=True, blank=True)
    attempts = models.PositiveSmallIntegerField(default=0)
    finished_at = models.DateTimeField(null=True, blank=True)
    expires_at = models.DateTimeField(null=True, blank=True)
    size = models.BigIntegerField(default=0)
    sha256 = models.CharField(max_length=64, blank=True)
    error = models.CharField(max_length=200, blank=True)

    objects = OwnedQuerySet["Export"].as_manager()

    class Meta:
        ordering = ("-created_at",)
        constraints = (
            models.UniqueConstraint(
                fields=("organization",),
                condition=models.Q(state__in=("waiting", "running")),
                name="one_open_export",
            ),
        )

    def __str__(self) -> str:
        return f"{self.organization} · {self.created_at:%Y-%m-%d %H:%M} · {self.state}"

    def delete(self, *args: Any, **kwargs: Any) -> tuple[int, dict[str, int]]:
        """Delete it, and its file with it."""
        path = self.path
        transaction.on_commit(lambda: path.unlink(missing_ok=True), robust=True)
        return super().delete(*args, **kwargs)

    @property
    def path(self) -> Path:
        """Where its file lies."""
        return Path(settings.EXPORTS_DIR) / f"{self.pk}.sealed"


class Comparison(models.Model):
    """What comparing an organization's books of a month has found, the last time that was done."""

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="+")
    month = models.DateField()
    at = models.DateTimeField()
    rows = models.PositiveBigIntegerField(help_text="Of the ledger, compared.")
    count = models.PositiveBigIntegerField(help_text="Rows in which two books disagreed.")
    differences = models.JSONField(
        default=list, help_text="The first of them: which books, which row, what was found."
    )
    error = models.CharField(max_length=300, blank=True, help_text="Why nothing was compared.")

    objects = OwnedQuerySet["Comparison"].as_manager()

    class Meta:
        verbose_name, verbose_name_plural = "comparison of books", "books compared"
        ordering = ("-count", "-month", "organization")
        constraints = (
            models.UniqueConstraint(
                fields=("organization", "month"), name="one_comparison_a_month"
            ),
        )

    def __str__(self) -> str:
        return f"{self.organization} · {self.month:%Y-%m}"
