"""Currencies are those of ISO 4217; projects' budgets bear the names that requests come with."""

from typing import Any

from django.db import migrations, models

import billing.prices
from kit import origin


def as_counted(apps: Any, schema_editor: Any) -> None:
    """A budget of a name that no request can have would bind nobody."""
    budgets = apps.get_model("billing", "Budget").objects
    for row in budgets.filter(scope="project"):
        name = origin.project(row.subject)
        taken = budgets.filter(organization=row.organization_id, scope="project", subject=name)
        if name and name != row.subject and not taken.exists():
            row.subject = name
            row.save(update_fields=["subject"])


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0011_meters"),
    ]

    operations = [
        migrations.RunPython(as_counted, migrations.RunPython.noop),
        migrations.AlterField(
            model_name="account",
            name="currency",
            field=models.CharField(max_length=3, validators=[billing.prices.known_currency]),
        ),
        migrations.AlterField(
            model_name="invoice",
            name="currency",
            field=models.CharField(max_length=3, validators=[billing.prices.known_currency]),
        ),
        migrations.AlterField(
            model_name="ledgerentry",
            name="currency",
            field=models.CharField(max_length=3, validators=[billing.prices.known_currency]),
        ),
        migrations.AlterField(
            model_name="payment",
            name="currency",
            field=models.CharField(max_length=3, validators=[billing.prices.known_currency]),
        ),
        migrations.AlterField(
            model_name="planterms",
            name="currency",
            field=models.CharField(max_length=3, validators=[billing.prices.known_currency]),
        ),
        migrations.AlterField(
            model_name="priceversion",
            name="currency",
            field=models.CharField(max_length=3, validators=[billing.prices.known_currency]),
        ),
    ]
