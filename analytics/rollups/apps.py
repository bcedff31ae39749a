"""The tenant app of analytics."""

from django.apps import AppConfig


class RollupsConfig(AppConfig):
    """Sums of requests."""

    name = "analytics.rollups"
    label = "rollups"
    verbose_name = "Rollups"
