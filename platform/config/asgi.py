"""The ASGI application: HTTP to Django, WebSockets to the consumers, bodies bounded before both."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
django = get_asgi_application()

from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from django.urls import path  # noqa: E402

import celery_app  # noqa: E402, F401  announcements go to its broker
from config.intake import Intake, counted  # noqa: E402
from inference.consumers import InferConsumer  # noqa: E402
from kit import origin  # noqa: E402

sockets = [path("ws/v1/infer", InferConsumer.as_asgi())]
application = ProtocolTypeRouter(
    {
        "http": Intake(django),
        "websocket": origin.known(counted(URLRouter(sockets))),
    }
)
