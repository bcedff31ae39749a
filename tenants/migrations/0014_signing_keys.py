from typing import Any

from django.db import migrations, models


def keep_those_that_signed(apps: Any, schema_editor: Any) -> None:
    """Keys of certificates that were signed before there was a table, so that these stay good."""
    known = set()
    rows = apps.get_model("tenants", "AuditEntry").objects.filter(action="organization.erased")
    for entry in rows.order_by("at"):
        public = entry.after.get("certificate", {}).get("public_key")
        if public and public not in known:
            known.add(public)
            apps.get_model("tenants", "SigningKey").objects.create(
                public=public, made_at=entry.at, retired_at=entry.at
            )


class Migration(migrations.Migration):
    dependencies = [("tenants", "0013_caching")]

    operations = [
        migrations.CreateModel(
            name="SigningKey",
            fields=[
                (
                    "public",
                    models.CharField(
                        editable=False, max_length=44, primary_key=True, serialize=False
                    ),
                ),
                (
                    "algorithm",
                    models.CharField(default="Ed25519", editable=False, max_length=16),
                ),
                ("sealed", models.TextField(blank=True, editable=False)),
                ("made_at", models.DateTimeField()),
                ("retired_at", models.DateTimeField(blank=True, null=True)),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(
                        condition=models.Q(("retired_at", None)),
                        fields=("algorithm",),
                        name="one_key_signs",
                    )
                ],
            },
        ),
        migrations.RunPython(keep_those_that_signed, migrations.RunPython.noop),
    ]
