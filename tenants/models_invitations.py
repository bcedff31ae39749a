"""How people come into an organization: by invitation, into a role."""

from datetime import datetime

from django.db import models
from django.db.models.functions import Lower

from tenants.scoping import OwnedQuerySet


class Role(models.TextChoices):
    """What a member may do in an organization."""

    OWNER = "owner"
    ADMIN = "admin"
    DEVELOPER = "developer"
    BILLING = "billing"
    VIEWER = "viewer"


class Invitation(models.Model):
    """A place in an organization that is offered to an e-mail address, until `expires_at`.

    The mail has a token that is good once; kept is its hash. Sending it again makes another.
    """

    organization = models.ForeignKey(
        "tenants.Organization", on_delete=models.CASCADE, related_name="invitations"
    )
    email = models.EmailField("e-mail address")
    role = models.CharField(max_length=10, choices=Role.choices, default=Role.DEVELOPER)
    token_hash = models.CharField(max_length=64, unique=True, editable=False)
    invited_by = models.ForeignKey(
        "tenants.User", on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )
    created_at = models.DateTimeField()
    sent_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    accepted_at = models.DateTimeField(null=True, blank=True)
    accepted_by = models.ForeignKey(
        "tenants.User", on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )
    revoked_at = models.DateTimeField(null=True, blank=True)

    objects = OwnedQuerySet["Invitation"].as_manager()

    class Meta:
        ordering = ("-created_at",)
        constraints = (
            models.CheckConstraint(
                condition=models.Q(email=Lower("email")), name="invitation_email_lower"
            ),
            models.UniqueConstraint(
                fields=("organization", "email"),
                condition=models.Q(accepted_at=None, revoked_at=None),
                name="one_open_invitation_an_address",
            ),
        )

    def __str__(self) -> str:
        return f"{self.email} · {self.organization} · {self.role}"

    def has_expired(self, at: datetime) -> bool:
        """Whether its time is over."""
        return self.expires_at <= at
