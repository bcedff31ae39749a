"""A stranger becomes a customer, and an operator works, in a real browser, on the whole platform.

Skipped where no Chromium is on PATH; in CI that is a failure.
"""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import unfold
from playwright.sync_api import Browser, Page, expect, sync_playwright

from config.stack.apart import MODEL, Stack, wait_until
from tests.factories import PASSWORD

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ANN, BEN = "ann@example.com", "ben@example.com"

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(500),
    pytest.mark.skipif(
        CHROMIUM is None and os.environ.get("CI") != "true", reason="no Chromium is on PATH"
    ),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium, without a screen."""
    assert CHROMIUM is not None, "CI must have a Chromium"
    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
        quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=[*options, *quiet])


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A browser of one's own, which must meet no error: a script, a style, a policy."""
    page, errors = browser.new_context().new_page(), list[str]()
    page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    page.context.close()
    assert errors == []


def letter(stack: Stack, to: str, path: str) -> str:
    """The link that a letter to somebody has."""
    found: list[str] = []

    def arrived() -> bool:
        for file in (stack.var / "mail").glob("*"):
            text = file.read_text()
            if f"To: {to}" in text:
                found.extend(re.findall(rf"http\S+{path}\S+", text))
        return bool(found)

    wait_until(arrived, stack)
    return found[-1]


def test_a_stranger_becomes_a_customer_and_brings_another(
    stack: Stack, browser: Browser, page: Page
) -> None:
    page.goto(f"{stack.url}/accounts/signup/")
    page.fill("#id_email", ANN)
    page.fill("#id_password1", PASSWORD)
    page.click("main button")
    page.goto(letter(stack, ANN, "/accounts/confirm-email/"))
    page.click("text=Yes, it is mine")
    page.fill("#id_login", ANN)
    page.fill("#id_password", PASSWORD)
    page.get_by_role("main").get_by_role("button", name="Log in", exact=True).click()

    page.click("text=Make an organization")
    page.fill("#id_name", "Wood & Sons")
    page.fill("#id_slug", "wood")
    page.click("text=Make it")
    page.wait_for_url(f"{stack.url}/o/wood/", timeout=60_000)

    page.click("nav >> text=API keys")
    page.fill("#id_name", "laptop")
    page.click("text=Make the key")
    key = page.input_value("#secret")
    answer = httpx.post(
        f"{stack.url}/v1/chat/completions",
        headers={"Authorization": f"Bearer {key}"},
        json={
            "model": MODEL,
            "max_tokens": 5,
            "messages": [{"role": "user", "content": "What is AI?"}],
        },
        timeout=60,
    )
    assert answer.status_code == 200, answer.text
    page.click("nav >> text=Overview")
    expect(page.locator(".figures")).to_contain_text("Requests1")

    page.click("nav >> text=Members")
    page.fill("#id_email", BEN)
    page.get_by_role("button", name="Invite").click()
    guest = browser.new_context().new_page()
    guest.goto(letter(stack, BEN, "/invitations/"))
    guest.click("main >> text=Register")
    expect(guest.locator("#id_email")).to_have_value(BEN)
    guest.fill("#id_password1", PASSWORD)
    guest.click("main button")
    guest.click("main >> text=Accept")
    guest.wait_for_url(f"{stack.url}/o/wood/")
    page.reload()
    expect(page.locator("table").first).to_contain_text(BEN)
    guest.context.close()


OPERATOR = "operator@example.com"
READ_ALL = """
async (texts) => texts.flatMap((text) => {
    try { expressions.parse(text); return []; } catch (error) { return [`${text}: ${error}`]; }
})
"""


def written_in_attributes() -> list[str]:
    """What the theme's templates have Alpine evaluate, as it may look on a page."""
    found = set()
    for file in (Path(unfold.__file__).parent / "templates").rglob("*.html"):
        text = re.sub(r"{{.*?}}", "x", re.sub(r"{%.*?%}", "", file.read_text()))
        names = r"x-(?:data|init|show|if|text|model|bind|anchor|on|sort)[\w:.\-@]*"
        found |= set(re.findall(rf'\s{names}="([^"]*)"', text))
    return sorted(each for each in found if each.strip() not in {"", "x"})


_LISTENS = (
    "() => document.querySelector('#search-input-command')?.closest('[x-data]')?._x_dataStack"
)
"""Whether the page's scripts have begun to listen for keys."""


def test_an_operator_finds_their_way_in_pages_that_evaluate_no_text(
    stack: Stack, page: Page
) -> None:
    create = f"User.objects.create_superuser({OPERATOR!r}, {PASSWORD!r})"
    stack.manage("shell", "-c", f"from tenants.models import User; {create}")
    page.goto(f"{stack.url}/admin/")
    page.fill("#id_username", OPERATOR)
    page.fill("#id_password", PASSWORD)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url(f"{stack.url}/admin/")
    assert page.evaluate(READ_ALL, written_in_attributes()) == []

    theme = page.locator("html")
    page.keyboard.press("Control+e")
    was = theme.get_attribute("class")
    page.keyboard.press("Control+e")
    expect(theme).not_to_have_class(str(was))
    links = page.locator("#nav-sidebar-apps a").evaluate_all("all => all.map(each => each.href)")
    assert len(links) > 20
    for link in links:
        page.goto(link)
        expect(page.locator("#content")).to_be_visible()
    for form in ("tenants/organization", "tenants/apikey", "tenants/user", "billing/grant"):
        page.goto(f"{stack.url}/admin/{form}/add/")
        expect(page.locator("#content form").first).to_be_visible()

    page.goto(f"{stack.url}/admin/tenants/organization/")
    page.wait_for_function(_LISTENS)
    page.keyboard.press("Control+k")
    expect(page.locator("#search-input-command")).to_be_focused()
    page.keyboard.type("organiz")
    expect(page.locator("#command-results-list li").first).to_be_visible()
    page.keyboard.press("Escape")
    page.goto(f"{stack.url}/api/docs")
    expect(page.locator(".opblock").first).to_be_visible()
    page.locator(".opblock-summary-control").first.click()
    expect(page.locator(".opblock-body").first).to_be_visible()
