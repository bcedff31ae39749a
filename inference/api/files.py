"""/v1/files: what batches read and write, and whatever else is to be kept for a while."""

from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any

from django.core.files.uploadedfile import UploadedFile
from django.http import HttpRequest, HttpResponseBase, StreamingHttpResponse
from django.http.multipartparser import MultiPartParserError
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema

from inference.api.access import InferenceEndpoint
from inference.batches import files
from inference.batches.models import StoredFile
from kit.edge import Json
from kit.errors import Invalid
from kit.threads import in_thread

_UPLOADED = (StoredFile.Purpose.BATCH, StoredFile.Purpose.USER_DATA)
_FIELDS = {"purpose", "expires_after[anchor]", "expires_after[seconds]"}
_MOST = 10_000
_FORM = {
    "multipart/form-data": {
        "type": "object",
        "properties": {
            "file": {"type": "string", "format": "binary"},
            "purpose": {"type": "string", "enum": [each.value for each in _UPLOADED]},
            "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
            "expires_after[seconds]": {"type": "integer"},
        },
        "required": ["file", "purpose"],
    }
}


class Files(InferenceEndpoint):
    """An organization's files."""

    runs_models = False

    @extend_schema(
        operation_id="files_create",
        summary="Upload a file (OpenAI's API)",
        tags=["OpenAI"],
        request=_FORM,
        responses={200: OpenApiTypes.OBJECT},
    )
    async def post(self, request: HttpRequest) -> HttpResponseBase:
        """Kept for 30 days, or as `expires_after` says."""
        file, purpose, kept_for = _uploaded(request)
        now = timezone.now()
        made = await in_thread(
            files.keep,
            self.caller.organization,
            name=(file.name or "file")[:255],
            purpose=purpose,
            content=file.chunks(),
            now=now,
            kept_for=kept_for,
        )
        return Json(described(made))

    @extend_schema(
        operation_id="files_list",
        summary="List the files (OpenAI's API)",
        tags=["OpenAI"],
        parameters=[
            OpenApiParameter("purpose", str),
            OpenApiParameter("after", str, description="The id of the page before's last file."),
            OpenApiParameter("limit", int, description=f"1 to {_MOST:,}; default {_MOST:,}."),
            OpenApiParameter("order", str, enum=["asc", "desc"], description="Default: desc."),
        ],
        responses={200: OpenApiTypes.OBJECT},
    )
    async def get(self, request: HttpRequest) -> HttpResponseBase:
        """A page of them."""
        most = limit(request, usual=_MOST, most=_MOST)
        order = request.GET.get("order", "desc")
        if order not in {"asc", "desc"}:
            raise Invalid(f"order must be asc or desc, not {order[:40]!r}.", param="order")
        found = await in_thread(
            files.listed,
            self.caller.organization,
            purpose=request.GET.get("purpose"),
            after=request.GET.get("after"),
            most=most + 1,
            oldest_first=order == "asc",
        )
        return Json(page([described(each) for each in found], most))


class OneFile(InferenceEndpoint):
    """A file's description."""

    runs_models = False

    @extend_schema(
        operation_id="files_retrieve",
        summary="Describe a file (OpenAI's API)",
        tags=["OpenAI"],
        responses={200: OpenApiTypes.OBJECT},
    )
    async def get(self, request: HttpRequest, name: str) -> HttpResponseBase:
        """By its id."""
        return Json(described(await in_thread(files.one, self.caller.organization, name)))

    @extend_schema(
        operation_id="files_delete",
        summary="Delete a file (OpenAI's API)",
        tags=["OpenAI"],
        responses={200: OpenApiTypes.OBJECT},
    )
    async def delete(self, request: HttpRequest, name: str) -> HttpResponseBase:
        """At once, for good."""
        gone = await in_thread(files.delete, self.caller.organization, name)
        return Json({"id": f"file-{gone.pk.hex}", "object": "file", "deleted": True})


class FileContent(InferenceEndpoint):
    """What is in a file."""

    runs_models = False

    @extend_schema(
        operation_id="files_content",
        summary="Download a file (OpenAI's API)",
        tags=["OpenAI"],
        responses={(200, "application/octet-stream"): OpenApiTypes.BINARY},
    )
    async def get(self, request: HttpRequest, name: str) -> HttpResponseBase:
        """As it was uploaded, or as the batch wrote it."""
        found = await in_thread(files.one, self.caller.organization, name)
        return StreamingHttpResponse(
            _stream(files.content(found)),
            content_type="application/octet-stream",
            headers={"Content-Length": str(found.bytes)},
        )


def described(file: StoredFile) -> dict[str, Any]:
    """OpenAI's file object."""
    return {
        "id": f"file-{file.pk.hex}",
        "object": "file",
        "bytes": file.bytes,
        "created_at": int(file.created_at.timestamp()),
        "expires_at": int(file.expires_at.timestamp()),
        "filename": file.name,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }


def page(rows: list[dict[str, Any]], most: int) -> dict[str, Any]:
    """OpenAI's list: the first `most` of the rows, and whether there are more."""
    shown = rows[:most]
    return {
        "object": "list",
        "data": shown,
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
        "has_more": len(rows) > most,
    }


def limit(request: HttpRequest, *, usual: int, most: int) -> int:
    """The query's `limit`. Raises `Invalid`."""
    text = request.GET.get("limit", str(usual))
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= most:
        raise Invalid(f"limit must be from 1 to {most:,}, not {text[:40]!r}.", param="limit")
    return int(text)


def _uploaded(request: HttpRequest) -> "tuple[UploadedFile[Any], str, timedelta]":
    try:
        sent, uploads = request.POST, request.FILES
    except MultiPartParserError as error:
        raise Invalid(f"The body is no multipart form: {error}.", param="body") from error
    if unknown := sorted({*sent, *uploads} - _FIELDS - {"file"}):
        raise Invalid(f"Unknown field {unknown[0][:80]!r}.", param=unknown[0][:80])
    file = uploads.get("file")
    if not isinstance(file, UploadedFile):
        raise Invalid("The field 'file' is required, as a file of a multipart form.", param="file")
    purpose = sent.get("purpose", "")
    if purpose not in list(_UPLOADED):
        wanted = ", ".join(each.value for each in _UPLOADED)
        raise Invalid(f"purpose must be one of {wanted}, not {purpose[:40]!r}.", param="purpose")
    return file, purpose, _kept_for(sent)


def _kept_for(sent: Any) -> timedelta:
    seconds = sent.get("expires_after[seconds]")
    if seconds is None:
        return files.LONGEST
    if sent.get("expires_after[anchor]") != "created_at":
        raise Invalid("expires_after.anchor must be created_at.", param="expires_after.anchor")
    least, most = (int(each.total_seconds()) for each in (files.SHORTEST, files.LONGEST))
    if not seconds.isascii() or not seconds.isdigit() or not least <= int(seconds[:9]) <= most:
        raise Invalid(
            f"expires_after.seconds must be from {least:,} to {most:,}, not {seconds[:40]!r}.",
            param="expires_after.seconds",
        )
    return timedelta(seconds=int(seconds))


async def _stream(parts: Iterator[bytes]) -> AsyncIterator[bytes]:
    while (part := await in_thread(next, parts, None)) is not None:
        yield part
