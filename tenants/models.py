"""Organizations, the people in them, and the keys their programs use."""

from base64 import b64decode
from datetime import datetime, timedelta
from typing import Any

from django.contrib.postgres.fields import ArrayField
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models
from django.utils import timezone
from django_tenants.models import DomainMixin, TenantMixin

from kit.origin import network
from tenants.blueprint import complete as complete_schema
from tenants.models_audit import AuditEntry as AuditEntry
from tenants.models_audit import AuditHead as AuditHead
from tenants.models_invitations import Invitation as Invitation
from tenants.models_invitations import Role as Role
from tenants.models_keys import DataKey as DataKey
from tenants.models_keys import SigningKey as SigningKey
from tenants.models_sso import Protocol as Protocol
from tenants.models_sso import SingleSignOn as SingleSignOn
from tenants.models_users import Door as Door
from tenants.models_users import LogIn as LogIn
from tenants.models_users import User as User
from tenants.plans import LEAST_ALIKE as LEAST_ALIKE
from tenants.plans import Caching as Caching
from tenants.plans import Limited as Limited
from tenants.plans import ModelLimit as ModelLimit
from tenants.plans import Plan as Plan
from tenants.plans import Reusing as Reusing
from tenants.records import changing
from tenants.remembered import Remembered
from tenants.scoping import OwnedQuerySet

_ED25519_BYTES = 32
_MAKING = timedelta(minutes=5)


class Priority(models.IntegerChoices):
    """Who goes first where requests wait."""

    HIGH = 0
    NORMAL = 1
    LOW = 2


class Retention(models.TextChoices):
    """What is kept of what an organization asks and is answered; figures are kept whatever it is.

    An answer can be read for a while after its end, so that a client that lost it comes back.
    """

    NOTHING = "nothing", "Nothing: prompts go when the answer ends, answers 5 minutes later"
    ANSWERS = "answers", "Answers, for an hour (a day in background or under an Idempotency-Key)"
    TEXTS = "texts", "Prompts and answers, in the history, for a number of days"


class Environment(models.TextChoices):
    """Part of a key's text, so that a test key in production is seen at a glance."""

    LIVE = "live"
    TEST = "test"


class Scope(models.TextChoices):
    """What a key may be used for."""

    INFERENCE = "inference"
    USAGE = "usage"
    KEYS = "keys"
    AUDIT = "audit"


