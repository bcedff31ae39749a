"""Every route for every kind of caller: who gets in, and what the others are told.

A route without a row here fails the suite.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from channels.testing import WebsocketCommunicator
from django.test import AsyncClient, Client
from django.urls import URLPattern, URLResolver, get_resolver

from config.asgi import application, sockets
from kit.redis import async_state
from tenants import keys, organizations, tokens
from tenants.models import ApiKey, LogIn, Membership, Organization, Role, Scope, User
from tests import factories

NOW = datetime.now(UTC)
NO_REQUEST = "01a20c6c-0bee-7da5-8622-c07caf11767d"
MEMBERS = tuple(role.value for role in Role)
WORK = ("owner", "admin", "developer")
MANAGE = ("owner", "admin")
MONEY = ("owner", "admin", "billing")


@dataclass(frozen=True)
class Door:
    """A method of a route: what those get who may (`opens`), who they are among the roles, and
    the scope that a key needs ("": for people alone). `foreign` is what a good key of another
    organization gets, where that is not what its own would get. `form` is the body, `path` what
    stands for the route."""

    method: str
    route: str
    opens: int
    roles: tuple[str, ...]
    scope: str
    path: str = ""
    form: Any = field(default=None, hash=False)
    foreign: int = 0

    def __str__(self) -> str:
        return f"{self.method} {self.route}"


def _run(method: str, route: str, opens: int, path: str = "", form: Any = None) -> Door:
    return Door(method, route, opens, WORK, "inference", path, form)


def _read(route: str, opens: int = 200, path: str = "") -> Door:
    return Door("GET", route, opens, MEMBERS, "usage", path)


def _key(method: str, route: str, opens: int, roles: tuple[str, ...], of: str, form: Any) -> Door:
    path = route.replace("<str:identifier>", of)
    return Door(method, route, opens, roles, "keys", path, form, foreign=404)


DOORS = (
    _run("POST", "v1/chat/completions", 400, form={}),
    _run("POST", "v1/completions", 400, form={}),
    _run("POST", "v1/responses", 400, form={}),
    _run("GET", "v1/responses/<str:name>", 404, "v1/responses/none"),
    _run("DELETE", "v1/responses/<str:name>", 404, "v1/responses/none"),
    _run("POST", "v1/responses/<str:name>/cancel", 404, "v1/responses/none/cancel", {}),
    _run("GET", "v1/responses/<str:name>/input_items", 404, "v1/responses/none/input_items"),
    _run("POST", "v1/moderations", 400, form={}),
    _run("POST", "v1/embeddings", 400, form={}),
    _run("POST", "v1/files", 400, form={}),
    _run("GET", "v1/files", 200),
    _run("GET", "v1/files/<str:name>", 404, "v1/files/none"),
    _run("DELETE", "v1/files/<str:name>", 404, "v1/files/none"),
    _run("GET", "v1/files/<str:name>/content", 404, "v1/files/none/content"),
    _run("POST", "v1/batches", 400, form={}),
    _run("GET", "v1/batches", 200),
    _run("GET", "v1/batches/<str:name>", 404, "v1/batches/none"),
    _run("POST", "v1/batches/<str:name>/cancel", 404, "v1/batches/none/cancel", {}),
    _run("GET", "v1/models", 200),
    _run("GET", "v1/models/<str:name>", 404, "v1/models/none"),
    _run("POST", "api/v1/infer", 400, form={}),
    _run("POST", "api/v1/infer/stream", 400, form={}),
    _run("POST", "api/v1/infer/batch", 400, form={}),
    _run("GET", "api/v1/infer/batch/<str:name>", 404, "api/v1/infer/batch/none"),
    _run(
        "POST",
        "api/v1/infer/batch/<str:name>/cancel",
        404,
        "api/v1/infer/batch/none/cancel",
        {},
    ),
    _run("POST", "api/v1/embeddings", 400, form={}),
    _run("POST", "api/v1/similarity", 400, form={}),
    _run("POST", "api/v1/estimates", 400, form={}),
    _run("GET", "api/v1/models", 200),
    _run("GET", "api/v1/model/info", 404, "api/v1/model/info?model=none"),
    _run("GET", "api/v1/jobs/<uuid:identifier>", 404, f"api/v1/jobs/{NO_REQUEST}"),
    _run(
        "POST",
        "api/v1/jobs/<uuid:identifier>/cancel",
        404,
        f"api/v1/jobs/{NO_REQUEST}/cancel",
        {},
    ),
    _run(
        "PUT",
        "api/v1/requests/<uuid:identifier>/feedback",
        404,
        f"api/v1/requests/{NO_REQUEST}/feedback",
        {"rating": "good"},
    ),
    _run("GET", "api/v1/requests/<uuid:identifier>", 404, f"api/v1/requests/{NO_REQUEST}"),
    _run(
        "GET",
        "api/v1/requests/<uuid:identifier>/stream",
        404,
        f"api/v1/requests/{NO_REQUEST}/stream",
    ),
    _run(
        "POST",
        "api/v1/requests/<uuid:identifier>/cancel",
        404,
        f"api/v1/requests/{NO_REQUEST}/cancel",
        {},
    ),
    _read("api/v1/usage"),
    _read("api/v1/billing"),
    Door(
        "POST",
        "api/v1/billing/checkouts",
        409,
        MONEY,
        "",
        form={"kind": "card", "return_url": "https://x.example"},
    ),
    Door(
        "GET",
        "api/v1/billing/checkouts/<uuid:identifier>",
        404,
        MONEY,
        "",
        f"api/v1/billing/checkouts/{NO_REQUEST}",
    ),
    _read("api/v1/plans"),
    _read("api/v1/billing/subscription"),
    Door("PUT", "api/v1/billing/subscription", 400, MONEY, "", form={}),
    Door("DELETE", "api/v1/billing/subscription", 409, MONEY, ""),
    Door("POST", "api/v1/billing/subscription/quote", 400, MONEY, "", form={}),
    _read("api/v1/analytics"),
    _read("api/v1/requests"),
    _read("api/v1/requests/export"),
    _read(
        "api/v1/requests/<uuid:identifier>/feedback",
        404,
        f"api/v1/requests/{NO_REQUEST}/feedback",
    ),
    _read("api/v1/budgets"),
    _read("api/v1/billing/details", 404),
    Door("PUT", "api/v1/billing/details", 400, MONEY, "", form={}),
    _read("api/v1/billing/auto-top-up", 404),
    Door("PUT", "api/v1/billing/auto-top-up", 400, MONEY, "", form={}),
    Door("DELETE", "api/v1/billing/auto-top-up", 204, MONEY, ""),
    Door("POST", "api/v1/budgets", 400, MONEY, "", form={}),
    Door("PATCH", "api/v1/budgets/<int:identifier>", 404, MONEY, "", "api/v1/budgets/0", {}),
    Door("DELETE", "api/v1/budgets/<int:identifier>", 404, MONEY, "", "api/v1/budgets/0"),
    _read("api/v1/prices"),
    _read("api/v1/invoices"),
    _read("api/v1/invoices/<str:number>", 404, "api/v1/invoices/none"),
    _read("api/v1/invoices/<str:number>/proof", 404, "api/v1/invoices/none/proof"),
    _read("api/v1/invoices/<str:number>.pdf", 404, "api/v1/invoices/none.pdf"),
    _read("api/v1/invoices/<str:number>.csv", 404, "api/v1/invoices/none.csv"),
    Door("GET", "api/v1/keys", 200, WORK, "keys"),
    Door("POST", "api/v1/keys", 201, WORK, "keys", form={"name": "x"}),
    _key("GET", "api/v1/keys/<str:identifier>", 200, WORK, "{changed}", None),
    _key("PATCH", "api/v1/keys/<str:identifier>", 200, MANAGE, "{changed}", {"name": "x"}),
    _key("DELETE", "api/v1/keys/<str:identifier>", 200, MANAGE, "{ended}", None),
    _key("POST", "api/v1/keys/<str:identifier>/rotate", 201, MANAGE, "{changed}", {}),
    Door("GET", "api/v1/members", 200, MEMBERS, ""),
    Door("GET", "api/v1/invitations", 200, MANAGE, ""),
    Door("POST", "api/v1/invitations", 400, MANAGE, "", form={}),
    Door(
        "DELETE",
        "api/v1/invitations/<int:invitation>",
        404,
        MANAGE,
        "",
        "api/v1/invitations/0",
    ),
    Door(
        "POST",
        "api/v1/invitations/<int:invitation>/resend",
        404,
        MANAGE,
        "",
        "api/v1/invitations/0/resend",
        {},
    ),
    Door("POST", "api/v1/members/leave", 400, MEMBERS, "", form={}),
    Door(
        "PATCH",
        "api/v1/members/<int:user>",
        404,
        MANAGE,
        "",
        "api/v1/members/0",
        {"role": "viewer"},
    ),
    Door("DELETE", "api/v1/members/<int:user>", 404, MANAGE, "", "api/v1/members/0"),
    Door("POST", "api/v1/ownership", 400, ("owner",), "", form={}),
    Door("GET", "api/v1/retention", 200, MEMBERS, ""),
    Door("PUT", "api/v1/retention", 200, MANAGE, "", form={"keeps": "answers"}),
    _run("POST", "api/v2/infer", 400, form={}),
    _read("api/v2/jobs"),
    _run("GET", "api/v2/jobs/<uuid:identifier>", 404, f"api/v2/jobs/{NO_REQUEST}"),
    _run("GET", "api/v2/jobs/<uuid:identifier>/stream", 404, f"api/v2/jobs/{NO_REQUEST}/stream"),
    _run(
        "POST", "api/v2/jobs/<uuid:identifier>/cancel", 404, f"api/v2/jobs/{NO_REQUEST}/cancel", {}
    ),
    _run("GET", "api/v2/models", 200),
    _run("GET", "api/v2/models/<str:name>", 404, "api/v2/models/none"),
    _read("api/v2/analytics"),
    _run("GET", "api/v1/cache", 200),
    _run("PUT", "api/v1/cache", 200, form={"mode": "off"}),
    _run("DELETE", "api/v1/cache", 200),
    Door("POST", "api/v1/exports", 202, MANAGE, "", form={}),
    Door("GET", "api/v1/exports", 200, MANAGE, ""),
    Door(
        "GET", "api/v1/exports/<uuid:identifier>", 404, MANAGE, "", f"api/v1/exports/{NO_REQUEST}"
    ),
    Door(
        "GET",
        "api/v1/exports/<uuid:identifier>/download",
        404,
        MANAGE,
        "",
        f"api/v1/exports/{NO_REQUEST}/download",
    ),
    Door("GET", "api/v1/webhooks", 200, WORK, ""),
    Door("POST", "api/v1/webhooks", 400, WORK, "", form={}),
    *(
        Door(method, f"api/v1/webhooks/<uuid:identifier>{rest}", 404, WORK, "", path, form)
        for method, rest, path, form in (
            ("GET", "", f"api/v1/webhooks/{NO_REQUEST}", None),
            ("PATCH", "", f"api/v1/webhooks/{NO_REQUEST}", {}),
            ("DELETE", "", f"api/v1/webhooks/{NO_REQUEST}", None),
            ("POST", "/rotate", f"api/v1/webhooks/{NO_REQUEST}/rotate", {}),
            ("GET", "/deliveries", f"api/v1/webhooks/{NO_REQUEST}/deliveries", None),
            (
                "POST",
                "/deliveries/<uuid:event>/replay",
                f"api/v1/webhooks/{NO_REQUEST}/deliveries/{NO_REQUEST}/replay",
                {},
            ),
        )
    ),
    Door("GET", "api/v1/audit", 200, MANAGE, "audit"),
    Door("GET", "api/v1/audit/export", 200, MANAGE, "audit"),
)
OPEN = {
    ("GET", ""): 200,
    ("GET", "health"): 200,
    ("GET", "metrics"): 200,
    ("GET", "admin.css"): 200,
    ("GET", "api/schema"): 200,
    ("GET", "api/docs"): 200,
    ("GET", "api/changes"): 200,
    ("GET", "api/v1/certificates/keys"): 200,
    ("GET", "^(?:v1|api)(?:/|$)"): 404,
    ("POST", "api/v1/auth/token"): 400,
    ("POST", "api/v1/auth/refresh"): 400,
    ("POST", "api/v1/auth/logout"): 400,
    ("POST", "api/v1/keys/leaked"): 400,
    ("POST", "api/v1/stripe/events"): 404,
}
"""Nobody is asked who they are; what an empty body gets."""
PAGES = ("accounts/", "o/", "organizations/", "invitations/")
"""The portal's, whose rows are in `test_portal_doors`."""
PEOPLE = {
    ("GET", "api/v1/auth/me"): 200,
    ("POST", "api/v1/auth/invitations"): 400,
    ("GET", "api/v1/auth/sessions"): 200,
    ("DELETE", "api/v1/auth/sessions"): 200,
    ("DELETE", "api/v1/auth/sessions/<str:identifier>"): 404,
}
"""Whoever is logged in, in whatever organization."""

