"""Operators' pages of the apps that we did not write."""

from typing import Any

from allauth.account import admin as _addresses  # noqa: F401
from allauth.account.models import EmailAddress
from allauth.mfa import admin as _factors  # noqa: F401
from allauth.mfa.models import Authenticator
from allauth.socialaccount import admin as _social  # noqa: F401
from allauth.socialaccount.models import SocialAccount, SocialApp, SocialToken
from django.contrib import admin
from django.http import HttpRequest
from django_celery_results import admin as _theirs  # noqa: F401  registers what we take over
from django_celery_results.models import GroupResult, TaskResult
from unfold.admin import ModelAdmin
from unfold.decorators import display
from unfold.paginator import InfinitePaginator

_COLORS = {
    "SUCCESS": "success",
    "FAILURE": "danger",
    "REVOKED": "danger",
    "RETRY": "warning",
    "STARTED": "info",
    "PENDING": "info",
}

admin.site.unregister([TaskResult, GroupResult])
admin.site.unregister([EmailAddress, Authenticator, SocialAccount, SocialApp, SocialToken])


@admin.register(TaskResult)
class TaskResultAdmin(ModelAdmin):  # type: ignore[misc]
    """How maintenance and batch tasks went; inference has no rows here."""

    list_display = ("task_name", "outcome", "date_created", "date_done", "worker", "task_id")
    list_filter = ("status", "date_done")
    search_fields = ("task_id", "task_name")
    search_help_text = "Name or id of a task"
    paginator = InfinitePaginator
    show_full_result_count = False
    fieldsets = (
        (None, {"fields": ("task_name", "task_id", "outcome", "worker")}),
        ("Parameters", {"fields": ("task_args", "task_kwargs")}),
        ("Result", {"fields": ("date_created", "date_started", "date_done", "result")}),
        ("Trace", {"fields": ("traceback",)}),
    )

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Nobody."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody."""
        return False

    @display(description="state", ordering="status", label=_COLORS)  # type: ignore[untyped-decorator]
    def outcome(self, task: TaskResult) -> str:
        """Celery's word."""
        return str(task.status)
