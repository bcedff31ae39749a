"""Public tables whose rows belong to organizations are read one organization at a time.

A query that names no organization raises `Unscoped` where it would run; the few that are meant to
see everyone (the admin, commands) say so with `across_organizations()`. Writing a new row is free:
it carries its organization.
"""

from collections.abc import Iterator
from typing import Any, Self, TypeVar

from django.db import models
from django.db.models import sql

Row = TypeVar("Row", bound=models.Model, covariant=True)

_ONE_ORGANIZATION = {
    "organization",
    "organization_id",
    "organization__exact",
    "organization__slug",
}


class Unscoped(Exception):
    """A query on an organization's rows that names no organization: a bug, never a refusal."""


class _OwnedQuery(sql.Query):
    """What Django takes out of a queryset for `Subquery` and `Exists`, past the queryset."""

    scoped = False

    def require_scope(self) -> None:
        if not self.scoped and not self.is_empty():
            name = self.model.__name__ if self.model else "These"
            raise Unscoped(
                f"{name} rows belong to organizations: begin with {name}.objects.for_org(…)."
            )

    def resolve_expression(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse to become an unscoped subquery."""
        self.require_scope()
        return super().resolve_expression(*args, **kwargs)


class OwnedQuerySet(models.QuerySet[Row]):
    """Rows with an `organization`; runs only inside a scope."""

    def __init__(
        self,
        model: type[Row] | None = None,
        query: sql.Query | None = None,
        using: str | None = None,
        hints: dict[str, models.Model] | None = None,
    ) -> None:
        super().__init__(model, query or _OwnedQuery(model), using, hints)

    def for_org(self, organization: models.Model | int) -> Self:
        """The rows of one organization, given as itself or by its primary key."""
        return self.filter(organization=organization)

    def across_organizations(self) -> Self:
        """Everyone's rows, on purpose."""
        return self._as_scoped(True)

    def filter(self, *args: Any, **kwargs: Any) -> Self:
        """As ever; a filter on one organization is a scope."""
        named = any(kwargs.get(name) is not None for name in _ONE_ORGANIZATION)
        return super().filter(*args, **kwargs)._as_scoped(named)

    def _as_scoped(self, scoped: bool) -> Self:
        chained = self._chain()  # type: ignore[attr-defined]
        chained.query.scoped |= scoped
        return chained  # type: ignore[no-any-return]

    def _require_scope(self) -> None:
        self.query.require_scope()  # type: ignore[attr-defined]

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
