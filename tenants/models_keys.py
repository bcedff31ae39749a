"""The keys that organizations' texts are sealed under; those that certificates are signed with."""

from django.db import models

from tenants.scoping import OwnedQuerySet


class DataKey(models.Model):
    """A key that an organization's texts are sealed under, itself wrapped; see `tenants.datakeys`.

    None's is the platform's own. Without its row, whatever it sealed is noise.
    """

    organization = models.ForeignKey(
        "tenants.Organization", on_delete=models.CASCADE, null=True, related_name="data_keys"
    )
    version = models.PositiveIntegerField()
    wrapped = models.TextField(editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    wrapped_at = models.DateTimeField(auto_now_add=True)

    objects = OwnedQuerySet["DataKey"].as_manager()

    class Meta:
        ordering = ("organization", "version")
        constraints = (
            models.UniqueConstraint(
                fields=("organization", "version"),
                name="one_data_key_a_version",
                nulls_distinct=False,
            ),
        )

    def __str__(self) -> str:
        return f"{self.organization or 'platform'} · {self.version}"


class SigningKey(models.Model):
    """A key that the platform signs certificates with, or did; see `tenants.certificates`."""

    public = models.CharField(max_length=44, primary_key=True, editable=False)
    algorithm = models.CharField(max_length=16, default="Ed25519", editable=False)
    sealed = models.TextField(blank=True, editable=False)
    made_at = models.DateTimeField()
    retired_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=("algorithm",), condition=models.Q(retired_at=None), name="one_key_signs"
            ),
        )

    def __str__(self) -> str:
        return self.public
