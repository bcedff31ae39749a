"""What lies stored is use without a request; a payment knows the credit that it bought."""

import django.db.models.deletion
from django.db import migrations, models

KINDS = (
    "ALTER TABLE public.billing_ledgerentry DROP CONSTRAINT billing_ledgerentry_kind_known, "
    "ADD CONSTRAINT billing_ledgerentry_kind_known CHECK (kind IN ({kinds}))"
)
BEFORE = "'use', 'tier', 'minimum', 'plan'"


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0010_days"),
    ]

    operations = [
        migrations.AlterField(
            model_name="ledgerentry",
            name="kind",
            field=models.CharField(
                choices=[
                    ("use", "Use"),
                    ("meter", "Meter"),
                    ("tier", "Tier"),
                    ("minimum", "Minimum"),
                    ("plan", "Plan"),
                ],
                db_default="use",
                default="use",
                max_length=7,
            ),
        ),
        migrations.AddField(
            model_name="payment",
            name="grant",
            field=models.ForeignKey(
                blank=True,
                help_text="The credit that it bought.",
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="payments",
                to="billing.grant",
            ),
        ),
        migrations.RunSQL(KINDS.format(kinds=f"{BEFORE}, 'meter'"), KINDS.format(kinds=BEFORE)),
    ]
