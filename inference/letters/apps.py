"""Dead letters, in the public schema: operators see everyone's."""

from django.apps import AppConfig


class LettersConfig(AppConfig):
    """Named by its full path, labelled `letters`."""

    name = "inference.letters"
    label = "letters"
    verbose_name = "Work"
