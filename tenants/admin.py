"""What operators see and do: organizations, people, memberships, keys."""

from datetime import UTC, datetime
from typing import Any, ClassVar

from django import forms
from django.contrib import admin, messages
from django.contrib.auth.admin import GroupAdmin as DjangoGroupAdmin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group
from django.db.models import Count, Prefetch, Q, QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from unfold.admin import ModelAdmin, TabularInline
from unfold.contrib.filters.admin import AutocompleteSelectFilter, RangeDateTimeFilter
from unfold.decorators import action, display
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm
from unfold.widgets import UnfoldAdminCheckboxSelectMultipleWidget, UnfoldAdminTextInputWidget

from tenants import audit, keys, logins, organizations
from tenants.admin_audit import Audited, AuditEntryAdmin
from tenants.admin_people import Helping, SuperusersOnly
from tenants.admin_plans import LIMITS, ModelLimitsInline, PlanAdmin
from tenants.admin_sso import SingleSignOnAdmin
from tenants.models import ApiKey, Membership, Organization, Role, Scope, User, every_scope
from tenants.roles import actions_of

__all__ = ["AuditEntryAdmin", "PlanAdmin", "SingleSignOnAdmin"]

_HISTORY = ("person", "created_by", "created_at", "replaces", "last_used_at", "revoked_at")
_STATES = {"active": "success", "suspended": "danger", "revoked": "danger", "expired": "warning"}


class ChangedFieldsOnly:
    """A form that was open for long does not put back what others have changed meanwhile."""

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Write the fields that the operator edited."""
        if change:
            obj.save(update_fields=form.changed_data)
        else:
            obj.save()


class MembershipFormSet(forms.BaseInlineFormSet):  # type: ignore[type-arg]
    """Knows its rows among everyone's: operators see all."""

    def add_fields(self, form: Any, index: int | None) -> None:
        """Django looks the rows up through the manager, which wants a scope."""
        super().add_fields(form, index)
        form.fields["id"].queryset = Membership.objects.across_organizations()


class MembersInline(TabularInline):  # type: ignore[misc]
    """The people of an organization."""

    model = Membership
    formset = MembershipFormSet
    fields = ("user", "role")
    autocomplete_fields = ("user",)
    extra = 0
    tab = True


