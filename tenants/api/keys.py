"""/api/v1/keys: an organization's API keys."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

import structlog
from django.core.exceptions import ValidationError
from django.http import HttpRequest
from drf_spectacular.utils import OpenApiParameter, extend_schema
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from kit.edge import Endpoint, Json, body, check
from kit.errors import Invalid
from kit.moments import Moment
from kit.origin import network
from kit.threads import in_thread
from tenants import keyring, keys, throttle
from tenants.api.access import OrganizationEndpoint, actor
from tenants.keyring import Manager
from tenants.models import ApiKey, an_ed25519_key, every_scope
from tenants.roles import Action
from tenants.tasks import tell_of_leak

_READ, _MAKE = Action.READ_KEYS, Action.MAKE_KEYS
_TAGS = ["API keys"]

log = structlog.get_logger()


def _network(text: str) -> str:
    return str(network(text))


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("use printable characters only")
    return text


_Name = Annotated[str, StringConstraints(min_length=1, max_length=120), AfterValidator(_printable)]
_Model = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(_printable)]
_Network = Annotated[str, StringConstraints(max_length=43), AfterValidator(_network)]
_Scopes = Annotated[
    list[Literal["inference", "usage", "keys", "audit"]], Field(min_length=1, max_length=8)
]
_Models = Annotated[list[_Model], Field(max_length=100)]
_Networks = Annotated[list[_Network], Field(max_length=100)]


def _ed25519(text: str) -> str:
    try:
        if text:
            an_ed25519_key(text)
    except ValidationError as error:
        raise ValueError(error.messages[0]) from None
    return text


_Limit = Annotated[int, Field(strict=True, ge=0, le=2**31 - 1, description="0: no limit.")]

_Signing = Annotated[
    str,
    StringConstraints(max_length=44),
    AfterValidator(_ed25519),
    Field(
        description="An Ed25519 public key, 32 bytes in base64. Every request must then be signed "
        "(RFC 9421)."
    ),
]


class NewKey(BaseModel):
    """What a key may do. Lists that are empty bound nothing."""

    model_config = ConfigDict(extra="forbid")

    name: _Name
    environment: Literal["live", "test"] = "live"
    scopes: _Scopes = Field(default_factory=every_scope)  # type: ignore[arg-type]
    models: _Models = []
    networks: _Networks = Field([], description="Addresses and CIDR blocks it may be used from.")
    expires_at: Moment | None = None
    requests_per_minute: _Limit = 0
    tokens_per_minute: _Limit = 0
    concurrent_requests: _Limit = 0
    signing_key: _Signing = ""
    service_account: bool = Field(
        False, strict=True, description="Nobody's own: it stays when its maker leaves."
    )


class KeyChange(BaseModel):
    """Only the fields that are to change."""

    model_config = ConfigDict(extra="forbid")

    name: _Name = ""
    scopes: _Scopes = []
    models: _Models = []
    networks: _Networks = []
    expires_at: Moment | None = None
    requests_per_minute: _Limit = 0
    tokens_per_minute: _Limit = 0
    concurrent_requests: _Limit = 0
    signing_key: _Signing = ""


class Rotation(BaseModel):
    """How long the old key lives on."""

    model_config = ConfigDict(extra="forbid")

    grace_seconds: int = Field(86_400, strict=True, ge=0, le=30 * 86_400)


class LeakedKey(BaseModel):
    """The whole key, as it was found."""

    model_config = ConfigDict(extra="forbid")

    key: str = Field(max_length=256)


class Key(BaseModel):
    """A key, without its secret."""

    id: str
    prefix: str = Field(examples=["aip_live_4fT0aB9xQ2Lm_…"])
    name: str
    environment: str
    scopes: list[str]
    models: list[str]
    networks: list[str]
    requests_per_minute: int
    tokens_per_minute: int
    concurrent_requests: int
    signing_key: str
    service_account: bool = Field(
        description="Whether it is nobody's own; a person's key may do what they may, as long as "
        "they are a member."
    )
    state: Literal["active", "expired", "revoked"]
    created_at: datetime
    created_by: str | None = Field(description="The e-mail address of a person.")
    replaces: str | None = Field(description="The key that this one was rotated from.")
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None = Field(description="Up to two minutes behind.")


class MadeKey(Key):
    """A key, and its text."""

    key: str = Field(description="Keep it now: it is not shown again.")


class KeyList(BaseModel):
    """A page, newest first."""

    data: list[Key]
    next: str | None = Field(description="Ask for the next page with `after` at this.")


class LeakAnswer(BaseModel):
    """Whether it was a key of this platform; if so it is revoked now."""

    revoked: bool


class _Page(BaseModel):
    model_config = ConfigDict(extra="forbid")

    after: str | None = Field(None, pattern="^[0-9A-Za-z]{1,16}$")
    limit: int = Field(100, ge=1, le=500)


class Keys(OrganizationEndpoint):
    """All of them."""

    actions = {"GET": _READ, "POST": _MAKE}  # noqa: RUF012

    @extend_schema(
        operation_id="keys_list",
        tags=_TAGS,
        summary="List API keys",
        parameters=[
            OpenApiParameter("after", str, description="The `next` of the page before."),
            OpenApiParameter("limit", int, description="1 to 500; 100 if left out."),
        ],
        responses=KeyList,
    )
    async def get(self, request: HttpRequest) -> Json:
        """Newest first; those that are revoked too."""
        form = check(request.GET.dict(), _Page)
        return Json(await in_thread(self._page, form))

    @extend_schema(
        operation_id="keys_create",
        tags=_TAGS,
        summary="Make an API key",
        description="Its text is in this answer alone. It can do no more than you can.",
        request=NewKey,
        responses={201: MadeKey},
    )
    async def post(self, request: HttpRequest) -> Json:
        """A new key."""
        form = await body(request, NewKey)
        _refuse_past(form.expires_at)
        made = await in_thread(
            self._make, form.model_dump(exclude={"service_account"}), form.service_account
        )
        return Json(made, status=201)

    def _page(self, form: _Page) -> Mapping[str, Any]:
        rows = list(keyring.listed(self.caller.organization, after=form.after, most=form.limit + 1))
        shown = rows[: form.limit]
        further = shown[-1].pk if len(rows) > form.limit else None
        return {"data": [_key(row) for row in shown], "next": further}

    def _make(self, fields: Mapping[str, Any], service_account: bool) -> Mapping[str, Any]:
        by = Manager(self.caller, actor(self.caller))
        key, text = keyring.make(by, fields, service_account=service_account)
        return _key(key) | {"key": text}


class OneKey(OrganizationEndpoint):
    """One of them."""

    actions = {"GET": _READ, "PATCH": _MAKE, "DELETE": _MAKE}  # noqa: RUF012

    @extend_schema(
        operation_id="keys_retrieve", tags=_TAGS, summary="Describe an API key", responses=Key
    )
    async def get(self, request: HttpRequest, identifier: str) -> Json:
        """As it is."""
        return Json(_key(await in_thread(keyring.found, self.caller.organization, identifier)))

    @extend_schema(
        operation_id="keys_change",
        tags=_TAGS,
        summary="Change an API key",
        description="Everywhere within a second.",
        request=KeyChange,
        responses=Key,
    )
    async def patch(self, request: HttpRequest, identifier: str) -> Json:
        """Name, bounds and limits."""
        form = await body(request, KeyChange)
        _refuse_past(form.expires_at)
        fields = form.model_dump(include=form.model_fields_set)
        if not fields:
            raise Invalid("Name at least one field to change.", param="body")
        return Json(await in_thread(self._change, identifier, fields))

    @extend_schema(
        operation_id="keys_revoke",
        tags=_TAGS,
        summary="Revoke an API key",
        description="For good, everywhere within a second.",
        responses={200: Key},
    )
    async def delete(self, request: HttpRequest, identifier: str) -> Json:
        """For good."""
        return Json(await in_thread(self._revoke, identifier))

    def _change(self, identifier: str, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        by = Manager(self.caller, actor(self.caller))
        return _key(keyring.change(by, identifier, fields, now=datetime.now(UTC)))

    def _revoke(self, identifier: str) -> Mapping[str, Any]:
        by = Manager(self.caller, actor(self.caller))
        return _key(keyring.revoke(by, identifier, now=datetime.now(UTC)))


class KeyRotation(OrganizationEndpoint):
    """A new secret for an old key."""

    actions = {"POST": _MAKE}  # noqa: RUF012

    @extend_schema(
        operation_id="keys_rotate",
        tags=_TAGS,
        summary="Rotate an API key",
        description="A key like it; the old one lives on for a grace period.",
        request=Rotation,
        responses={201: MadeKey},
    )
    async def post(self, request: HttpRequest, identifier: str) -> Json:
        """The new key."""
        form = await body(request, Rotation)
        grace = timedelta(seconds=form.grace_seconds)
        return Json(await in_thread(self._rotate, identifier, grace), status=201)

    def _rotate(self, identifier: str, grace: timedelta) -> Mapping[str, Any]:
        by = Manager(self.caller, actor(self.caller))
        key, text = keyring.rotate(by, identifier, grace=grace, now=datetime.now(UTC))
        return _key(key) | {"key": text}


class LeakReport(Endpoint):
    """For whoever finds a key where it should not be."""

    @extend_schema(
        operation_id="keys_report_leaked",
        tags=_TAGS,
        summary="Report a leaked API key",
        description="Needs no log-in: whoever shows the key may end it.",
        request=LeakedKey,
        responses=LeakAnswer,
        auth=[],
    )
    async def post(self, request: HttpRequest) -> Json:
        """Revoke it."""
        presented = keys.parse((await body(request, LeakedKey)).key)
        await throttle.attempt(presented.id)
        return Json({"revoked": await in_thread(self._end, presented)})

    def _end(self, presented: keys.Presented) -> bool:
        key = keyring.report_leaked(presented, now=datetime.now(UTC))
        if key is not None:
            _have_told(key.pk)
        return key is not None


def _have_told(key: str) -> None:
    """By a worker; where none can be reached, from here."""
    try:
        tell_of_leak.apply_async(kwargs={"key": key}, retry=False)
    except Exception as error:
        log.warning("letters about a leaked key are sent at once", error=str(error))
        keyring.tell_of_leak(key)


def _key(key: ApiKey) -> dict[str, Any]:
    facts = keys.facts(key)
    return {
        "id": key.pk,
        "prefix": f"aip_{key.environment}_{key.pk}_…",
        "service_account": facts.pop("person_id") is None,
        **facts,
        "state": _state(key),
        "created_at": key.created_at,
        "created_by": key.created_by.email if key.created_by else None,
        "replaces": key.replaces_id,
        "revoked_at": key.revoked_at,
        "last_used_at": key.last_used_at,
    }


def _state(key: ApiKey) -> str:
    if key.revoked_at is not None:
        return "revoked"
    return "expired" if key.has_expired(datetime.now(UTC)) else "active"


def _refuse_past(at: datetime | None) -> None:
    if at is not None and at <= datetime.now(UTC):
        raise Invalid("expires_at: this has passed; revoke the key instead.", param="expires_at")
