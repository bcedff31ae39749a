"""Rows for tests, with whatever the test does not care about filled in."""

from typing import Any

from billing.models import Account
from tenants.auth import Caller, Limits
from tenants.keys import issue
from tenants.models import ApiKey, Membership, Organization, Role, User

PASSWORD = "correct horse battery staple"


def organization(slug: str, **fields: Any) -> Organization:
    """An organization; of acme and globex the schema is there already."""
    return Organization.objects.create(slug=slug, **{"name": slug.title(), **fields})


def user(name: str, **fields: Any) -> User:
    """A person without a usable password (hashing one takes time); log in with `force_login`."""
    return User.objects.create_user(f"{name}@example.com", **fields)


def member(who: User, of: Organization, role: Role = Role.OWNER) -> Membership:
    """A place in an organization."""
    return Membership.objects.create(user=who, organization=of, role=role)


def api_key(of: Organization, **fields: Any) -> tuple[ApiKey, str]:
    """A key and its text."""
    key = ApiKey(organization=of, **{"name": "a key", **fields})
    return key, issue(key)


def caller(**fields: Any) -> Caller:
    """A caller without limits, not from any row."""
    return Caller(
        **{
            "organization": 1,
            "slug": "acme",
            "schema": "org_acme",
            "key": "key000000000",
            "scopes": frozenset({"inference", "usage"}),
            "models": frozenset(),
            "limits": Limits(),
            "key_limits": Limits(),
            "priority": 1,
            **fields,
        }
    )


def account(of: Organization, *, credit_limit: int = 10**12, currency: str = "EUR") -> Account:
    """What an organization may owe."""
    return Account.objects.create(organization=of, credit_limit=credit_limit, currency=currency)
