"""The Celery application: `celery -A celery_app worker -P threads`, `celery -A celery_app beat`."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

from celery_app.app import app

__all__ = ["app"]
