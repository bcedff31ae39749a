"""Work: requests for text, from the edge to the history row. Lives in each tenant's schema."""

from django.apps import AppConfig


class InferenceConfig(AppConfig):
    """The tenant app."""

    name = "inference"
    verbose_name = "Work"
