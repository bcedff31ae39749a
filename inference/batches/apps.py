"""Files and batches, in the public schema: workers look for open ones of all organizations."""

from django.apps import AppConfig


class BatchesConfig(AppConfig):
    """Named by its full path, labelled `batches`."""

    name = "inference.batches"
    label = "batches"
    verbose_name = "Work"