pytestmark = [
    pytest.mark.usefixtures("redis"),
    pytest.mark.django_db(transaction=True),
]


def routes(resolver: Any = None, prefix: str = "") -> Iterator[tuple[str, str, Any]]:
    """Method, route and view of the whole configuration."""
    for each in (resolver or get_resolver()).url_patterns:
        route = prefix + str(each.pattern)
        if isinstance(each, URLResolver):
            yield from routes(each, route)
        elif isinstance(each, URLPattern):
            view = getattr(each.callback, "view_class", None) or getattr(each.callback, "cls", None)
            served = [m for m in ("get", "post", "put", "patch", "delete") if hasattr(view, m)]
            for method in served or ["get"]:
                yield method.upper(), route, each.callback


def ours() -> list[tuple[str, str]]:
    others = ("admin/", *PAGES)
    return [(method, route) for method, route, _ in routes() if not route.startswith(others)]


def test_every_route_has_a_row() -> None:
    rows = [(door.method, door.route) for door in DOORS]
    assert sorted([*rows, *OPEN, *PEOPLE]) == sorted(ours())


@dataclass(frozen=True)
class World:
    """Acme with a member a role, globex of bob's, and keys in every state."""

    acme: Organization
    globex: Organization
    tokens: dict[str, str]
    keys: dict[str, str]
    ids: dict[str, str]


