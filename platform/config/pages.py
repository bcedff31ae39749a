"""The page at the root, the API's documentation, and the answer where nothing is."""

import sys
from math import ceil
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.template.loader import render_to_string
from drf_spectacular.views import SpectacularSwaggerSplitView
from unfold.settings import get_config
from unfold.utils import convert_color

from config.health import parts
from kit.edge import Broken, NotFound, refusal_of, refused


async def home(request: HttpRequest) -> HttpResponse:
    """What this is, whether it runs, and where to go from here."""
    base = request.build_absolute_uri("/").rstrip("/")
    context = {
        "base": base,
        "socket": base.replace("http", "ws", 1),
        "model": settings.DEFAULT_MODEL,
        "health": await parts(),
    }
    return render(request, "home.html", context)


class Docs(SpectacularSwaggerSplitView):
    """Swagger UI from our own static files, its script apart so that none need be inline."""

    template_name = "docs.html"
    url_name = "schema"


async def nothing_here(request: HttpRequest) -> HttpResponse:
    """404 in the edge's own form, not a page."""
    return refused(request, NotFound(f"Nothing is at {request.path[:200]}; see /api/docs."))


def unanswered(request: HttpRequest) -> HttpResponse:
    """What Django asks where neither a view nor a middleware had an answer: as the API's endpoints
    say it of themselves, and for people a page that asks nobody anything."""
    error = sys.exc_info()[1]
    refusal = refusal_of(error) if isinstance(error, Exception) else Broken("Something broke.")
    if request.path.startswith(settings.API_PATHS):
        response = refused(request, refusal)
    else:
        page = render_to_string("500.html", {"refusal": refusal})
        response = HttpResponse(page, status=refusal.status)
        if refusal.retry_after is not None:
            response["Retry-After"] = str(ceil(refusal.retry_after))
    response._has_been_logged = True  # type: ignore[attr-defined]
    return response


def without_colors(request: HttpRequest) -> dict[str, Any]:
    """The admin's colours come by `admin_colors`: in its pages they would be an inline style."""
    return {"colors": None, "border_radius": None}


def admin_colors(request: HttpRequest) -> HttpResponse:
    """The admin's colours and corners, as its theme has them by the settings."""
    theme = get_config()
    radius = theme.get("BORDER_RADIUS")
    lines = [f"--border-radius: {radius};"] if radius else []
    for name, weights in theme["COLORS"].items():
        lines += [f"--color-{name}-{w}: {convert_color(value)};" for w, value in weights.items()]
    style = ":root {\n  " + "\n  ".join(lines) + "\n}\n"
    headers = {"Cache-Control": "public, max-age=3600"}
    return HttpResponse(style, content_type="text/css", headers=headers)
