"""The table of permissions, row by row, and its page."""

import pytest
from django.conf import settings

from tenants import roles
from tenants.auth import Forbidden, NotYourRole
from tenants.models import Role, Scope
from tenants.roles import Action
from tests import factories

MAY = {
    Action.RUN_MODELS: "owner admin developer",
    Action.READ_USAGE: "owner admin developer billing viewer",
    Action.MANAGE_BILLING: "owner admin billing",
    Action.READ_KEYS: "owner admin developer",
    Action.MAKE_KEYS: "owner admin developer",
    Action.MANAGE_KEYS: "owner admin",
    Action.READ_AUDIT: "owner admin",
    Action.READ_MEMBERS: "owner admin developer billing viewer",
    Action.MANAGE_MEMBERS: "owner admin",
    Action.INVITE: "owner admin",
    Action.MANAGE_OWNERS: "owner",
    Action.READ_PRIVACY: "owner admin developer billing viewer",
    Action.MANAGE_PRIVACY: "owner admin",
    Action.SET_UP_LOG_IN: "owner",
    Action.MANAGE_CACHE: "owner admin developer",
    Action.MANAGE_WEBHOOKS: "owner admin developer",
    Action.RENAME: "owner admin",
    Action.DELETE: "owner",
}


@pytest.mark.parametrize("action", Action)
@pytest.mark.parametrize("role", Role)
def test_a_role_may_what_the_table_says(role: Role, action: Action) -> None:
    caller = factories.caller(user=7, role=role, scopes=roles.scopes_of(role))
    allowed = role.value in MAY[action].split()
    assert caller.may(action) is allowed
    if not allowed:
        with pytest.raises(NotYourRole, match=f"{role.value}, may not"):
            caller.allow(action)


@pytest.mark.parametrize("action", Action)
@pytest.mark.parametrize("scope", Scope)
def test_a_key_may_what_its_scope_says(scope: Scope, action: Action) -> None:
    caller = factories.caller(scopes=frozenset({scope.value}))
    allowed = roles.SCOPES.get(action) is scope
    assert caller.may(action) is allowed
    if not allowed:
        with pytest.raises(Forbidden):
            caller.allow(action)


@pytest.mark.parametrize(
    ("role", "scopes"),
    [
        (Role.OWNER, {"inference", "usage", "keys", "audit"}),
        (Role.DEVELOPER, {"inference", "usage"}),
        (Role.VIEWER, {"usage"}),
    ],
)
def test_a_role_gives_no_scope_of_which_it_lacks_an_action(role: Role, scopes: set[str]) -> None:
    assert roles.scopes_of(role) == scopes


def test_the_page_is_the_table() -> None:
    page = settings.BASE_DIR / "docs" / "roles.md"
    assert page.read_text() == roles.page(), "run: manage.py print_roles > docs/roles.md"