class Organization(Remembered, Limited, TenantMixin):  # type: ignore[misc,django-manager-missing]
    """A customer. Its data lives in a schema of its own, made when the row is first saved."""

    kind = "organization"
    auto_create_schema = False
    schema_at_once = True
    """Whether saving a new one makes its schema too; `organizations.found` leaves it to a task."""
    schema_name: str

    name = models.CharField(max_length=120)
    slug = models.CharField(
        max_length=40,
        unique=True,
        validators=[
            RegexValidator(
                r"^[a-z0-9]+(-[a-z0-9]+)*\Z", "Lower-case letters, digits and single hyphens."
            )
        ],
        help_text="In addresses and commands. It names the schema and stays.",
    )
    plan = models.ForeignKey(
        Plan,
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="organizations",
        help_text="Its limits hold where the organization has none of its own.",
    )
    priority = models.PositiveSmallIntegerField(choices=Priority.choices, default=Priority.NORMAL)
    created_at = models.DateTimeField(auto_now_add=True)
    suspended_at = models.DateTimeField(null=True, blank=True)
    suspended_reason = models.CharField(
        max_length=200, blank=True, help_text="Shown to callers while suspended."
    )
    retention = models.CharField(max_length=8, choices=Retention.choices, default=Retention.ANSWERS)
    kept_days = models.PositiveSmallIntegerField(
        default=30,
        validators=[MinValueValidator(1), MaxValueValidator(3650)],
        help_text="How long prompts and answers stay in the history, where they are kept.",
    )
    texts_searchable = models.BooleanField(
        default=False,
        db_default=False,
        help_text="Kept texts can be found by their words; says which texts share one.",
    )
    caching = models.CharField(
        max_length=8,
        choices=Caching,
        blank=True,
        default="",
        db_default="",
        help_text="Whether answers are given again to the same question; empty: as the plan says.",
    )
    cache_seconds = models.PositiveIntegerField(
        default=3600,
        db_default=3600,
        validators=[MinValueValidator(10), MaxValueValidator(30 * 86_400)],
        help_text="How long an answer may be given again.",
    )
    cache_likeness = models.FloatField(
        default=0.9,
        db_default=0.9,
        validators=[MinValueValidator(LEAST_ALIKE), MaxValueValidator(1)],
        help_text="How alike two questions' vectors are at least, for one answer (semantic).",
    )
    cache_adaptive = models.BooleanField(
        default=False,
        db_default=False,
        help_text="An answer's time begins with an eighth and grows as it is asked for.",
    )
    cache_epoch = models.PositiveIntegerField(
        default=0,
        db_default=0,
        editable=False,
        help_text="Part of what answers are found by: another number, and none is found.",
    )
    cache_epochs = models.JSONField(
        default=dict,
        db_default=models.Value({}, models.JSONField()),
        editable=False,
        help_text="The same, of some models' answers alone: added to the organization's.",
    )
    two_factors_required = models.BooleanField(
        default=False, help_text="Members come in with a second factor alone."
    )
    ready_at = models.DateTimeField(
        null=True, blank=True, editable=False, help_text="Since when its schema is complete."
    )
    making_until = models.DateTimeField(
        null=True, blank=True, editable=False, help_text="Until when a task may make the schema."
    )
    erase_at = models.DateTimeField(
        null=True, blank=True, help_text="Its owner asked to delete it: when its data goes."
    )
    erased_at = models.DateTimeField(null=True, blank=True, editable=False)

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name

    @property
    def answers_kept_seconds(self) -> int:
        """How long any copy of an answer may be kept."""
        days = {Retention.NOTHING: 0, Retention.ANSWERS: 1, Retention.TEXTS: self.kept_days}
        return days[Retention(self.retention)] * 86_400

    @property
    def reuse_seconds(self) -> int:
        """How long an answer may be given again: as chosen, and no longer than any is kept."""
        return min(self.cache_seconds, self.answers_kept_seconds)

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Save, and make the schema of a new organization."""
        self.schema_name = self.schema_name or f"org_{self.slug.replace('-', '_')}"
        if not (self._state.adding and self.schema_at_once):
            super().save(*args, **kwargs)
            return
        # Beat looks for schemas that nobody makes: this one is being made.
        self.making_until = timezone.now() + _MAKING
        super().save(*args, **kwargs)
        if self.create_schema(check_if_exists=True, verbosity=0):
            self.ready_at, self.making_until = timezone.now(), None
            super().save(update_fields=["ready_at", "making_until"])

    def create_schema(self, *_: Any, **__: Any) -> bool:
        """Make its schema with all its tables; False where somebody else is at it."""
        return complete_schema(self.schema_name)


class Domain(DomainMixin):  # type: ignore[misc]
    """A host of an organization's own. django-tenants wants the table; nothing is served by it: see
    docs/adr/0016."""


class Membership(Limited):
    """A person's place in an organization. Change it by `save`: callers are checked against it.

    Its limits hold for the person and all of their keys together.
    """

    kind = "member"

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="memberships")
    organization = models.ForeignKey(
        Organization, on_delete=models.CASCADE, related_name="memberships"
    )
    role = models.CharField(max_length=10, choices=Role.choices, default=Role.DEVELOPER)
    created_at = models.DateTimeField(auto_now_add=True)

    objects = OwnedQuerySet["Membership"].as_manager()

    class Meta:
        ordering = ("organization", "user")
        constraints = (
            models.UniqueConstraint(fields=("user", "organization"), name="one_membership_a_pair"),
        )

    def __str__(self) -> str:
        return f"{self.user} · {self.organization} · {self.role}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Save, and let every process know."""
        with changing(self.kind, self.remembered_as(self.user_id, self.organization.slug)):
            super().save(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> tuple[int, dict[str, int]]:
        """Delete, and let every process know."""
        with changing(self.kind, self.remembered_as(self.user_id, self.organization.slug)):
            return super().delete(*args, **kwargs)

    @staticmethod
    def remembered_as(user: int, slug: str) -> str:
        """By what a caller names: themselves and the organization."""
        return f"{user}:{slug}"


def every_scope() -> list[str]:
    """What a new key may do unless told otherwise: work, not administer."""
    return [Scope.INFERENCE.value, Scope.USAGE.value]


def a_network(text: str) -> None:
    """An address or a CIDR block."""
    try:
        network(text)
    except ValueError as error:
        raise ValidationError(
            f"{error}. Write 192.0.2.0/24, 2001:db8::/32 or an address."
        ) from None


def an_ed25519_key(text: str) -> None:
    """The 32 bytes of an Ed25519 public key, in base64."""
    try:
        size = len(b64decode(text, validate=True))
    except ValueError:
        size = 0
    if size != _ED25519_BYTES:
        raise ValidationError(
            f"An Ed25519 public key has {_ED25519_BYTES} bytes; write them in base64."
        )


class ApiKey(Remembered, Limited):
    """A program's way in. The secret is shown once; what is kept is its keyed hash."""

    kind = "key"

    id = models.CharField(max_length=16, primary_key=True, editable=False)
    organization = models.ForeignKey(
        Organization, on_delete=models.CASCADE, related_name="api_keys"
    )
    name = models.CharField(max_length=120)
    environment = models.CharField(
        max_length=4, choices=Environment.choices, default=Environment.LIVE
    )
    secret_hash = models.CharField(max_length=64, editable=False)
    scopes = ArrayField(models.CharField(max_length=20, choices=Scope.choices), default=every_scope)
    created_by = models.ForeignKey(
        User, on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )
    person = models.ForeignKey(
        User,
        on_delete=models.CASCADE,
        null=True,
        blank=True,
        related_name="keys",
        help_text="Whose it is: it may do what they may, as long as they are a member. "
        "None: a service account's, which stays whoever leaves.",
    )
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)
    networks = ArrayField(
        models.CharField(max_length=43, validators=[a_network]),
        default=list,
        blank=True,
        help_text="Addresses and CIDR blocks, separated by commas; none: from everywhere.",
    )
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False)
    replaces = models.ForeignKey(
        "self", on_delete=models.SET_NULL, null=True, blank=True, editable=False, related_name="+"
    )
    signing_key = models.CharField(
        max_length=44,
        blank=True,
        validators=[an_ed25519_key],
        help_text="An Ed25519 public key, 32 bytes in base64: every request must then be signed.",
    )
    models = ArrayField(
        models.CharField(max_length=200),
        default=list,
        blank=True,
        help_text="Names, separated by commas; none: every model.",
    )

    objects = OwnedQuerySet["ApiKey"].as_manager()

    class Meta:
        verbose_name = "API key"
        verbose_name_plural = "API keys"
        ordering = ("-created_at",)
        constraints = (
            models.CheckConstraint(
                condition=models.Q(environment__in=Environment.values), name="api_key_environment"
            ),
        )

    def __str__(self) -> str:
        return f"{self.name} (aip_{self.environment}_{self.id}_…)"

    def has_expired(self, at: datetime) -> bool:
        """Whether its time is over."""
        return self.expires_at is not None and self.expires_at <= at
