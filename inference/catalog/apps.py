"""The models on offer, in the public schema."""

from django.apps import AppConfig


class CatalogConfig(AppConfig):
    """Named by its full path, labelled `catalog`."""

    name = "inference.catalog"
    label = "catalog"
    verbose_name = "Work"
