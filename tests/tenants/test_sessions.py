"""People see and end their log-ins; organizations may want two factors; operators look."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from allauth.mfa.totp.internal.auth import TOTP
from django.contrib.sessions.models import Session
from django.core.cache import cache
from django.test import Client
from django.utils import timezone

from tenants import audit, logins, organizations, tasks
from tenants.accounts import addresses, factors
from tenants.auth import TwoFactorsRequired
from tenants.devices import device
from tenants.logins import NoSuchLogIn
from tenants.models import AuditEntry, Door, LogIn, Organization, Role, User
from tenants.tokens import NotLoggedIn
from tests import factories
from tests.tenants.test_accounts import ANN, SECRET, code, log_in
from tests.tenants.test_logins import NOW, call, caller_of

FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:146.0) Gecko/20100101 Firefox/146.0"

pytestmark = [pytest.mark.usefixtures("redis"), pytest.mark.django_db]


@pytest.fixture(autouse=True)
def _afresh(settings: Any, tmp_path: Path) -> None:
    settings.STATIC_ROOT = tmp_path
    cache.clear()


@pytest.fixture
def ann(acme: Organization) -> User:
    """A developer of acme's, with a password."""
    ann = factories.user("ann", password=factories.PASSWORD)
    addresses.confirm(ann)
    factories.member(ann, acme, Role.DEVELOPER)
    return ann


def entries(of: Organization) -> list[AuditEntry]:
    return list(AuditEntry.objects.for_org(of).order_by("id"))


def test_a_person_sees_where_they_are_logged_in_and_ends_it(ann: User, acme: Organization) -> None:
    here, there = Client(headers={"user-agent": FIREFOX}), Client()
    log_in(here)
    log_in(there)
    pair = logins.begin(email=ANN, password=factories.PASSWORD, now=NOW)
    page = here.get("/accounts/sessions/").content.decode()
    assert "Firefox on Linux" in page
    assert page.count("Log out</button>") == 2 + 1, "not of this one; and the one in the head"
    elsewhere = LogIn.objects.get(user=ann, door=Door.API)
    here.post("/accounts/sessions/", {"end": str(elsewhere.pk)})
    with pytest.raises(NotLoggedIn):
        logins.renew(pair.refresh, now=NOW)
    assert there.get("/o/").status_code == 200
    here.post("/accounts/sessions/", {"end": "others"})
    assert there.get("/o/").status_code == 302
    assert here.get("/o/").status_code == 200
    ended = [each for each in entries(acme) if each.action == "user.log_in_ended"]
    assert [each.before["door"] for each in ended] == ["api", "portal"]


def test_of_many_log_ins_those_not_seen_for_long_give_way(
    ann: User, acme: Organization, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logins, "MOST_OPEN", 2)
    first = Client()
    log_in(first)
    pairs = [
        logins.begin(email=ANN, password=factories.PASSWORD, now=datetime.now(UTC))
        for _ in range(2)
    ]
    assert first.get("/o/").status_code == 302
    assert all(logins.renew(pair.refresh, now=datetime.now(UTC)) for pair in pairs)
    ended = [each for each in entries(acme) if each.action == "user.log_in_ended"]
    assert [each.before["door"] for each in ended] == ["portal"]


def test_a_new_password_ends_the_other_browsers(ann: User) -> None:
    here, there = Client(), Client()
    log_in(here)
    log_in(there)
    new = {"oldpassword": factories.PASSWORD, "password1": "another staple"}
    here.post("/accounts/password/change/", {**new, "password2": "another staple"})
    assert here.get("/o/").status_code == 200
    assert there.get("/o/").status_code == 302


def test_who_logs_out_is_no_longer_listed(ann: User) -> None:
    client = Client()
    log_in(client)
    client.post("/accounts/logout/")
    assert logins.open_of(ann, now=NOW + timedelta(minutes=1)) == []


