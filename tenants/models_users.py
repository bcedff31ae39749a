"""People, and the log-ins that they hold."""

from collections.abc import Collection
from contextlib import ExitStack
from typing import Any, ClassVar, Self
from uuid import uuid4

from django.contrib.auth.models import AbstractUser, BaseUserManager
from django.db import models
from django.db.models.functions import Lower

from tenants import shutting
from tenants.records import changing
from tenants.remembered import Remembered


class UserManager(BaseUserManager["User"]):
    """Users are known by their e-mail address, in lower case."""

    @classmethod
    def normalize_email(cls, email: str | None) -> str:
        """One spelling an address."""
        return (email or "").strip().lower()

    def get_by_natural_key(self, username: str | None) -> "User":
        """Log-in, however the address is typed."""
        return self.get(email=self.normalize_email(username))

    def create_user(self, email: str, password: str | None = None, **fields: Any) -> "User":
        """A person without operator rights."""
        user = self.model(email=self.normalize_email(email), **fields)
        user.set_password(password)
        user.save(using=self._db)
        return user

    def create_superuser(self, email: str, password: str | None = None, **fields: Any) -> "User":
        """An operator with every right."""
        return self.create_user(email, password, is_staff=True, is_superuser=True, **fields)


class User(AbstractUser):
    """A person. Operators are staff; everyone else is what their memberships say."""

    username = None  # type: ignore[assignment]
    email = models.EmailField("e-mail address", unique=True)

    USERNAME_FIELD = "email"
    REQUIRED_FIELDS: ClassVar[list[str]] = []

    objects = UserManager()  # type: ignore[assignment,misc]
    _was_active: bool | None = None

    class Meta:
        ordering = ("email",)
        permissions = (("log_in_as_user", "Can see the portal as another person"),)
        constraints = (
            models.CheckConstraint(
                condition=models.Q(email=Lower("email")), name="user_email_lower"
            ),
        )

    def __str__(self) -> str:
        return self.email

    @classmethod
    def from_db(
        cls, db: str | None, field_names: Collection[str], values: Collection[Any], **more: Any
    ) -> Self:
        """With whether they were let in, as it was read."""
        user = super().from_db(db, field_names, values, **more)
        user._was_active = user.__dict__.get("is_active")
        return user

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Save; whoever is shut out, or let in again, is so in every process."""
        changes = self.pk is not None and self.is_active != self._was_active
        with ExitStack() as stack:
            if changes:
                self._changes(stack)
            super().save(*args, **kwargs)
        if changes and not self.is_active:
            for member in self.memberships.across_organizations():
                shutting.look_again(member.organization_id)
        self._was_active = self.is_active

    def delete(self, *args: Any, **kwargs: Any) -> tuple[int, dict[str, int]]:
        """Delete, and let every process know that log-ins and keys are over."""
        with ExitStack() as stack:
            self._changes(stack)
            for key in self.keys.across_organizations():
                stack.enter_context(changing(key.kind, key.pk))
            return super().delete(*args, **kwargs)

    def _changes(self, stack: ExitStack) -> None:
        places = self.memberships.across_organizations().values_list("organization__slug")
        for login in self.logins.filter(ended_at=None):
            stack.enter_context(changing(LogIn.kind, login.pk))
        for (slug,) in places:
            stack.enter_context(changing(places.model.kind, f"{self.pk}:{slug}"))


class Door(models.TextChoices):
    """Where people log in."""

    API = "api", "API"
    PORTAL = "portal", "portal"
    ADMIN = "admin", "admin"


class LogIn(Remembered):
    """A person who logged in: at the API from one password to the end of its last refresh token,
    in a browser until the session ends.

    `token` is the id of the one refresh token that is good now; whoever shows an older one has
    stolen it, or was stolen from. `two_factors` holds of the API's: whether a code was shown.
    `refreshed_at` is when it was last seen.
    """

    kind = "login"

    id = models.UUIDField(primary_key=True, default=uuid4, editable=False)
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="logins")
    token = models.CharField(max_length=64, blank=True)
    address = models.CharField(max_length=45, blank=True)
    agent = models.CharField(max_length=200, blank=True)
    door = models.CharField(max_length=8, choices=Door.choices, default=Door.API)
    two_factors = models.BooleanField(default=False)
    created_at = models.DateTimeField()
    refreshed_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name = "log-in"
        ordering = ("-refreshed_at",)

    def __str__(self) -> str:
        return f"{self.user} · {self.created_at:%Y-%m-%d %H:%M}"
