"""What must leave a mark in the audit log does: a table of kinds, and every page of the admin."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from allauth.account.models import EmailAddress
from allauth.mfa.totp.internal.auth import TOTP
from django.contrib import admin
from django.core.cache import cache
from django.test import Client, RequestFactory

from billing.admin_payments import GrantAdmin, RefundAdmin
from billing.admin_plans import SubscriptionAdmin
from billing.models import Account
from tenants import audit, failures, keys, logins, organizations, single_sign_on
from tenants.accounts import addresses
from tenants.admin_audit import Audited
from tenants.auth import Caller
from tenants.logins import WrongPassword
from tenants.members import give_role, limit, pass_ownership, remove
from tenants.models import (
    ApiKey,
    AuditEntry,
    Door,
    Membership,
    Organization,
    Plan,
    Retention,
    Role,
    User,
)
from tenants.tokens import NotLoggedIn
from tenants.webhooks import hooks
from tenants.webhooks.events import Kind as Happening
from tenants.webhooks.models import Webhook
from tests import factories
from tests.factories import PASSWORD
from tests.tenants.test_accounts import ANN, SECRET, code, log_in
from tests.tenants.test_logins import NOW

ALICE, OPERATOR = "alice@example.com", "op@example.com"
NEW = "ann@new.example"
HERE, ELSEWHERE = "https://acme.example/told", "https://mallory.example/told"
HOOK = {"url": HERE, "kinds": ["batch.finished", "key.leaked"], "enabled": True}

pytestmark = [pytest.mark.usefixtures("redis"), pytest.mark.django_db]


@dataclass
class World:
    """Acme of alice's, with ann in it, a key, a browser of ann's and one of an operator's."""

    acme: Organization
    alice: User
    ann: User
    key: ApiKey
    browser: Client
    operator: Client

    @property
    def owner(self) -> Caller:
        return factories.caller(organization=self.acme.pk, user=self.alice.pk, role=Role.OWNER)

    @property
    def by(self) -> audit.Actor:
        return audit.person(self.alice)


@pytest.fixture
def world(alice: User, acme: Organization, settings: Any, tmp_path: Path) -> World:
    settings.STATIC_ROOT = tmp_path
    cache.clear()
    ann = factories.user("ann", password=PASSWORD)
    addresses.confirm(ann)
    factories.member(ann, acme, Role.DEVELOPER)
    factories.account(acme)
    operator = Client()
    operator.force_login(User.objects.create_superuser(OPERATOR))
    return World(acme, alice, ann, factories.api_key(acme)[0], Client(), operator)


def _api(world: World, password: str = PASSWORD, code: str = "") -> None:
    logins.begin(email=ANN, password=password, code=code, now=NOW)


def _api_fails(world: World) -> None:
    with pytest.raises(WrongPassword):
        _api(world, "wrong")
    _tell()


def _tell() -> None:
    """What the task does that was sent; the test has no worker."""
    entry = AuditEntry.objects.across_organizations().filter(chain=0).latest("id")
    failures.tell(
        email=ANN,
        door=str(entry.after["door"]),
        at=entry.at.isoformat(),
        address=entry.address,
        agent=entry.agent,
    )


def _portal_fails(world: World) -> None:
    log_in(world.browser, password="wrong")
    _tell()


def _factor_fails(world: World) -> None:
    TOTP.activate(world.ann, SECRET)
    log_in(world.browser)
    world.browser.post("/accounts/2fa/authenticate/", {"code": "000000"})


def _factor_fails_at_the_api(world: World) -> None:
    TOTP.activate(world.ann, SECRET)
    with pytest.raises(NotLoggedIn):
        _api(world, code="000000")


def _with_the_factor(world: World) -> None:
    TOTP.activate(world.ann, SECRET)
    _api(world, code=code())


def _log_out(world: World) -> None:
    log_in(world.browser)
    world.browser.post("/accounts/logout/")


def _log_out_of_the_api(world: World) -> None:
    pair = logins.begin(email=ANN, password=PASSWORD, now=NOW)
    logins.end(pair.refresh, now=NOW)


def _password(world: World) -> None:
    log_in(world.browser)
    new = {"password1": "another staple", "password2": "another staple"}
    world.browser.post("/accounts/password/change/", {"oldpassword": PASSWORD, **new})


def _factor_set(world: World) -> None:
    log_in(world.browser)
    world.browser.post("/accounts/reauthenticate/", {"password": PASSWORD})
    world.browser.get("/accounts/2fa/totp/activate/")
    secret = world.browser.session["mfa.totp.secret"]
    world.browser.post("/accounts/2fa/totp/activate/", {"code": code(secret)})


def _factor_given_up(world: World) -> None:
    log_in(world.browser)
    TOTP.activate(world.ann, SECRET)
    world.browser.post("/accounts/reauthenticate/", {"password": PASSWORD})
    world.browser.post("/accounts/2fa/totp/deactivate/")


def _address(world: World) -> None:
    EmailAddress.objects.create(user=world.ann, email=NEW, verified=True)
    log_in(world.browser)
    form = {"email": NEW, "action_primary": "1"}
    world.browser.post("/accounts/email/", form)