@pytest.fixture
def world(acme: Organization, globex: Organization, bob: User) -> World:
    """All of it."""
    people = {"bob": bob}
    for of in (acme, globex):
        factories.account(of)
    for role in Role:
        people[role.value] = factories.user(role.value)
        factories.member(people[role.value], acme, role)
    every = {"scopes": list(Scope.values)}
    past = NOW - timedelta(seconds=1)
    made: dict[str, tuple[ApiKey, str]] = {
        "good": factories.api_key(acme, **every),
        "foreign": factories.api_key(globex, **every),
        "revoked": factories.api_key(acme, **every),
        "expired": factories.api_key(acme, **every, expires_at=past),
        "elsewhere": factories.api_key(acme, **every, networks=["198.51.100.0/24"]),
        "changed": factories.api_key(acme),
        "ended": factories.api_key(acme),
    }
    for scope in Scope.values:
        others = [each for each in Scope.values if each != scope]
        made[f"without {scope}"] = factories.api_key(acme, scopes=others)
    keys.revoke(made["revoked"][0], now=NOW)
    return World(
        acme,
        globex,
        {name: _access(user) for name, user in people.items()},
        {name: text for name, (_, text) in made.items()},
        {name: key.pk for name, (key, _) in made.items()},
    )


def _access(user: User) -> str:
    login = LogIn(user=user, created_at=NOW, refreshed_at=NOW)
    pair = tokens.pair(user=user.pk, login=login.pk)
    login.token = pair.token
    login.save(force_insert=True)
    return pair.access


