import django.core.validators
import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True

    dependencies = [
        ("tenants", "0001_initial"),
    ]

    operations = [
        migrations.CreateModel(
            name="Invoice",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("month", models.DateField()),
                (
                    "currency",
                    models.CharField(
                        max_length=3,
                        validators=[
                            django.core.validators.RegexValidator(
                                "^[A-Z]{3}\\Z", "An ISO 4217 code in capitals, like EUR."
                            )
                        ],
                    ),
                ),
                (
                    "subtotal",
                    models.BigIntegerField(
                        help_text="In nanos: exactly the sum of the ledger rows."
                    ),
                ),
                (
                    "total_minor",
                    models.BigIntegerField(help_text="In the currency's minor unit, rounded once."),
                ),
                (
                    "status",
                    models.CharField(
                        choices=[
                            ("draft", "Draft"),
                            ("open", "Open"),
                            ("paid", "Paid"),
                            ("void", "Void"),
                            ("uncollectible", "Uncollectible"),
                        ],
                        default="draft",
                        max_length=13,
                    ),
                ),
                ("closed_at", models.DateTimeField()),
                (
                    "organization",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="invoices",
                        to="tenants.organization",
                    ),
                ),
            ],
            options={
                "ordering": ("-month", "organization"),
            },
        ),
        migrations.CreateModel(
            name="InvoiceLine",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("model", models.CharField(max_length=64)),
                ("meter", models.CharField(max_length=32)),
                ("units", models.BigIntegerField()),
                ("nanos", models.BigIntegerField()),
                ("minor", models.BigIntegerField()),
                (
                    "invoice",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="lines",
                        to="billing.invoice",
                    ),
                ),
            ],
            options={
                "ordering": ("invoice_id", "model", "meter"),
            },
        ),
        migrations.CreateModel(
            name="Period",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("month", models.DateField()),
                ("closed_at", models.DateTimeField(blank=True, null=True)),
                (
                    "organization",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="periods",
                        to="tenants.organization",
                    ),
                ),
            ],
            options={
                "ordering": ("-month", "organization"),
            },
        ),
        migrations.CreateModel(
            name="PriceVersion",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("model", models.CharField(max_length=64)),
                (
                    "currency",
                    models.CharField(
                        max_length=3,
                        validators=[
                            django.core.validators.RegexValidator(
                                "^[A-Z]{3}\\Z", "An ISO 4217 code in capitals, like EUR."
                            )
                        ],
                    ),
                ),
                (
                    "rates",
                    models.JSONField(
                        help_text='Nanos per million units: {"input_tokens": 150000000, …}.'
                    ),
                ),
                ("effective_from", models.DateTimeField()),
            ],
            options={
                "ordering": ("model", "currency", "-effective_from"),
                "constraints": [
                    models.UniqueConstraint(
                        fields=("model", "currency", "effective_from"), name="one_price_at_a_time"
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="Account",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "currency",
                    models.CharField(
                        max_length=3,
                        validators=[
                            django.core.validators.RegexValidator(
                                "^[A-Z]{3}\\Z", "An ISO 4217 code in capitals, like EUR."
                            )
                        ],
                    ),
                ),
                (
                    "credit_limit",
                    models.BigIntegerField(
                        help_text="The most that may be owed at once, in nanos (10⁻⁹ units)."
                    ),
                ),
                ("credit_epoch", models.BigIntegerField(default=0, editable=False)),
                (
                    "organization",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="account",
                        to="tenants.organization",
                    ),
                ),
            ],
            options={
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(
                            ("credit_limit__gte", 0), ("credit_limit__lte", 9007199254740991)
                        ),
                        name="account_credit_limit",
                        violation_error_message="Between 0 and 9,007,199,254,740,991 nanos.",
                    )
                ],
            },
        ),
        migrations.AddConstraint(
            model_name="invoice",
            constraint=models.UniqueConstraint(
                fields=("organization", "month"), name="one_invoice_a_month"
            ),
        ),
        migrations.AddConstraint(
            model_name="invoiceline",
            constraint=models.UniqueConstraint(
                fields=("invoice", "model", "meter"), name="one_line_a_model_and_meter"
            ),
        ),
        migrations.AddConstraint(
            model_name="period",
            constraint=models.UniqueConstraint(
                fields=("organization", "month"), name="one_period_a_month"
            ),
        ),
        migrations.AddConstraint(
            model_name="period",
            constraint=models.CheckConstraint(
                condition=models.Q(("month__day", 1)), name="period_begins_a_month"
            ),
        ),
    ]
