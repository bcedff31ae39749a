"""Which public tables hold an organization's rows: found by looking, so that none is forgotten.

A table is an organization's if its rows name it, or name a row that does, as a file's parts name
the file. What an organization takes away with it, and what is erased with it, is read from here.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from django.apps import apps
from django.conf import settings
from django.db import models

from tenants.models import Organization


@dataclass(frozen=True, slots=True)
class Table:
    """A model of the public schema, and how a row of it leads to its organization."""

    model: type[models.Model]
    path: str
    """As a filter says it: `organization`, `batch__organization`."""

    @property
    def label(self) -> str:
        """`batches.batchline`."""
        return self.model._meta.label_lower

    @property
    def kept(self) -> str:
        """Why its rows outlive the organization; "" where they go with it.

        A model says so itself (`kept_when_erased`), or its app does for all that do not.
        """
        config = self.model._meta.app_config
        of_the_app = getattr(config, "kept_when_erased", "")
        return str(getattr(self.model, "kept_when_erased", of_the_app))

    def rows(self, organization: int) -> models.QuerySet[models.Model]:
        """The organization's, by primary key."""
        return self.model._base_manager.filter(**{self.path: organization}).order_by("pk")


@cache
def tables() -> tuple[Table, ...]:
    """All of them, those that hang on others' rows first."""
    found = (Table(model, path) for model in _public() if (path := _path(model, ())))
    return tuple(sorted(found, key=lambda each: (-each.path.count("__"), each.label)))


def _public() -> Iterator[type[models.Model]]:
    for model in apps.get_models():
        config = model._meta.app_config
        if not model._meta.proxy and config and config.name not in settings.TENANT_APPS:
            yield model


def _path(model: type[models.Model], seen: tuple[type[models.Model], ...]) -> str:
    """The shortest way to an organization, or ""."""
    ways = []
    for field in model._meta.concrete_fields:
        parent = field.related_model
        if parent is Organization:
            return field.name
        if isinstance(parent, type) and parent is not model and parent not in seen:
            further = _path(parent, (*seen, model))
            ways += [f"{field.name}__{further}"] if further else []
    return min(ways, key=len, default="")
