"""Analytics' paths where they are served."""

from django.urls import include, path

urlpatterns = [path("api/v1/", include("analytics.urls"))]