def _as_ann(world: World) -> None:
    form = {"action": "log_in_as", "_selected_action": [world.ann.pk]}
    world.operator.post("/admin/tenants/user/", form)


def _changed(world: World, **fields: Any) -> None:
    """Acme's page in the admin, sent with these fields."""
    form = {"plan": "", "name": "Acme", "priority": 1, "retention": "answers"}
    form |= dict.fromkeys(("requests_per_minute", "tokens_per_minute", "concurrent_requests"), 0)
    form |= {"kept_days": 30, "suspended_at_0": "", "suspended_at_1": "", "suspended_reason": ""}
    for rows in ("memberships", "model_limits"):
        form |= {f"{rows}-TOTAL_FORMS": 0, f"{rows}-INITIAL_FORMS": 0}
    form |= fields
    world.operator.post(f"/admin/tenants/organization/{world.acme.pk}/change/", form)


def _plan(world: World) -> None:
    plan = Plan.objects.create(name="Small", requests_per_minute=7)
    _changed(world, plan=plan.pk)


def _credit(world: World) -> None:
    account = Account.objects.get(organization=world.acme)
    world.operator.post(f"/admin/billing/account/{account.pk}/change/", {"credit_limit": "2.5"})


def _role(world: World) -> None:
    give_role(world.owner, world.by, user=world.ann.pk, role=Role.VIEWER, now=NOW)


def _limits(world: World) -> None:
    limits = {"requests_per_minute": 5}
    limit(world.owner, world.by, user=world.ann.pk, limits=limits, now=NOW)


def _removal(world: World) -> None:
    remove(world.owner, world.by, user=world.ann.pk, now=NOW)


def _ownership(world: World) -> None:
    pass_ownership(world.owner, world.by, giver=world.alice.pk, taker=world.ann.pk, now=NOW)


def _sso(world: World) -> None:
    single_sign_on.set_up(
        world.acme,
        issuer="https://id.example",
        client_id="x",
        client_secret="y",
        role=Role.VIEWER,
        now=NOW,
        by=world.by,
    )


def _two_factors(world: World) -> None:
    organizations.require_two_factors(world.acme, required=True, is_set=True, now=NOW, by=world.by)


def _hook(world: World) -> Webhook:
    kinds = [Happening.KEY_LEAKED, Happening.BATCH_FINISHED]
    return hooks.make(world.acme.pk, url=HERE, kinds=kinds, by=world.by, now=NOW)[0]


def _redirected(world: World) -> None:
    made = _hook(world)
    for _ in range(2):
        fields = {"url": ELSEWHERE, "enabled": True}
        hooks.change(world.acme.pk, made.pk, fields, by=world.by, now=NOW)


def _hook_removed(world: World) -> None:
    hooks.remove(world.acme.pk, _hook(world).pk, by=world.by, now=NOW)


def _hook_rotated(world: World) -> None:
    hooks.rotate(world.acme.pk, _hook(world).pk, by=world.by, now=NOW)


@dataclass(frozen=True)
class Kind:
    """What is done, its action, what is told of before and after, and by whom."""

    do: Callable[[World], Any]
    action: str
    before: Any
    after: Any
    by: str
    marks: int = 1