def test_what_is_over_is_forgotten_and_what_is_open_stays(ann: User) -> None:
    open_, ended = (logins.begin(email=ANN, password=factories.PASSWORD, now=NOW) for _ in "ab")
    logins.end(ended.refresh, now=NOW)
    browser = logins.begin_session(ann, door=Door.PORTAL, now=NOW - timedelta(days=30))
    assert logins.see(str(browser), now=NOW), "used, so that its cookie may be new"
    day, fortnight = timedelta(days=1), timedelta(days=14)
    assert logins.purge(now=NOW + day - timedelta(seconds=1)) == 0
    assert logins.purge(now=NOW + day) == 1
    pair = logins.renew(open_.refresh, now=NOW + fortnight)
    assert logins.purge(now=NOW + fortnight + day) == 1, "the browser's"
    assert logins.renew(pair.refresh, now=NOW + 2 * fortnight)
    assert LogIn.objects.filter(user=ann).count() == 1


def test_expired_sessions_are_forgotten_at_night(ann: User) -> None:
    browsers = [Client(), Client()]
    for browser in browsers:
        log_in(browser)
    old = Session.objects.filter(pk=browsers[0].cookies["sessionid"].value)
    assert old.update(expire_date=timezone.now() - timedelta(seconds=1)) == 1
    tasks.purge_log_ins()
    assert [each.pk for each in Session.objects.all()] == [browsers[1].cookies["sessionid"].value]


def test_nobody_ends_anothers(ann: User) -> None:
    dan = factories.user("dan")
    log_in(Client())
    [login] = logins.open_of(ann, now=NOW)
    with pytest.raises(NoSuchLogIn):
        logins.end_one(dan, str(login.pk), now=NOW, by=audit.person(dan))


@pytest.mark.parametrize(
    ("agent", "name"),
    [
        (FIREFOX, "Firefox on Linux"),
        ("curl/8.14.1", "curl/8.14.1"),
        ("", "unknown"),
        (
            "Mozilla/5.0 (iPhone; CPU iPhone OS 19_0) Safari/604.1",
            "Safari on an iPhone",
        ),
        ("x" * 500, "x" * 40),
    ],
)
def test_a_device_is_told_by_its_name(agent: str, name: str) -> None:
    assert device(agent) == name


@pytest.mark.django_db(transaction=True)
def test_over_rest_too(ann: User) -> None:
    pairs = [logins.begin(email=ANN, password=factories.PASSWORD, now=NOW) for _ in range(3)]
    headers = {"Authorization": f"Bearer {pairs[0].access}"}
    _, listed = call("GET", "auth/sessions", **headers)
    [mine] = [each for each in listed["data"] if each["current"]]
    others = [each["id"] for each in listed["data"] if not each["current"]]
    assert len(others) == 2
    assert call("DELETE", f"auth/sessions/{others[0]}", **headers)[0] == 204
    assert call("DELETE", f"auth/sessions/{others[0]}", **headers)[0] == 404
    assert call("DELETE", "auth/sessions", **headers) == (200, {"ended": 1})
    _, left = call("GET", "auth/sessions", **headers)
    assert [each["id"] for each in left["data"]] == [mine["id"]]


def require(of: Organization, required: bool = True) -> None:
    by = audit.person(of.memberships.across_organizations().first().user)  # type: ignore[union-attr]
    organizations.require_two_factors(of, required=required, is_set=True, now=NOW, by=by)


@pytest.mark.django_db(transaction=True)
def test_an_organization_that_wants_two_factors_lets_nobody_in_by_one(
    ann: User, acme: Organization
) -> None:
    client = Client()
    log_in(client)
    require(acme)
    refused = client.get("/o/acme/")
    assert refused.status_code == 403
    assert b'href="/accounts/2fa/"' in refused.content
    one = logins.begin(email=ANN, password=factories.PASSWORD, now=NOW)
    with pytest.raises(TwoFactorsRequired, match="/accounts/2fa/"):
        caller_of(one.access)
    TOTP.activate(ann, SECRET)
    assert client.get("/o/acme/").status_code == 200
    with pytest.raises(TwoFactorsRequired):
        caller_of(one.access)  # That log-in has still shown a password alone.
    two = logins.begin(email=ANN, password=factories.PASSWORD, code=code(), now=NOW)
    assert caller_of(two.access).role is Role.DEVELOPER
    require(acme, False)
    assert caller_of(one.access).role is Role.DEVELOPER


def test_who_wants_two_factors_has_them(alice: User, acme: Organization, client: Client) -> None:
    client.force_login(alice)
    client.post("/o/acme/settings/two-factors", {"required": "1"})
    acme.refresh_from_db()
    assert not acme.two_factors_required, "alice would shut herself out"
    TOTP.activate(alice, SECRET)
    client.post("/o/acme/settings/two-factors", {"required": "1"})
    acme.refresh_from_db()
    assert acme.two_factors_required
    assert entries(acme)[-1].action == "organization.two_factors"


