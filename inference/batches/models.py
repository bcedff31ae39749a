"""Files and batches. Contents are sealed under the organization's data key."""

from uuid import uuid4

from django.db import models

from kit.envelope import Place
from tenants.models import Organization
from tenants.scoping import OwnedQuerySet


class StoredFile(models.Model):
    """A file that somebody uploaded, or a batch wrote; its content lies in frames."""

    class Purpose(models.TextChoices):
        """What it is for, in OpenAI's words."""

        BATCH = "batch"
        USER_DATA = "user_data"
        BATCH_OUTPUT = "batch_output"

    id = models.UUIDField(primary_key=True, default=uuid4, editable=False)
    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="+")
    name = models.CharField(max_length=255)
    purpose = models.CharField(max_length=16, choices=Purpose)
    bytes = models.PositiveBigIntegerField()
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField(db_index=True)

    objects = OwnedQuerySet["StoredFile"].as_manager()

    class Meta:
        ordering = ("-created_at", "-id")
        indexes = (
            models.Index(
                fields=("organization", "-created_at", "-id"), name="files_of_organization"
            ),
        )

    def __str__(self) -> str:
        return f"{self.name} · {self.purpose}"


class FileFrame(models.Model):
    """A part of a file's content, sealed."""

    file = models.ForeignKey(StoredFile, on_delete=models.CASCADE, related_name="frames")
    number = models.PositiveIntegerField()
    sealed = models.BinaryField()

    class Meta:
        ordering = ("file_id", "number")
        constraints = (
            models.UniqueConstraint(fields=("file", "number"), name="one_frame_a_number"),
        )

    def __str__(self) -> str:
        return f"{self.file_id} · {self.number}"


class Batch(models.Model):
    """Requests that workers carry out by and by, each exactly once.

    Whoever works at it holds a lease, fenced by `attempt`. Figures are those of its ended lines.
    """

    class State(models.TextChoices):
        """Where it is, in OpenAI's words."""

        VALIDATING = "validating"
        FAILED = "failed"
        IN_PROGRESS = "in_progress"
        FINALIZING = "finalizing"
        COMPLETED = "completed"
        EXPIRED = "expired"
        CANCELLING = "cancelling"
        CANCELLED = "cancelled"

    OPEN = (State.VALIDATING, State.IN_PROGRESS, State.FINALIZING, State.CANCELLING)

    id = models.UUIDField(primary_key=True, default=uuid4, editable=False)
    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="+")
    key = models.CharField(max_length=32, help_text="Whose caller it was made for.")
    label = models.CharField(max_length=128, blank=True)
    project = models.CharField(max_length=64, blank=True)
    endpoint = models.CharField(max_length=64)
    input_file = models.UUIDField(null=True, blank=True)
    output_file = models.UUIDField(null=True, blank=True)
    error_file = models.UUIDField(null=True, blank=True)
    keeps_files_for = models.PositiveIntegerField(help_text="Seconds.")
    metadata = models.JSONField(null=True, blank=True)
    state = models.CharField(max_length=12, choices=State, default=State.VALIDATING)
    errors = models.JSONField(default=list, blank=True)
    total = models.PositiveIntegerField(default=0)
    completed = models.PositiveIntegerField(default=0)
    failed = models.PositiveIntegerField(default=0)
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    in_progress_at = models.DateTimeField(null=True, blank=True)
    finalizing_at = models.DateTimeField(null=True, blank=True)
    cancelling_at = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)
    attempt = models.PositiveIntegerField(default=0)
    leased_until = models.DateTimeField(null=True, blank=True)

    objects = OwnedQuerySet["Batch"].as_manager()

    class Meta:
        ordering = ("-created_at", "-id")
        verbose_name_plural = "batches"
        indexes = (
            models.Index(
                fields=("organization", "-created_at", "-id"), name="batches_of_organization"
            ),
            models.Index(
                fields=("leased_until",),
                condition=models.Q(
                    state__in=("validating", "in_progress", "finalizing", "cancelling")
                ),
                name="open_batches",
            ),
        )

    def __str__(self) -> str:
        return f"{self.organization} · {self.endpoint} · {self.state}"


class BatchLine(models.Model):
    """One request of a batch. `request` is its id on the way every request goes, fixed here: so
    whoever repeats a line finds the request that it was, and the ledger has one row."""

    class State(models.TextChoices):
        """How far it is."""

        WAITING = "waiting"
        DONE = "done"
        FAILED = "failed"

    batch = models.ForeignKey(Batch, on_delete=models.CASCADE, related_name="lines")
    number = models.PositiveIntegerField()
    custom_id = models.CharField(max_length=256)
    request = models.UUIDField(unique=True)
    asked = models.BinaryField()
    state = models.CharField(max_length=7, choices=State, default=State.WAITING)
    status = models.PositiveSmallIntegerField(null=True, blank=True)
    answered = models.BinaryField(null=True, blank=True)

    class Meta:
        ordering = ("batch_id", "number")
        constraints = (
            models.UniqueConstraint(fields=("batch", "number"), name="one_line_a_number"),
            models.UniqueConstraint(fields=("batch", "custom_id"), name="one_line_a_custom_id"),
        )

    def __str__(self) -> str:
        return f"{self.batch_id} · {self.number}"


def frame_place(organization: int, file: object, number: int) -> Place:
    """Where a frame of a file belongs."""
    return Place(organization, "file", f"{file}/{number}")


def line_place(organization: int, column: str, request: object) -> Place:
    """Where what a line asks (`asked`), or what came of it (`answered`), belongs."""
    return Place(organization, f"batch.{column}", str(request))