def ask(
    method: str, path: str, form: Any, bearer: str = "", organization: str = ""
) -> tuple[int, str]:
    """The status and what was said."""

    @async_to_sync
    async def run() -> tuple[int, str]:
        headers = {"Authorization": f"Bearer {bearer}"} if bearer else {}
        headers |= {"X-Organization": organization} if organization else {}
        response: Any = await AsyncClient().generic(
            method,
            f"/{path}",
            json.dumps(form) if form is not None else "",
            content_type="application/json",
            headers=headers,
        )
        if response.streaming:
            parts = [part async for part in response]
            said = b"".join(parts)
        else:
            said = response.content
        await async_state().aclose()
        return response.status_code, said.decode("utf-8", "replace")

    return run()


@pytest.mark.parametrize("door", DOORS, ids=str)
def test_a_door_opens_to_those_who_may(door: Door, world: World) -> None:
    path = (door.path or door.route).format(**world.ids)

    def status(bearer: str = "", organization: str = "") -> int:
        return ask(door.method, path, door.form, bearer, organization)[0]

    found = {role: status(world.tokens[role], "acme") for role in MEMBERS}
    found |= {
        "nobody": status(),
        "another's owner": status(world.tokens["bob"], "acme"),
        "a person of no organization": status(world.tokens["owner"]),
        **{name: status(world.keys[name]) for name in ("good", "revoked", "expired", "elsewhere")},
        "out of scope": status(world.keys[f"without {door.scope or 'audit'}"]),
        "another's key": status(world.keys["foreign"]),
    }
    organizations.suspend(world.globex, now=NOW)
    found |= {
        "suspended": _refused(lambda: status(world.keys["foreign"])),
        "suspended owner": _refused(lambda: status(world.tokens["bob"], "globex")),
    }
    assert found == {
        **{role: door.opens if role in door.roles else 403 for role in MEMBERS},
        "nobody": 401,
        "another's owner": 403,
        "a person of no organization": 400,
        "good": door.opens if door.scope else 403,
        "revoked": 401,
        "expired": 401,
        "elsewhere": 403,
        "out of scope": 403,
        "another's key": door.foreign or (door.opens if door.scope else 403),
        "suspended": 403,
        "suspended owner": 403,
    }


