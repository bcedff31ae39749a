"""The page at the root, and the answer where nothing is."""

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from kit.edge import NotFound, refused


def home(request: HttpRequest) -> HttpResponse:
    """What this is, and where to go from here."""
    base = request.build_absolute_uri("/").rstrip("/")
    return render(request, "home.html", {"base": base, "model": settings.DEFAULT_MODEL})


async def nothing_here(request: HttpRequest) -> HttpResponse:
    """404 in the edge's own form, not a page."""
    return refused(request, NotFound(f"Nothing is at {request.path[:200]}; see /api/docs."))
