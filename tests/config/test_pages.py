"""Pages for people: the front page, the documentation, the admin's door, and their headers."""

import re
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.test import Client
from django.urls import get_resolver
from pydantic import BaseModel
from redis import Redis

from config.portal import policy
from inference.catalog import offers
from tests.factories import PASSWORD

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis")]

PAGES = ["/", "/api/docs", "/admin/login/", "/no/such/page"]
LOADS = {"script": "src", "img": "src", "link": "href", "iframe": "src"}


class Loaded(HTMLParser):
    """What a page makes a browser fetch or run."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.inline = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        address = given.get(LOADS.get(tag, ""))
        if address:
            self.addresses.append(address)
        self.inline += tag == "script" and not address
        self.inline += any(name.startswith("on") for name in given)


@pytest.fixture(autouse=True)
def _no_catalog() -> None:
    offers.forget()


@pytest.mark.parametrize("path", PAGES)
def test_pages_load_nothing_from_elsewhere_and_run_nothing_inline(
    client: Client, path: str
) -> None:
    loaded = Loaded(client.get(path).content.decode())
    assert loaded.addresses
    assert [each for each in loaded.addresses if not re.match(r"/[^/]", each)] == []
    assert loaded.inline == 0


@pytest.mark.parametrize("path", PAGES)
def test_pages_carry_their_policy(client: Client, path: str) -> None:
    headers = client.get(path).headers
    assert headers["Content-Security-Policy"] == policy(path)
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "same-origin"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "camera=()" in headers["Permissions-Policy"]


@pytest.mark.parametrize("path", [*PAGES, "/o/acme/", "/accounts/login/", "/admin/"])
def test_no_page_may_have_anything_inline_nor_make_scripts_of_text(path: str) -> None:
    assert "unsafe" not in policy(path)
    assert "data:" not in policy(path).replace("img-src 'self' data:", "")


LINK = "sHq2v-0aB9xQ2Lm_0123456789"
LETTERED = [
    f"/invitations/{LINK}",
    f"/invitations/{LINK}/",
    f"/accounts/password/reset/key/1-{LINK}/",
    f"/accounts/confirm-email/{LINK}/",
    f"/accounts/confirm-email/{LINK}",
]
"""Links in mails, and what becomes of them when a slash is added or left out."""


@pytest.mark.parametrize("path", LETTERED)
def test_what_lets_in_whoever_has_it_is_neither_logged_nor_sent_on(
    client: Client, path: str, log_lines: StringIO
) -> None:
    answer = client.get(path)
    assert LINK not in log_lines.getvalue()
    assert '"path"' in log_lines.getvalue() or "path=" in log_lines.getvalue()
    if answer["Content-Type"].startswith("text/html") and answer.status_code == 200:
        assert answer.headers["Referrer-Policy"] == "strict-origin"


def test_every_route_with_a_secret_in_it_is_a_page_in_whose_stead_its_route_is_logged() -> None:
    routes = [
        route for route in _routes(get_resolver()) if re.search(r"<(\w+:)?(token|key)>", route)
    ]
    assert {"invitations/<str:token>"} < set(routes)
    assert [each for each in routes if f"/{each}".startswith(settings.API_PATHS)] == []


def _routes(of: Any, before: str = "") -> Iterator[str]:
    for each in of.url_patterns:
        route = before + str(each.pattern)
        yield from _routes(each, route) if hasattr(each, "url_patterns") else [route]


def test_what_allows_nothing_runs_no_script() -> None:
    assert "script-src" not in policy("/")


def test_the_admins_colours_are_a_file_and_not_in_its_pages(client: Client) -> None:
    page = client.get("/admin/login/").content.decode()
    assert "<style" not in page
    assert 'href="/admin.css"' in page
    answer = client.get("/admin.css")
    assert answer["Content-Type"].startswith("text/css")
    said = answer.content.decode()
    assert "--color-primary-500: rgb(99, 102, 241);" in said
    assert "--color-base-950: oklch(" in said


def test_the_api_carries_no_page_policy(client: Client) -> None:
    headers = client.get("/v1/models").headers
    assert "Content-Security-Policy" not in headers
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_the_front_page_shows_how_to_call_and_that_nothing_serves(client: Client) -> None:
    page = client.get("/", headers={"host": "ai.example"}).content.decode()
    for part in (
        "http://ai.example/v1/chat/completions",
        'base_url="http://ai.example/v1"',
        "ws://ai.example/ws/v1/infer",
        "Not serving: no worker runs",
    ):
        assert part in page


def test_the_front_page_says_what_is_served(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def well() -> dict[str, Any]:
        return {"status": "ok", "workers": 2}

    monkeypatch.setattr("config.pages.parts", well)
    page = " ".join(client.get("/").content.decode().split())
    assert re.search(r"Serving \S+ on 2 workers", page)


def test_a_host_cannot_write_into_the_page(client: Client, redis: Redis) -> None:
    answer = client.get("/", headers={"host": 'a"><script>'})
    assert answer.status_code == 400


_OPEN = {
    f"/api/v1/{path}"
    for path in ("auth/token", "auth/refresh", "auth/logout", "keys/leaked", "certificates/keys")
}
"""Where nobody has a key to send yet, or nobody needs one."""


def test_the_documentation_lists_every_endpoint_with_its_form_and_the_key(client: Client) -> None:
    schema = client.get("/api/schema?format=json").json()
    assert set(schema["paths"]) >= {
        "/v1/chat/completions",
        "/v1/models",
        "/v1/models/{name}",
        "/api/v1/infer",
        "/api/v1/infer/stream",
        "/api/v1/model/info",
        "/api/v1/usage",
    }
    assert schema["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            if path not in _OPEN:
                assert operation["security"] == [{"key": []}]
            assert operation["tags"]
            refusal = operation["responses"]["401"]["content"]
            kind = "application/json" if path.startswith("/v1/") else "application/problem+json"
            assert list(refusal) == [kind]
            if method == "post" and "{" not in path:
                [(kind, content)] = operation["requestBody"]["content"].items()
                assert "$ref" in content["schema"] or kind == "multipart/form-data"
    for operation in ("/v1/chat/completions", "/api/v1/infer", "/api/v1/infer/stream"):
        asked = schema["paths"][operation]["post"]["requestBody"]["content"]
        assert asked["application/json"]["examples"]


def test_the_documentation_is_served_from_here(client: Client) -> None:
    page = client.get("/api/docs").content.decode()
    assert "drf_spectacular_sidecar/swagger-ui-dist/swagger-ui-bundle.js" in page
    script = client.get("/api/docs?script=")
    assert script["Content-Type"].startswith("application/javascript")
    assert b'url: "/api/schema"' in script.content.replace(b"\\u002D", b"-")


def test_no_two_forms_of_the_api_have_one_name() -> None:
    """In the schema the later one would take the other's place."""
    get_resolver().url_patterns  # noqa: B018  imports every endpoint
    forms = [form for form in _forms(BaseModel) if ".api." in form.__module__]
    names = [form.__name__ for form in forms if not form.__name__.startswith("_")]
    assert len(names) > 40
    assert [name for name, count in Counter(names).items() if count > 1] == []


def _forms(of: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for form in of.__subclasses__():
        yield form
        yield from _forms(form)


def test_pages_say_when_a_server_of_ours_does_not_answer(settings: Any, tmp_path: Path) -> None:
    settings.STATIC_ROOT = tmp_path
    client = Client(raise_request_exception=False)
    away = {**settings.CACHES["default"], "LOCATION": "redis://127.0.0.1:1/0"}
    settings.CACHES = {"default": away}
    page = client.post("/accounts/password/reset/", {"email": "ann@example.com"})
    assert (page.status_code, page["Retry-After"]) == (503, "1")
    assert "does not answer" in page.content.decode()
    assert page["X-Request-ID"]


def test_who_registers_hears_that_no_letter_went_out(settings: Any, tmp_path: Path) -> None:
    settings.STATIC_ROOT = tmp_path
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", 1
    client = Client(raise_request_exception=False)
    given = {"email": "ann@example.com", "password1": PASSWORD}
    page = client.post("/accounts/signup/", given)
    assert (page.status_code, page["Retry-After"]) == (503, "1")
    assert "no letter went out" in page.content.decode()
