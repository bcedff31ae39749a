"""The admin, and billing's paths where they are served."""

from django.contrib import admin
from django.urls import include, path

urlpatterns = [path("admin/", admin.site.urls), path("api/v1/", include("billing.urls"))]
