"""Requests that were set aside: workers died under them, again and again."""

from django.db import models

from tenants.models import Organization
from tenants.scoping import OwnedQuerySet


class DeadLetter(models.Model):
    """One of them, with what it takes to run it once more. It failed, and cost nothing."""

    request = models.UUIDField(primary_key=True, editable=False)
    organization = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="+")
    model = models.CharField(max_length=64)
    endpoint = models.CharField(max_length=64)
    key = models.CharField(max_length=32)
    cause = models.CharField(max_length=500)
    attempts = models.PositiveSmallIntegerField()
    died_at = models.DateTimeField(db_index=True)
    job = models.BinaryField(help_text="All but what was asked.")
    asked = models.BinaryField(help_text="Sealed; empty where the organization keeps nothing.")
    replay = models.UUIDField(
        null=True, blank=True, unique=True, help_text="The request as which it runs again."
    )
    replayed_at = models.DateTimeField(null=True, blank=True)

    objects = OwnedQuerySet["DeadLetter"].as_manager()

    class Meta:
        ordering = ("-died_at",)

    def __str__(self) -> str:
        return str(self.request)
