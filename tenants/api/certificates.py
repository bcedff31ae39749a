"""GET /api/v1/certificates/keys: by which keys the platform's certificates are checked."""

from datetime import UTC, datetime

from django.http import HttpRequest
from drf_spectacular.utils import OpenApiExample, extend_schema
from pydantic import BaseModel, Field

from kit.edge import Endpoint, Json
from kit.threads import in_thread
from tenants import certificates


class PublicKey(BaseModel):
    """A key that signs certificates, or did."""

    public_key: str = Field(description="32 bytes in base64.")
    algorithm: str
    made_at: datetime
    retired_at: datetime | None = Field(description="Since when it signs no more; null: it does.")


class PublicKeys(BaseModel):
    """All of them, the newest first."""

    data: list[PublicKey]


class CertificateKeys(Endpoint):
    """For whoever was handed a certificate."""

    @extend_schema(
        operation_id="certificate_keys",
        tags=["Organization"],
        summary="List the keys that certificates are signed with",
        description="Needs no log-in. A certificate of erasure is genuine if one of these signed "
        "it; keys that were replaced stay here. docs/examples/verify_certificate.py checks one "
        "without the platform.",
        responses=PublicKeys,
        auth=[],
        examples=[
            OpenApiExample(
                "One key",
                value={
                    "data": [
                        {
                            "public_key": "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=",
                            "algorithm": "Ed25519",
                            "made_at": "2026-11-25T03:00:00Z",
                            "retired_at": None,
                        }
                    ]
                },
                response_only=True,
            )
        ],
    )
    async def get(self, request: HttpRequest) -> Json:
        """The first is made here, if no certificate was signed yet."""
        rows = await in_thread(certificates.published, now=datetime.now(UTC))
        return Json(
            {
                "data": [
                    {
                        "public_key": row.public,
                        "algorithm": row.algorithm,
                        "made_at": row.made_at,
                        "retired_at": row.retired_at,
                    }
                    for row in rows
                ]
            }
        )
