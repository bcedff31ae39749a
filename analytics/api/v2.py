"""/api/v2 of analytics: the history and its sums in one envelope. Adapters alone."""

from django.http import HttpRequest, HttpResponseBase
from drf_spectacular.utils import extend_schema
from pydantic import BaseModel

from analytics.api.analytics import PARAMETERS, Analytics, AnalyticsEndpoint
from analytics.api.requests import PAGES, HistoryEntry, Requests
from kit.answers import AnswerMeta, Enveloped, Paging


class JobsAnswer(BaseModel):
    """Jobs that ended, in their envelope."""

    data: list[HistoryEntry]
    page: Paging
    meta: AnswerMeta


class AnalyticsAnswer(BaseModel):
    """Figures in their envelope."""

    data: Analytics
    meta: AnswerMeta


class EnvelopedRequests(Requests):
    """The organization's history."""

    @extend_schema(
        operation_id="v2_jobs",
        tags=["Version 2"],
        summary="Jobs that ended",
        parameters=PAGES,
        responses=JobsAnswer,
    )
    async def get(self, request: HttpRequest) -> HttpResponseBase:
        """A page of them, newest first."""
        entries, further = await self.found(request)
        page = Paging(next=str(further) if further else None)
        return Enveloped(request, entries, page=page)


class EnvelopedAnalytics(AnalyticsEndpoint):
    """The organization's figures."""

    @extend_schema(
        operation_id="v2_analytics",
        tags=["Version 2"],
        summary="Tokens, cost, latency, errors and cache hits",
        parameters=PARAMETERS,
        responses=AnalyticsAnswer,
    )
    async def get(self, request: HttpRequest) -> HttpResponseBase:
        """All together, and by group."""
        return Enveloped(request, await self.told(request))
