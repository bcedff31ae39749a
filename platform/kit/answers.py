"""The form of /api/v2's answers: `data`, what page it is of many, and under which id it was asked.

Refusals are RFC 9457's problems in every version.
"""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from django.http import HttpRequest
from pydantic import BaseModel, Field

from kit.edge import Json


class AnswerMeta(BaseModel):
    """About the answer."""

    request_id: UUID
    version: str = Field(examples=["v2"])


class Paging(BaseModel):
    """Of a list."""

    next: str | None = Field(None, description="The `cursor` of the next page; null on the last.")


class Enveloped(Json):
    """An answer in its envelope."""

    def __init__(
        self,
        request: HttpRequest,
        data: Any,
        *,
        page: Paging | None = None,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        meta = {"request_id": str(request.id), "version": "v2"}  # type: ignore[attr-defined]
        about = {"page": page.model_dump()} if page else {}
        super().__init__({"data": data, **about, "meta": meta}, status=status, headers=headers)
