"""What was changed: entries and the heads of their chains."""

from django.db import models

from tenants.scoping import OwnedQuerySet


class AuditEntry(models.Model):
    """What somebody changed. Inserted by `tenants.audit.record` alone, never changed.

    `chain` is the organization's id, or 0 for what concerns the whole platform; the organization's
    row may be gone, its entries stay.
    """

    chain = models.BigIntegerField()
    sequence = models.BigIntegerField()
    organization = models.ForeignKey(
        "tenants.Organization",
        on_delete=models.DO_NOTHING,
        db_constraint=False,
        null=True,
        related_name="+",
    )
    at = models.DateTimeField()
    actor = models.CharField(max_length=64)
    actor_name = models.CharField(max_length=254, blank=True)
    address = models.CharField(max_length=45, blank=True)
    agent = models.CharField(max_length=200, blank=True)
    action = models.CharField(max_length=64)
    target = models.CharField(max_length=254)
    before = models.JSONField(default=dict)
    after = models.JSONField(default=dict)
    previous = models.CharField(max_length=64)
    hash = models.CharField(max_length=64)

    objects = OwnedQuerySet["AuditEntry"].as_manager()
    kept_when_erased = "evidence of who did what, this erasure included"

    class Meta:
        verbose_name = "audit entry"
        verbose_name_plural = "audit log"
        ordering = ("chain", "sequence")
        constraints = (
            models.UniqueConstraint(fields=("chain", "sequence"), name="one_entry_a_place"),
        )
        indexes = (models.Index(fields=("at",), name="audit_at"),)

    def __str__(self) -> str:
        return f"{self.action} · {self.target}"


class AuditHead(models.Model):
    """The last entry of a chain; its row is the lock under which the next is written."""

    chain = models.BigIntegerField(primary_key=True)
    sequence = models.BigIntegerField(default=0)
    hash = models.CharField(max_length=64, blank=True)

    def __str__(self) -> str:
        return f"{self.chain}: {self.sequence}"
