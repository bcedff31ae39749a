"""What no webhook told of is looked up; what Redis has yet to learn is noted with the change."""

import django.db.models.deletion
import django.db.models.functions.datetime
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0012_currencies"),
        ("tenants", "0013_caching"),
    ]

    operations = [
        migrations.AddField(
            model_name="checkout",
            name="next_at",
            field=models.DateTimeField(
                blank=True,
                help_text="When to look how far it is, should nothing be heard.",
                null=True,
            ),
        ),
        migrations.AddField(
            model_name="payment",
            name="leased_until",
            field=models.DateTimeField(blank=True, editable=False, null=True),
        ),
        migrations.AddField(
            model_name="payment",
            name="refunded_minor",
            field=models.BigIntegerField(db_default=0, default=0),
        ),
        migrations.CreateModel(
            name="Renewal",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                (
                    "organization",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="+",
                        to="tenants.organization",
                    ),
                ),
            ],
        ),
        migrations.RunSQL(
            "UPDATE public.billing_checkout SET next_at = created_at"
            " WHERE status = 'ready' AND remote IS NOT NULL",
            migrations.RunSQL.noop,
        ),
    ]
