"""Sight: usage, over every room."""

from django.apps import AppConfig


class AnalyticsConfig(AppConfig):
    """Reads what the other rooms write."""

    name = "analytics"
    label = "analytics"
    verbose_name = "Analytics"
