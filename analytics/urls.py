"""Paths of analytics, below /api/v1/."""

from django.urls import path

from analytics.api.exports import ExportDownload, Exports, OneExport
from analytics.api.usage import Usage

urlpatterns = [
    path("usage", Usage.as_view()),
    path("exports", Exports.as_view()),
    path("exports/<uuid:identifier>", OneExport.as_view()),
    path("exports/<uuid:identifier>/download", ExportDownload.as_view()),
]
