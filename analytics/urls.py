"""Paths of analytics, below /api/v1/."""

from django.urls import path

from analytics.api import Usage

urlpatterns = [path("usage", Usage.as_view())]
