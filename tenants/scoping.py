"""Public tables whose rows belong to organizations are read one organization at a time.

A query that names no organization raises `Unscoped` where it would run; the few that are meant to
see everyone (the admin, commands) say so with `across_organizations()`. Writing a new row is free:
it carries its organization.
"""

from collections.abc import Iterator
from typing import Any, Self, TypeVar

from django.db import models

Row = TypeVar("Row", bound=models.Model, covariant=True)

_ONE_ORGANIZATION = {
    "organization",
    "organization_id",
    "organization__exact",
    "organization__slug",
}


class Unscoped(Exception):
    """A query on an organization's rows that names no organization: a bug, never a refusal."""


class OwnedQuerySet(models.QuerySet[Row]):
    """Rows with an `organization`; runs only inside a scope."""

    _scoped = False

    def for_org(self, organization: models.Model | int) -> Self:
        """The rows of one organization, given as itself or by its primary key."""
        return self.filter(organization=organization)

    def across_organizations(self) -> Self:
        """Everyone's rows, on purpose."""
        return self._as_scoped(True)

    def filter(self, *args: Any, **kwargs: Any) -> Self:
        """As ever; a filter on one organization is a scope."""
        named = any(kwargs.get(name) is not None for name in _ONE_ORGANIZATION)
        return super().filter(*args, **kwargs)._as_scoped(self._scoped or named)

    def _as_scoped(self, scoped: bool) -> Self:
        chained = self._chain()  # type: ignore[attr-defined]
        chained._scoped = scoped
        return chained  # type: ignore[no-any-return]

    def _clone(self) -> Self:
        clone = super()._clone()  # type: ignore[misc]
        clone._scoped = self._scoped
        return clone  # type: ignore[no-any-return]

    def _require_scope(self) -> None:
        if not self._scoped and not self.query.is_empty():
            name = self.model.__name__
            raise Unscoped(
                f"{name} rows belong to organizations: begin with {name}.objects.for_org(…)."
            )

    def _fetch_all(self) -> None:
        self._require_scope()
        super()._fetch_all()

    def _iterator(self, *args: Any) -> Iterator[Row]:
        self._require_scope()
        return super()._iterator(*args)  # type: ignore[misc,no-any-return]

    def _merge_sanity_check(self, other: "OwnedQuerySet[Any]") -> None:
        self._require_scope()
        other._require_scope()
        super()._merge_sanity_check(other)  # type: ignore[misc]

    def _combinator_query(self, combinator: str, *others: Any, **options: Any) -> Self:
        for each in (self, *others):
            each._require_scope()
        return super()._combinator_query(combinator, *others, **options)  # type: ignore[misc,no-any-return]

    def resolve_expression(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse to become an unscoped subquery."""
        self._require_scope()
        return super().resolve_expression(*args, **kwargs)

    def count(self) -> int:
        """As ever, inside a scope; so the rest below."""
        self._require_scope()
        return super().count()

    def exists(self) -> bool:
        self._require_scope()
        return super().exists()

    def aggregate(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        self._require_scope()
        return super().aggregate(*args, **kwargs)

    def update(self, **kwargs: Any) -> int:
        self._require_scope()
        return super().update(**kwargs)

    update.alters_data = True  # type: ignore[attr-defined]

    def delete(self) -> tuple[int, dict[str, int]]:
        self._require_scope()
        return super().delete()

    delete.alters_data = True  # type: ignore[attr-defined]
    delete.queryset_only = True  # type: ignore[attr-defined]

    def raw(self, *args: Any, **kwargs: Any) -> Any:
        self._require_scope()
        return super().raw(*args, **kwargs)

    def explain(self, **kwargs: Any) -> str:
        self._require_scope()
        return super().explain(**kwargs)
