"""Who is told, what, and how far that is."""

from uuid import uuid4

from django.contrib.postgres.fields import ArrayField
from django.db import models

from tenants.models import Organization
from tenants.scoping import OwnedQuerySet


class Webhook(models.Model):
    """An address that is told of some kinds of events; its secret signs what it is told."""

    id = models.UUIDField(primary_key=True, default=uuid4, editable=False)
    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="+")
    url = models.CharField(max_length=2048)
    kinds = ArrayField(models.CharField(max_length=32))
    secret = models.TextField(editable=False)
    previous_secret = models.TextField(blank=True, editable=False)
    previous_until = models.DateTimeField(null=True, blank=True)
    enabled = models.BooleanField(default=True)
    created_at = models.DateTimeField()

    objects = OwnedQuerySet["Webhook"].as_manager()

    class Meta:
        ordering = ("created_at", "id")

    def __str__(self) -> str:
        return f"{self.organization} · {self.url}"


class Event(models.Model):
    """Something that happened, once: its id follows from what and whose it was."""

    id = models.UUIDField(primary_key=True, editable=False)
    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="+")
    kind = models.CharField(max_length=32)
    data = models.JSONField()
    at = models.DateTimeField(db_index=True)

    objects = OwnedQuerySet["Event"].as_manager()

    def __str__(self) -> str:
        return f"{self.kind} · {self.id}"


class Delivery(models.Model):
    """An event on its way to an address. `attempts` fences who tries."""

    class State(models.TextChoices):
        """How far it is."""

        WAITING = "waiting"
        DELIVERED = "delivered"
        FAILED = "failed"

    webhook = models.ForeignKey(Webhook, on_delete=models.CASCADE, related_name="deliveries")
    event = models.ForeignKey(Event, on_delete=models.CASCADE, related_name="deliveries")
    state = models.CharField(max_length=9, choices=State, default=State.WAITING)
    attempts = models.PositiveIntegerField(default=0)
    tries = models.PositiveSmallIntegerField(default=0, help_text="Since it was last begun anew.")
    due_at = models.DateTimeField()
    status = models.PositiveSmallIntegerField(null=True, blank=True)
    error = models.CharField(max_length=200, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name_plural = "deliveries"
        constraints = (
            models.UniqueConstraint(fields=("webhook", "event"), name="one_delivery_of_each"),
        )
        indexes = (
            models.Index(
                fields=("due_at",), condition=models.Q(state="waiting"), name="due_deliveries"
            ),
        )

    def __str__(self) -> str:
        return f"{self.event_id} → {self.webhook_id}"
