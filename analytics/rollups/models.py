"""Requests that were counted: by hour and by day, by model, key and project and by each alone."""

from django.contrib.postgres.fields import ArrayField
from django.db import models


class Rollup(models.Model):
    """What the requests of an hour or a day (UTC, by when they came) come to.

    Each request is in four: of its model, key and project together (`per` is ""), and `per` each of
    them alone, where the other two are "". Whoever asks by one needs to read no more than that.
    `latency` and `first_token` count finished requests by how long they took: see
    `analytics.rollups.durations`.
    """

    class Span(models.TextChoices):
        """How long."""

        HOUR = "hour"
        DAY = "day"

    class Per(models.TextChoices):
        """By what."""

        ALL = ""
        MODEL = "model"
        KEY = "key"
        PROJECT = "project"

    span = models.CharField(max_length=4, choices=Span)
    per = models.CharField(max_length=7, choices=Per, default=Per.ALL, db_default=Per.ALL)
    start = models.DateTimeField()
    model = models.CharField(max_length=64)
    key = models.CharField(max_length=32)
    project = models.CharField(max_length=64)
    requests = models.BigIntegerField()
    cancelled = models.BigIntegerField()
    failed = models.BigIntegerField()
    cache_hits = models.BigIntegerField()
    semantic_hits = models.BigIntegerField(default=0, db_default=0)
    prompt_tokens = models.BigIntegerField()
    cached_tokens = models.BigIntegerField()
    completion_tokens = models.BigIntegerField()
    amount = models.BigIntegerField()
    latency = ArrayField(models.IntegerField())
    first_token = ArrayField(models.IntegerField())

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=("span", "per", "start", "model", "key", "project"), name="one_rollup"
            ),
        )

    def __str__(self) -> str:
        return f"{self.span} {self.start:%Y-%m-%d %H:%M} · {self.model}"
