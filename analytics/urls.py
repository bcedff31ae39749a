"""Paths of analytics: below /api/v1/, and below /o/<slug>/ in the portal."""

from django.urls import path

from analytics.api.analytics import AnalyticsEndpoint
from analytics.api.exports import ExportDownload, Exports, OneExport
from analytics.api.requests import RequestFeedbackEndpoint, Requests, RequestsExport
from analytics.api.usage import Usage
from analytics.api.v2 import EnvelopedAnalytics, EnvelopedRequests
from analytics.views import Overview

portal = [path("", Overview.as_view(), name="overview")]
urlpatterns = [
    path("usage", Usage.as_view()),
    path("analytics", AnalyticsEndpoint.as_view()),
    path("requests", Requests.as_view()),
    path("requests/export", RequestsExport.as_view()),
    path("requests/<uuid:identifier>/feedback", RequestFeedbackEndpoint.as_view()),
    path("exports", Exports.as_view()),
    path("exports/<uuid:identifier>", OneExport.as_view()),
    path("exports/<uuid:identifier>/download", ExportDownload.as_view()),
]
v2 = [
    path("jobs", EnvelopedRequests.as_view()),
    path("analytics", EnvelopedAnalytics.as_view()),
]
