"""What an organization asked for: one row a request, in its own schema."""

from django.contrib.postgres.fields import ArrayField
from django.contrib.postgres.indexes import GinIndex
from django.db import models


class Request(models.Model):
    """A finished request; written once, in the transaction that writes its ledger row."""

    class State(models.TextChoices):
        """How it came out."""

        FINISHED = "finished"
        CANCELLED = "cancelled"
        FAILED = "failed"

    id = models.UUIDField(primary_key=True, editable=False)
    state = models.CharField(max_length=16, choices=State)
    reason = models.CharField(max_length=16, help_text="Why it ended: stop, length, cancelled …")
    error = models.CharField(max_length=500, blank=True)
    endpoint = models.CharField(max_length=64)
    model = models.CharField(max_length=64)
    model_version = models.CharField(max_length=64)
    key = models.CharField(max_length=32)
    label = models.CharField(max_length=128, blank=True, help_text="The caller's X-Request-ID.")
    region = models.CharField(max_length=32)
    prompt_tokens = models.PositiveIntegerField()
    cached_tokens = models.PositiveIntegerField(default=0)
    completion_tokens = models.PositiveIntegerField()
    reasoning_tokens = models.PositiveIntegerField(default=0, db_default=0)
    amount = models.BigIntegerField(help_text="Nanos, as in the ledger.")
    currency = models.CharField(max_length=3)
    attempts = models.PositiveSmallIntegerField()
    created_at = models.DateTimeField()
    started_at = models.DateTimeField(null=True)
    first_token_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField()
    project = models.CharField(max_length=64, blank=True, default="", db_default="")
    cache = models.CharField(
        max_length=8, blank=True, default="", db_default="", help_text="What found its answer."
    )
    kept_seconds = models.PositiveIntegerField(
        default=3600, db_default=3600, help_text="How long its answer could be read."
    )

    class Meta:
        verbose_name = "job"
        ordering = ("-id",)
        indexes = (
            models.Index(fields=("model", "-id"), name="request_by_model"),
            models.Index(fields=("key", "-id"), name="request_by_key"),
            models.Index(fields=("amount", "-id"), name="request_by_amount"),
            models.Index(
                fields=("state", "-id"),
                condition=~models.Q(state="finished"),
                name="request_not_finished",
            ),
        )

    def __str__(self) -> str:
        return str(self.id)


class RequestText(models.Model):
    """What was asked and answered, where the organization wants it kept: sealed, for some days.

    See `inference.texts`; the row of figures stays when this one is purged.
    """

    request = models.UUIDField(primary_key=True, editable=False)
    asked = models.BinaryField()
    answered = models.BinaryField()
    finished_at = models.DateTimeField(db_index=True)
    words = ArrayField(
        models.BinaryField(), null=True, help_text="Marks of its words; see `inference.words`."
    )

    class Meta:
        indexes = (
            GinIndex(
                fields=("words",),
                condition=models.Q(words__isnull=False),
                name="text_by_words",
            ),
        )

    def __str__(self) -> str:
        return str(self.request)


class RequestDue(models.Model):
    """A request that analytics have not counted yet: written with its row, taken away with the sum.

    So each is counted once, whoever does it and however often it is tried.
    """

    request = models.UUIDField(primary_key=True, editable=False)

    def __str__(self) -> str:
        return str(self.request)


class RequestFeedback(models.Model):
    """What its caller thinks of an answer: the last word counts. The comment is sealed."""

    class Rating(models.TextChoices):
        """In a word."""

        GOOD = "good"
        BAD = "bad"

    request = models.OneToOneField(
        Request, on_delete=models.CASCADE, primary_key=True, related_name="feedback"
    )
    rating = models.CharField(max_length=4, choices=Rating)
    comment = models.BinaryField(default=b"")
    given_by = models.CharField(max_length=64)
    given_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.request_id} · {self.rating}"


class StoredResponse(models.Model):
    """A response that can be read again: how it was asked for, and its answer, both sealed.

    See `inference.responses`. One that was deleted is an empty row.
    """

    request = models.UUIDField(primary_key=True, editable=False)
    frame = models.BinaryField()
    answered = models.BinaryField()
    finished_at = models.DateTimeField(db_index=True)
    answer = models.CharField(
        max_length=128,
        blank=True,
        default="",
        db_default="",
        help_text="What a cache finds its answer by, where one may.",
    )

    def __str__(self) -> str:
        return str(self.request)
