"""Rows whose changes every process must hear of."""

from typing import Any, ClassVar

from django.db import models

from tenants.records import changing


class Remembered(models.Model):
    """A row that callers are checked against; see `tenants.records`. Change it by `save`."""

    kind: ClassVar[str]

    class Meta:
        abstract = True

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Save, and let every process know."""
        if self.pk is None:
            super().save(*args, **kwargs)
            return
        with changing(self.kind, self.pk):
            super().save(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> tuple[int, dict[str, int]]:
        """Delete, and let every process know."""
        with changing(self.kind, self.pk):
            return super().delete(*args, **kwargs)
