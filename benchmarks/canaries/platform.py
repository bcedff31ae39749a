"""The drill's organizations on a platform that runs."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import track

from config.stack.apart import Stack

PASSWORD = "correct horse battery staple"  # noqa: S105  of people who live a minute
_KEEPS = (
    {"retention": "texts", "caching": "exact", "texts_searchable": True},
    {"retention": "answers", "caching": "exact"},
    {"retention": "texts"},
    {"retention": "nothing"},
)
"""What organizations keep of what they say, in turn."""
_MAKE = """
import json
from billing.models import Account
from tenants import keys
from tenants.models import Membership, Organization, Role, Scope, User
made = {}
for slug, (canary, fields) in json.loads(%r).items():
    row = Organization.objects.create(slug=slug, name=canary, **fields)
    Account.objects.create(organization=row, currency='EUR', credit_limit=10**15)
    owner = User.objects.create_user(f'{canary}@example.com', %r)
    Membership.objects.create(user=owner, organization=row, role=Role.OWNER)
    _, text = keys.mint(organization=row, name=canary, scopes=list(Scope))
    made[slug] = [row.pk, row.schema_name, text]
print('MADE' + json.dumps(made))
"""


@dataclass(frozen=True, slots=True)
class Tenant:
    """An organization, its canary, and its ways in."""

    slug: str
    canary: str
    pk: int
    schema: str
    key: str


def make(stack: Stack, count: int, console: Console) -> list[Tenant]:
    """The organizations, each with an owner, a key and credit, named by its canary."""
    wanted: dict[str, tuple[str, Mapping[str, Any]]] = {
        f"drill-{number}": (f"canary-{os.urandom(6).hex()}", _KEEPS[number % len(_KEEPS)])
        for number in range(count)
    }
    made: dict[str, list[Any]] = {}
    names = list(wanted)
    batches = [names[at : at + 4] for at in range(0, count, 4)]
    for slugs in track(batches, "Organizations", console=console):
        code = _MAKE % (json.dumps({slug: wanted[slug] for slug in slugs}), PASSWORD)
        said = stack.manage("shell", "--no-imports", "-c", code)
        made |= json.loads(said.partition("MADE")[2])
    return [Tenant(slug, canary, *made[slug]) for slug, (canary, _) in wanted.items()]