def _refused(status: Any) -> int:
    """Once the change has come through; that this takes a second at most, test_auth holds."""
    until = datetime.now(UTC) + timedelta(seconds=10)
    found = status()
    while found != 403 and datetime.now(UTC) < until:
        found = status()
    return int(found)


def test_a_text_that_postgresql_cannot_hold_is_refused_and_breaks_nothing(world: World) -> None:
    for method, path in (
        ("POST", "api/v1/billing/subscription/quote"),
        ("PUT", "api/v1/billing/subscription"),
    ):
        status, said = ask(method, path, {"plan": "a\0b"}, world.tokens["owner"], "acme")
        assert (status, "NUL" in said) == (400, True)


SOCKETS = {"ws/v1/infer": (WORK, "inference")}
"""Routes of WebSockets: the roles that get in, and the scope that a key needs."""


def test_every_socket_has_a_row() -> None:
    assert sorted(SOCKETS) == sorted(str(each.pattern) for each in sockets)


def knock(route: str, bearer: str = "", organization: str = "") -> int:
    """200 for who is let in; otherwise the refusal's status, behind which the door is shut."""

    @async_to_sync
    async def run() -> int:
        headers = [(b"authorization", f"Bearer {bearer}".encode())] if bearer else []
        headers += [(b"x-organization", organization.encode())] if organization else []
        socket = WebsocketCommunicator(application, f"/{route}", headers)
        await socket.connect()
        if not bearer:
            await socket.send_json_to({"type": "infer", "prompt": "x"})
        said = await socket.receive_json_from(5)
        if said["type"] != "ready" and bearer:
            code = 4403 if said["error"]["status"] == 403 else 4401
            assert (await socket.receive_output(5))["code"] == code
        await socket.disconnect()
        await async_state().aclose()
        return 200 if said["type"] == "ready" else int(said["error"]["status"])

    return run()