def test_who_gives_the_last_factor_up_is_out_where_it_was_shown(ann: User) -> None:
    client = Client()
    log_in(client)
    TOTP.activate(ann, SECRET)
    pair = logins.begin(email=ANN, password=factories.PASSWORD, code=code(), now=NOW)
    client.post("/accounts/reauthenticate/", {"password": factories.PASSWORD})
    client.post("/accounts/2fa/totp/deactivate/")
    assert not factors.are_set(ann)
    with pytest.raises(NotLoggedIn):
        logins.renew(pair.refresh, now=NOW)


@pytest.fixture
def operator(client: Client) -> Client:
    client.force_login(User.objects.create_superuser("op@example.com"))
    return client


def log_in_as(operator: Client, *people: User) -> Any:
    chosen = [each.pk for each in people]
    form = {"action": "log_in_as", "_selected_action": chosen}
    return operator.post("/admin/tenants/user/", form)


def test_an_operator_looks_as_a_person_does_and_changes_nothing(
    operator: Client, ann: User, acme: Organization
) -> None:
    assert log_in_as(operator, ann)["Location"] == "/o/"
    page = operator.get("/o/acme/keys")
    assert b"as ann@example.com does" in page.content
    assert operator.post("/o/acme/keys", {"name": "x"}).status_code == 403
    assert operator.get("/o/acme/settings").status_code == 200
    assert operator.get("/admin/").status_code == 200, "themselves there"
    operator.post("/accounts/acting/stop/")
    assert operator.get("/o/acme/keys").status_code == 404
    began, stopped = entries(acme)[-2:]
    assert (began.action, began.target) == ("operator.logged_in_as", f"user:{ann.pk}")
    assert (began.actor_name, stopped.action) == ("op@example.com", "operator.stopped_acting")


def test_looking_ends_by_itself(operator: Client, ann: User, acme: Organization) -> None:
    log_in_as(operator, ann)
    session = operator.session
    session["acting_as"] = {**session["acting_as"], "until": 0}
    session.save()
    for _ in range(2):
        assert operator.get("/o/acme/").status_code == 404
    began, ended = entries(acme)[-2:]
    assert (began.action, ended.action) == ("operator.logged_in_as", "operator.stopped_acting")
    assert (ended.actor_name, ended.after) == ("op@example.com", {"because": "its hour was over"})


def test_looking_ends_with_the_operators_log_in_and_where_another_begins(
    operator: Client, ann: User, acme: Organization
) -> None:
    for _ in range(2):
        log_in_as(operator, ann)
    operator.post("/accounts/logout/")
    told = [each.action.removeprefix("operator.") for each in entries(acme)]
    assert told == ["logged_in_as", "stopped_acting"] * 2


def test_operators_cannot_look_as_operators_nor_without_the_permission(
    operator: Client, ann: User
) -> None:
    boss = factories.user("boss", is_staff=True)
    log_in_as(operator, boss)
    log_in_as(operator, ann, factories.user("dan"))
    assert "acting_as" not in operator.session
    clerk = Client()
    clerk.force_login(boss)
    log_in_as(clerk, ann)
    assert "acting_as" not in clerk.session


def test_whose_right_is_taken_looks_no_more(
    operator: Client, ann: User, acme: Organization
) -> None:
    log_in_as(operator, ann)
    User.objects.filter(email="op@example.com").update(is_superuser=False)
    assert operator.get("/o/acme/").status_code == 404
    assert entries(acme)[-1].after == {"because": "the right was taken"}


def test_a_browser_is_seen_without_a_write_a_page(ann: User) -> None:
    client = Client()
    log_in(client)
    LogIn.objects.update(refreshed_at=NOW - timedelta(hours=1))
    client.get("/o/", headers={"user-agent": FIREFOX})
    login = LogIn.objects.get()
    assert (NOW - login.refreshed_at).total_seconds() < 60
    assert login.agent == FIREFOX
    client.get("/o/", headers={"user-agent": "other"})
    assert LogIn.objects.get().agent == FIREFOX
