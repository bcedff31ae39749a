"""How an organization's people log in through its own identity provider."""

from django.contrib.postgres.fields import ArrayField
from django.core.validators import RegexValidator
from django.db import models

from tenants.models_invitations import Role
from tenants.scoping import OwnedQuerySet


class Protocol(models.TextChoices):
    """What the provider speaks."""

    OIDC = "oidc", "OpenID Connect"
    SAML = "saml", "SAML 2.0"


class SingleSignOn(models.Model):
    """An organization's identity provider.

    It may vouch for addresses at `domains` alone, which an operator has confirmed to be the
    organization's: a person's account is one over all organizations.
    """

    organization = models.OneToOneField(
        "tenants.Organization", on_delete=models.CASCADE, related_name="single_sign_on"
    )
    protocol = models.CharField(
        max_length=4, choices=Protocol.choices, default=Protocol.OIDC, editable=False
    )
    issuer = models.CharField(
        max_length=200,
        help_text="Where its /.well-known/openid-configuration is; of SAML the entity ID.",
    )
    client_id = models.CharField(max_length=200, blank=True)
    client_secret = models.TextField(editable=False, blank=True)
    address = models.CharField(max_length=500, blank=True, editable=False)
    certificate = models.TextField(blank=True, editable=False)
    role = models.CharField(
        max_length=10, choices=Role.choices, default=Role.VIEWER, help_text="Of who comes new."
    )
    domains = ArrayField(
        models.CharField(max_length=253, validators=[RegexValidator(r"^[a-z0-9.-]+\.[a-z0-9-]+$")]),
        default=list,
        blank=True,
        help_text="Separated by commas, in lower case; confirm that they are the organization's.",
    )

    objects = OwnedQuerySet["SingleSignOn"].as_manager()

    class Meta:
        verbose_name = "single sign-on"
        verbose_name_plural = "single sign-on"

    def __str__(self) -> str:
        return f"{self.organization} · {self.issuer}"
