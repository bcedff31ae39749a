"""Webhooks, in the public schema."""

from django.apps import AppConfig


class WebhooksConfig(AppConfig):
    """Named by its full path, labelled `webhooks`."""

    name = "tenants.webhooks"
    label = "webhooks"
