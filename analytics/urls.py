"""Paths of analytics: below /api/v1/, and below /o/<slug>/ in the portal."""

from django.urls import path

from analytics.api.exports import ExportDownload, Exports, OneExport
from analytics.api.usage import Usage
from analytics.views import Overview

portal = [path("", Overview.as_view(), name="overview")]
urlpatterns = [
    path("usage", Usage.as_view()),
    path("exports", Exports.as_view()),
    path("exports/<uuid:identifier>", OneExport.as_view()),
    path("exports/<uuid:identifier>/download", ExportDownload.as_view()),
]
