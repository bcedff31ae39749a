"""The ASGI application: HTTP to Django, WebSockets to the consumers, bodies bounded before both."""

import os

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
django.setup(set_prefix=False)

from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from django.urls import path  # noqa: E402

from config.handler import Handler  # noqa: E402
from config.intake import Intake, counted  # noqa: E402
from inference.consumers import InferConsumer  # noqa: E402
from kit import origin, pauses  # noqa: E402
from kit.postgres import Connection  # noqa: E402

Connection.usual = 30.0  # a request's threads are few: one that waits for ever is missed by others

sockets = [path("ws/v1/infer", InferConsumer.as_asgi())]
application = origin.over(
    ProtocolTypeRouter(
        {
            "http": Intake(Handler()),
            "websocket": origin.known(counted(URLRouter(sockets))),
        }
    )
)

pauses.keep_rare()  # they would stop every stream for a while
