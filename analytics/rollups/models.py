"""Requests that were counted: by hour and by day, model, key and project."""

from django.contrib.postgres.fields import ArrayField
from django.db import models


class Rollup(models.Model):
    """What the requests of an hour or a day (UTC, by when they came) come to.

    `latency` and `first_token` count finished requests by how long they took: see
    `analytics.rollups.durations`.
    """

    class Span(models.TextChoices):
        """How long."""

        HOUR = "hour"
        DAY = "day"

    span = models.CharField(max_length=4, choices=Span)
    start = models.DateTimeField()
    model = models.CharField(max_length=64)
    key = models.CharField(max_length=32)
    project = models.CharField(max_length=64)
    requests = models.BigIntegerField()
    cancelled = models.BigIntegerField()
    failed = models.BigIntegerField()
    cache_hits = models.BigIntegerField()
    prompt_tokens = models.BigIntegerField()
    cached_tokens = models.BigIntegerField()
    completion_tokens = models.BigIntegerField()
    amount = models.BigIntegerField()
    latency = ArrayField(models.IntegerField())
    first_token = ArrayField(models.IntegerField())

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=("span", "start", "model", "key", "project"), name="one_rollup"
            ),
        )

    def __str__(self) -> str:
        return f"{self.span} {self.start:%Y-%m-%d %H:%M} · {self.model}"