@admin.register(Organization)
class OrganizationAdmin(Audited, ChangedFieldsOnly, ModelAdmin):  # type: ignore[misc]
    """Saving a new one makes its schema, which takes a second or two."""

    list_display = (
        "name",
        "slug",
        "state",
        "priority",
        "people",
        "living_keys",
        *LIMITS,
        "created_at",
    )
    list_filter = (
        "priority",
        ("suspended_at", admin.EmptyFieldListFilter),
        ("created_at", RangeDateTimeFilter),
    )
    list_filter_submit = True
    search_fields = ("name", "slug", "memberships__user__email")
    search_help_text = "Name, slug, or a member's e-mail address"
    date_hierarchy = "created_at"
    inlines = (MembersInline, ModelLimitsInline)
    actions = ("suspend", "reinstate")
    fieldsets = (
        (None, {"fields": ("name", "slug", "schema_name", "created_at")}),
        ("Limits", {"fields": ("plan", *LIMITS, "priority")}),
        ("Privacy", {"fields": ("retention", "kept_days", "texts_searchable")}),
        ("Log-ins", {"fields": ("two_factors_required",)}),
        ("Suspension", {"fields": ("suspended_at", "suspended_reason")}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Organization]:
        """With what the list counts."""
        living = Q(api_keys__revoked_at=None)
        return (
            Organization.objects.annotate(people=Count("memberships", distinct=True))
            .annotate(living_keys=Count("api_keys", filter=living, distinct=True))
            .order_by("name")
        )

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        """The slug names the schema: it is chosen once."""
        return ("schema_name", "created_at", *(("slug",) if obj else ()))

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Never from here: invoices and ledger rows stand on it. Suspend it instead."""
        return False

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Who keeps answers for a shorter time than before has none left in the cache."""
        kept = Organization.objects.get(pk=obj.pk).answers_kept_seconds if change else 0
        super().save_model(request, obj, form, change)
        if obj.answers_kept_seconds < kept:
            now, by = datetime.now(UTC), audit.operator(request.user)
            organizations.forget_answers(obj, now=now, by=by)

    @display(label=_STATES)  # type: ignore[untyped-decorator]
    def state(self, organization: Organization) -> str:
        """Whether its callers are served."""
        return "suspended" if organization.suspended_at else "active"

    @admin.display(description="members", ordering="people")
    def people(self, organization: Any) -> int:
        """How many belong to it."""
        return int(organization.people)

    @admin.display(description="keys", ordering="living_keys")
    def living_keys(self, organization: Any) -> int:
        """How many keys are not revoked."""
        return int(organization.living_keys)

    @admin.action(description="Suspend: refuse all of its callers", permissions=["change"])
    def suspend(self, request: HttpRequest, chosen: QuerySet[Organization]) -> None:
        """Without a reason; one can be written on the organization's page."""
        for organization in chosen:
            organizations.suspend(
                organization, now=datetime.now(UTC), by=audit.operator(request.user)
            )
        self.message_user(request, f"Suspended: {_names(chosen)}.", messages.WARNING)

    @admin.action(description="Lift the suspension", permissions=["change"])
    def reinstate(self, request: HttpRequest, chosen: QuerySet[Organization]) -> None:
        """Serve them again."""
        for organization in chosen:
            organizations.reinstate(
                organization, now=datetime.now(UTC), by=audit.operator(request.user)
            )
        self.message_user(request, f"Served again: {_names(chosen)}.", messages.SUCCESS)


class MembershipsInline(TabularInline):  # type: ignore[misc]
    """The organizations of a person."""

    model = Membership
    formset = MembershipFormSet
    autocomplete_fields = ("organization",)
    extra = 0
    tab = True

    def get_queryset(self, request: HttpRequest) -> QuerySet[Membership]:
        """All of them."""
        return Membership.objects.across_organizations()


class NewUserForm(UserCreationForm):  # type: ignore[misc]
    """An e-mail address and a password, or none: then only single sign-on lets them in."""

    class Meta:
        model = User
        fields = ("email",)


class UserForm(UserChangeForm):  # type: ignore[misc]
    """Everything about a person but the password."""

    class Meta:
        model = User
        fields = "__all__"


@admin.register(User)
class UserAdmin(Helping, Audited, DjangoUserAdmin, ModelAdmin):  # type: ignore[misc,type-arg]
    """People. Staff are operators; what a member may do is their role's."""

    form, add_form, change_password_form = UserForm, NewUserForm, AdminPasswordChangeForm
    list_display = (
        "email",
        "first_name",
        "last_name",
        "belongs_to",
        "is_staff",
        "is_active",
        "last_login",
    )
    list_filter = ("is_staff", "is_superuser", "is_active", "memberships__role")
    search_fields = ("email", "first_name", "last_name", "memberships__organization__slug")
    search_help_text = "E-mail address, name, or an organization's slug"
    ordering = ("email",)
    inlines = (MembershipsInline,)
    readonly_fields = ("last_login", "date_joined")
    fieldsets = (
        (None, {"fields": ("email", "password")}),
        ("Person", {"fields": ("first_name", "last_name")}),
        (
            "Operator",
            {"fields": ("is_active", "is_staff", "is_superuser", "groups", "user_permissions")},
        ),
        ("Dates", {"fields": ("last_login", "date_joined")}),
    )
    add_fieldsets = (
        (None, {"fields": ("email", "usable_password", "password1", "password2", "is_staff")}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[User]:
        """With the places they belong to."""
        places = Membership.objects.across_organizations().select_related("organization")
        return User.objects.prefetch_related(Prefetch("memberships", places)).order_by("email")

    def save_model(self, request: HttpRequest, obj: User, form: Any, change: bool) -> None:
        """Save; whoever is shut out is out everywhere."""
        super().save_model(request, obj, form, change)
        if change and not obj.is_active:
            logins.end_all(obj, now=datetime.now(UTC))

    def user_change_password(self, request: HttpRequest, id: str, form_url: str = "") -> Any:  # noqa: A002
        """Set or take away a password, and say so in the audit log."""
        response = super().user_change_password(request, id, form_url)
        if request.method == "POST" and response.status_code == 302:
            user = User.objects.get(pk=id)
            self.audit_fact(request, user, "password_changed")
            logins.end_all(user, now=datetime.now(UTC))
        return response

    def get_inlines(self, request: HttpRequest, obj: Any) -> Any:
        """Memberships come once the person is there."""
        return self.inlines if obj else ()

    @admin.display(description="organizations")
    def belongs_to(self, user: User) -> str:
        """Their slugs."""
        return ", ".join(each.organization.slug for each in user.memberships.all())


admin.site.unregister(Group)


@admin.register(Group)
class GroupAdmin(SuperusersOnly, Audited, DjangoGroupAdmin, ModelAdmin):  # type: ignore[misc]
    """Operators' rights in bundles."""


@admin.register(Membership)
class MembershipAdmin(Audited, ModelAdmin):  # type: ignore[misc]
    """Who belongs where."""

    list_display = ("user", "organization", "role", "created_at")
    list_filter = ("role", ("organization", AutocompleteSelectFilter))
    list_filter_submit = True
    list_select_related = ("user", "organization")
    search_fields = ("user__email", "organization__name", "organization__slug")
    autocomplete_fields = ("user", "organization")
    fields = ("user", "organization", "role", "may")
    readonly_fields = ("may",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Membership]:
        """Operators see everyone's."""
        return Membership.objects.across_organizations().order_by(
            "organization__name", "user__email"
        )

    @admin.display(description="may")
    def may(self, membership: Membership) -> str:
        """What the table of permissions says of the role."""
        return "; ".join(action.value for action in actions_of(Role(membership.role)))


class KeyForm(forms.ModelForm):  # type: ignore[type-arg]
    """A key's rights as boxes to tick."""

    scopes = forms.MultipleChoiceField(
        choices=Scope.choices,
        initial=every_scope,
        widget=UnfoldAdminCheckboxSelectMultipleWidget,
    )

    class Meta:
        model = ApiKey
        fields = "__all__"  # noqa: DJ007  the fieldsets choose
        widgets: ClassVar[dict[str, Any]] = {
            "models": UnfoldAdminTextInputWidget,
            "networks": UnfoldAdminTextInputWidget,
        }


@admin.register(ApiKey)
class ApiKeyAdmin(Audited, ChangedFieldsOnly, ModelAdmin):  # type: ignore[misc]
    """Keys are made, limited and revoked; a deleted one would leave its usage nameless."""

    audit_noun = "key"
    form = KeyForm
    list_display = (
        "name",
        "prefix",
        "organization",
        "state",
        "scopes",
        "expires_at",
        "last_used_at",
        "created_at",
    )
    list_filter = (
        ("organization", AutocompleteSelectFilter),
        "environment",
        ("revoked_at", admin.EmptyFieldListFilter),
        ("created_at", RangeDateTimeFilter),
    )
    list_filter_submit = True
    list_select_related = ("organization", "created_by")
    search_fields = ("id__exact", "name", "organization__slug", "organization__name")
    search_help_text = "Name, public id, or organization"
    autocomplete_fields = ("organization",)
    actions = ("revoke_chosen",)
    actions_submit_line = ("revoke",)
    fieldsets = (
        (None, {"fields": ("organization", "name", "environment", "prefix", "expires_at")}),
        ("May", {"fields": ("scopes", "models", "networks")}),
        ("Limits, besides the organization's", {"fields": LIMITS}),
        ("Signed requests", {"fields": ("signing_key",)}),
        ("History", {"fields": _HISTORY}),
    )
    readonly_fields = ("prefix", *_HISTORY)

    def get_queryset(self, request: HttpRequest) -> QuerySet[ApiKey]:
        """Operators see everyone's."""
        return ApiKey.objects.across_organizations().order_by("-created_at")

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        """Whose it is, and where it runs, is settled when it is made."""
        return (*self.readonly_fields, *(("organization", "environment") if obj else ()))

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Never: revoke it."""
        return False

    def audit_added(self, request: HttpRequest, obj: ApiKey) -> None:
        """Issuing has recorded it."""

    def save_model(self, request: HttpRequest, obj: ApiKey, form: Any, change: bool) -> None:
        """Show a new key, this once; revoke where that button was pressed."""
        if change:
            super().save_model(request, obj, form, change)
            for button in self.get_actions_submit_line(request, obj.pk):
                if button.action_name in request.POST:
                    button.method(request, obj)
            return
        obj.created_by = request.user  # type: ignore[assignment]
        text = keys.issue(obj, by=audit.operator(request.user))
        shown = format_html("Keep this key now, it is not shown again: <code>{}</code>", text)
        self.message_user(request, shown, messages.WARNING)

    @admin.display(description="key")
    def prefix(self, key: ApiKey) -> str:
        """What of the key may be shown."""
        return f"aip_{key.environment}_{key.pk}_…" if key.pk else "made on saving"

    @display(label=_STATES)  # type: ignore[untyped-decorator]
    def state(self, key: ApiKey) -> str:
        """Whether it opens anything."""
        if key.revoked_at:
            return "revoked"
        return "expired" if key.has_expired(datetime.now(UTC)) else "active"

    @admin.action(description="Revoke: refuse these keys for good", permissions=["change"])
    def revoke_chosen(self, request: HttpRequest, chosen: QuerySet[ApiKey]) -> None:
        """Everywhere within a second."""
        for key in chosen:
            keys.revoke(key, now=datetime.now(UTC), by=audit.operator(request.user))
        self.message_user(request, f"Revoked: {_names(chosen)}.", messages.WARNING)

    @action(description="Revoke", permissions=["change"])  # type: ignore[untyped-decorator]
    def revoke(self, request: HttpRequest, key: ApiKey) -> None:
        """This key, everywhere within a second."""
        keys.revoke(key, now=datetime.now(UTC), by=audit.operator(request.user))
        self.message_user(request, f"Revoked: {key}.", messages.WARNING)


def _names(chosen: QuerySet[Any]) -> str:
    return ", ".join(str(each) for each in chosen)