@pytest.mark.parametrize("route", SOCKETS)
def test_a_socket_opens_to_those_who_may(route: str, world: World) -> None:
    may, scope = SOCKETS[route]
    found = {role: knock(route, world.tokens[role], "acme") for role in MEMBERS}
    found |= {
        "nobody": knock(route),
        "another's owner": knock(route, world.tokens["bob"], "acme"),
        "a person of no organization": knock(route, world.tokens["owner"]),
        **{name: knock(route, world.keys[name]) for name in ("good", "foreign", "revoked")},
        **{name: knock(route, world.keys[name]) for name in ("expired", "elsewhere")},
        "out of scope": knock(route, world.keys[f"without {scope}"]),
    }
    organizations.suspend(world.globex, now=NOW)
    found |= {
        "suspended": _refused(lambda: knock(route, world.keys["foreign"])),
        "suspended owner": _refused(lambda: knock(route, world.tokens["bob"], "globex")),
    }
    assert found == {
        **{role: 200 if role in may else 403 for role in MEMBERS},
        "nobody": 401,
        "another's owner": 403,
        "a person of no organization": 400,
        "good": 200,
        "foreign": 200,
        "revoked": 401,
        "expired": 401,
        "elsewhere": 403,
        "out of scope": 403,
        "suspended": 403,
        "suspended owner": 403,
    }


@pytest.mark.parametrize(("method", "route"), OPEN, ids=lambda value: str(value))
def test_an_open_door_asks_nobody(
    method: str, route: str, world: World, settings: Any, tmp_path: Path
) -> None:
    settings.STATIC_ROOT = tmp_path
    path = "api/none" if route.startswith("^") else route
    form: Any = {} if method == "POST" else None
    got = {ask(method, path, form, bearer)[0] for bearer in ("", world.keys["revoked"], "x")}
    assert got <= {OPEN[method, route], 503 if route == "health" else 0}


def test_whoever_is_logged_in_learns_of_themselves_alone(world: World) -> None:
    for name in ("bob", *MEMBERS):
        status, said = ask("GET", "api/v1/auth/me", None, world.tokens[name])
        assert status == 200
        [place] = json.loads(said)["organizations"]
        assert place["slug"] == ("globex" if name == "bob" else "acme")
    for (method, route), opens in PEOPLE.items():
        path = route.replace("<str:identifier>", NO_REQUEST)
        form: Any = {} if method == "POST" else None
        for bearer in ("", world.keys["good"], world.keys["revoked"]):
            assert ask(method, path, form, bearer)[0] == 401
        assert ask(method, path, form, world.tokens["bob"])[0] == opens


@pytest.mark.parametrize("who", ["nobody", "owner"])
def test_the_admin_is_operators_alone(
    who: str, world: World, client: Client, settings: Any, tmp_path: Path
) -> None:
    settings.STATIC_ROOT = tmp_path
    if who == "owner":
        place = Membership.objects.for_org(world.acme).get(role=Role.OWNER)
        client.force_login(place.user)
    paths = {_sample(route) for _, route, _ in routes() if route.startswith("admin/")}
    assert len(paths) > 40
    for path in sorted(paths - {"/admin/login/", "/admin/logout/", "/admin/password_change/"}):
        answer = client.get(path)
        assert answer.status_code in {302, 404, 405}, path
        if answer.status_code == 302:
            assert answer["Location"].startswith("/admin/login/"), path


def _sample(route: str) -> str:
    """A path that the route matches, or nearly."""
    parts = []
    for part in route.removesuffix("$").split("/"):
        parts.append("1" if "<" in part or "(" in part else part)
    return "/" + "/".join(parts)