KINDS = (
    Kind(_api, "user.logged_in", {}, {"door": "api"}, ANN),
    Kind(_with_the_factor, "user.logged_in", {}, {"door": "api"}, ANN),
    Kind(lambda w: log_in(w.browser), "user.logged_in", {}, {"door": "portal"}, ANN),
    Kind(_api_fails, "user.login_failed", {}, {"email": ANN, "door": "api"}, ANN),
    Kind(_portal_fails, "user.login_failed", {}, {"email": ANN, "door": "portal"}, ANN),
    Kind(_factor_fails, "user.second_factor_failed", {}, {"door": "portal"}, ANN),
    Kind(_factor_fails_at_the_api, "user.second_factor_failed", {}, {"door": "api"}, ANN),
    Kind(_log_out, "user.logged_out", {"door": "portal"}, {}, ANN),
    Kind(_log_out_of_the_api, "user.logged_out", {"door": "api"}, {}, ANN),
    Kind(_password, "user.password_changed", {"set": True}, {"set": True}, ANN),
    Kind(_factor_set, "user.second_factor_added", {}, {"kind": "TOTP Authenticator"}, ANN, 2),
    Kind(_factor_given_up, "user.second_factor_removed", {"kind": "TOTP Authenticator"}, {}, ANN),
    Kind(
        _address,
        "user.address_changed",
        {"email": ANN},
        {"email": NEW},
        NEW,
    ),
    Kind(_as_ann, "operator.logged_in_as", {}, ..., OPERATOR),
    Kind(_role, "membership.changed", {"role": "developer"}, {"role": "viewer"}, ALICE),
    Kind(_limits, "membership.limited", {"requests_per_minute": 0}, ..., ALICE),
    Kind(_removal, "membership.removed", ..., {}, ALICE),
    Kind(_ownership, "membership.changed", ..., ..., ALICE, marks=2),
    Kind(
        lambda w: keys.revoke(w.key, now=NOW, by=w.by),
        "key.revoked",
        {"revoked_at": None},
        ...,
        ALICE,
    ),
    Kind(_plan, "organization.changed", {"plan_id": None}, ..., OPERATOR),
    Kind(_credit, "account.changed", {"credit_limit": 10**12}, ..., OPERATOR),
    Kind(_sso, "single_sign_on.set_up", ..., ..., ALICE),
    Kind(
        _two_factors,
        "organization.two_factors",
        {"two_factors_required": False},
        {"two_factors_required": True},
        ALICE,
    ),
    Kind(
        lambda w: organizations.keep(w.acme, Retention.NOTHING, days=30, now=NOW, by=w.by),
        "organization.retention",
        {"retention": "answers"},
        {"retention": "nothing"},
        ALICE,
    ),
    Kind(
        lambda w: organizations.forget_answers(w.acme, model="echo", now=NOW, by=w.by),
        "organization.cache_emptied",
        {},
        {"model": "echo"},
        ALICE,
    ),
    Kind(
        lambda w: _changed(w, retention="nothing"), "organization.cache_emptied", {}, {}, OPERATOR
    ),
    Kind(
        lambda w: organizations.forget_answer(w.acme, entry="echo:1", now=NOW, by=w.by),
        "organization.answer_forgotten",
        {},
        {"key": "echo:1"},
        ALICE,
    ),
    Kind(
        lambda w: organizations.suspend(w.acme, now=NOW, reason="unpaid", by=w.by),
        "organization.suspended",
        ...,
        ...,
        ALICE,
    ),
    Kind(_hook, "webhook.made", {}, HOOK, ALICE),
    Kind(_redirected, "webhook.changed", {"url": HERE}, {"url": ELSEWHERE}, ALICE),
    Kind(_hook_rotated, "webhook.rotated", {}, ..., ALICE),
    Kind(_hook_removed, "webhook.removed", HOOK, {}, ALICE),
    Kind(
        lambda w: organizations.rename(w.acme, name="Acme 2", now=NOW, by=w.by),
        "organization.renamed",
        {"name": "Acme"},
        {"name": "Acme 2"},
        ALICE,
    ),
)
OF_PERSONS = ("user.", "operator.")


BY_DOMAIN = (GrantAdmin, RefundAdmin, SubscriptionAdmin)
COMMITTED = {_factor_set}
"""What is told on commit."""


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(each, marks=pytest.mark.django_db(transaction=each.do in COMMITTED))
        for each in KINDS
    ],
    ids=lambda kind: f"{kind.action} {kind.after}"[:60],
)
def test_a_change_is_one_entry_that_says_what_was_and_is(kind: Kind, world: World) -> None:
    kind.do(world)
    rows = AuditEntry.objects.across_organizations().filter(action=kind.action)
    found = list(rows.filter(chain=world.acme.pk).order_by("id"))
    assert len(found) == kind.marks
    entry = found[0]
    assert entry.before == kind.before if kind.before is not ... else entry.before
    assert entry.after == kind.after if kind.after is not ... else entry.after
    assert entry.actor_name == kind.by
    assert json.dumps([entry.before, entry.after]).find(PASSWORD) == -1
    if kind.action.startswith(OF_PERSONS):
        assert rows.filter(chain=0, before=entry.before, after=entry.after).count() == 1


def test_a_failure_is_told_once_however_often_the_task_comes(world: World) -> None:
    _api_fails(world)
    _tell()
    rows = AuditEntry.objects.for_org(world.acme).filter(action="user.login_failed")
    assert rows.count() == 1
    assert (
        failures.tell(email="x@y.example", door=Door.API, at=NOW.isoformat(), address="", agent="")
        == 0
    )


def test_an_operators_log_in_is_told_to_the_platform_as_such(world: World) -> None:
    world.ann.is_staff = True
    world.ann.save()
    _api(world)
    actions = AuditEntry.objects.across_organizations().filter(action__endswith="logged_in")
    assert [(each.chain != 0, each.action) for each in actions.order_by("chain")] == [
        (False, "operator.logged_in"),
        (True, "user.logged_in"),
    ]


def test_what_operators_can_change_in_the_admin_is_recorded(world: World) -> None:
    """Or done by the domain, which records it."""
    request = RequestFactory().get("/admin/")
    request.user = User.objects.get(email=OPERATOR)
    for page in admin.site._registry.values():
        may = (
            page.has_add_permission(request)
            or page.has_change_permission(request)
            or page.has_delete_permission(request)
        )
        assert isinstance(page, (Audited, *BY_DOMAIN)) or not may, type(page).__name__


def test_memberships_are_everybodys_in_the_table(world: World) -> None:
    """Ann belongs to two: each organization hears of her."""
    other = factories.organization("globex")
    Membership.objects.create(user=world.ann, organization=other, role=Role.VIEWER)
    _api(world)
    rows = AuditEntry.objects.across_organizations().filter(action="user.logged_in")
    assert {each.chain for each in rows} == {0, world.acme.pk, other.pk}
