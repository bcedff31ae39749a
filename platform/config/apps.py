"""The wiring app: it owns no models, only commands that know every room."""

from django.apps import AppConfig


class PlatformConfig(AppConfig):
    """Named `platform_config`, since `platform` is the standard library's."""

    name = "config"
    label = "platform_config"
