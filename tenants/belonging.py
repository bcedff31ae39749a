"""Whose a schema is: asked before a worker writes where a message told it to.

A request, a task, a stream carries its organization and the schema by name. Both come back from
Redis or a broker; before anything is written there the two are held against the row that binds
them. An organization keeps its schema for good, so a pair once seen is believed.
"""

from collections.abc import Iterable

from tenants.models import Organization

_known: set[tuple[int, str]] = set()


class ForeignSchema(Exception):
    """An organization and a schema that don't belong together: a bug, or a forged message."""


def verify(pairs: Iterable[tuple[int, str]]) -> None:
    """Raise `ForeignSchema` unless each organization (by primary key) has that schema."""
    unknown = set(pairs) - _known
    if not unknown:
        return
    rows = Organization.objects.filter(pk__in={organization for organization, _ in unknown})
    found = set(rows.values_list("pk", "schema_name"))
    if wrong := unknown - found:
        raise ForeignSchema(f"not an organization's own schema: {sorted(wrong)}")
    _known.update(unknown)
