"""Who may do what: the one table of permissions. `docs/roles.md` is printed from it.

A person acts by the role of their membership, a program by the scopes of its API key.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum

from tenants.models import Role, Scope

OWNER, ADMIN, DEVELOPER, BILLING, VIEWER = Role


class Action(StrEnum):
    """What can be done in an organization."""

    RUN_MODELS = "run models"
    READ_USAGE = "read usage"
    MANAGE_BILLING = "pay: save cards, set budgets, change the plan"
    READ_KEYS = "read API keys"
    MAKE_KEYS = "make API keys, and change and revoke one's own"
    MANAGE_KEYS = "change and revoke everyone's API keys"
    READ_AUDIT = "read and export the audit log"
    READ_MEMBERS = "see who belongs to it, and leave it"
    MANAGE_MEMBERS = "give roles and remove members, owners excepted"
    INVITE = "invite people, and withdraw invitations"
    MANAGE_OWNERS = "give and take ownership"
    READ_PRIVACY = "see what is kept of prompts and answers"
    MANAGE_PRIVACY = "choose what is kept, and take everything away as an export"
    SET_UP_LOG_IN = "set up single sign-on, and require second factors"
    MANAGE_CACHE = "choose whether answers are cached, and empty the cache"
    MANAGE_WEBHOOKS = "set up webhooks, and see and repeat what they were told"
    RENAME = "rename the organization"
    DELETE = "delete the organization, and restore it"


ROLES: Mapping[Action, frozenset[Role]] = {
    Action.RUN_MODELS: frozenset({OWNER, ADMIN, DEVELOPER}),
    Action.READ_USAGE: frozenset(Role),
    Action.MANAGE_BILLING: frozenset({OWNER, ADMIN, BILLING}),
    Action.READ_KEYS: frozenset({OWNER, ADMIN, DEVELOPER}),
    Action.MAKE_KEYS: frozenset({OWNER, ADMIN, DEVELOPER}),
    Action.MANAGE_KEYS: frozenset({OWNER, ADMIN}),
    Action.READ_AUDIT: frozenset({OWNER, ADMIN}),
    Action.READ_MEMBERS: frozenset(Role),
    Action.MANAGE_MEMBERS: frozenset({OWNER, ADMIN}),
    Action.INVITE: frozenset({OWNER, ADMIN}),
    Action.MANAGE_OWNERS: frozenset({OWNER}),
    Action.READ_PRIVACY: frozenset(Role),
    Action.MANAGE_PRIVACY: frozenset({OWNER, ADMIN}),
    Action.SET_UP_LOG_IN: frozenset({OWNER}),
    Action.MANAGE_CACHE: frozenset({OWNER, ADMIN, DEVELOPER}),
    Action.MANAGE_WEBHOOKS: frozenset({OWNER, ADMIN, DEVELOPER}),
    Action.RENAME: frozenset({OWNER, ADMIN}),
    Action.DELETE: frozenset({OWNER}),
}
SCOPES: Mapping[Action, Scope] = {
    Action.RUN_MODELS: Scope.INFERENCE,
    Action.MANAGE_CACHE: Scope.INFERENCE,
    Action.READ_USAGE: Scope.USAGE,
    Action.READ_KEYS: Scope.KEYS,
    Action.MAKE_KEYS: Scope.KEYS,
    Action.MANAGE_KEYS: Scope.KEYS,
    Action.READ_AUDIT: Scope.AUDIT,
}
"""What a key needs for an action; an action that is not here is for people alone."""


def role_may(role: Role, action: Action) -> bool:
    """Whether a member of this role may."""
    return role in ROLES[action]


def scopes_may(scopes: Iterable[str], action: Action) -> bool:
    """Whether a key of these scopes may."""
    return action in SCOPES and SCOPES[action] in scopes


def scopes_of(role: Role) -> frozenset[str]:
    """The scopes all of whose actions the role may do: what its members may give to a key."""
    return frozenset(
        scope.value
        for scope in Scope
        if all(role_may(role, action) for action, needs in SCOPES.items() if needs is scope)
    )


def actions_of(role: Role) -> list[Action]:
    """What a member of this role may do, in the table's order."""
    return [action for action in Action if role_may(role, action)]


def page() -> str:
    """The table as a page of Markdown."""
    head = ["what", *(role.value for role in Role), "scope of a key"]
    lines = [_line(head), _line("---" for _ in head)]
    for action in Action:
        marks = ["yes" if role_may(role, action) else "" for role in Role]
        scope = f"`{SCOPES[action].value}`" if action in SCOPES else "people only"
        lines.append(_line([action.value, *marks, scope]))
    return _PAGE.format(table="\n".join(lines))


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


_PAGE = """\
# Roles

Printed by `manage.py print_roles` from the table in `tenants/roles.py`, by which every endpoint
decides; a test compares the two.

A person has one role in each organization they belong to. A program has the scopes of its API key.
Whoever makes a key can give it no more than they have themselves: a person the scopes whose every
action their role allows, a key its own scopes, models, networks, limits and time.

{table}

Operators are Django staff: they act in the admin by Django's own permissions, across organizations,
and each of their changes and log-ins is in the audit log.
"""
