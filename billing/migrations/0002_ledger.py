"""The ledger: partitioned, insert-only. Django keeps its state, PostgreSQL the rules."""

import django.core.validators
import django.db.models.deletion
import django.utils.timezone
from django.db import migrations, models
from django.utils import timezone

from billing import partitions

TABLE = """
CREATE TABLE public.billing_ledgerentry (
    request uuid NOT NULL PRIMARY KEY,
    organization_id bigint NOT NULL REFERENCES public.tenants_organization,
    key varchar(16) NOT NULL,
    model varchar(64) NOT NULL,
    month date NOT NULL CHECK (extract(day FROM month) = 1),
    state varchar(9) NOT NULL CHECK (state IN ('finished', 'failed', 'cancelled')),
    units jsonb NOT NULL,
    amounts jsonb NOT NULL,
    amount bigint NOT NULL CHECK (state <> 'failed' OR amount = 0),
    currency varchar(3) NOT NULL,
    price_version_id bigint REFERENCES public.billing_priceversion,
    region varchar(32) NOT NULL,
    label varchar(128) NOT NULL,
    credit_epoch bigint NOT NULL,
    created_at timestamptz NOT NULL
) PARTITION BY RANGE (request);

CREATE INDEX billing_ledgerentry_of_month
    ON public.billing_ledgerentry (organization_id, month, request) INCLUDE (amount);
CREATE INDEX billing_ledgerentry_of_key ON public.billing_ledgerentry (key, request);
CREATE INDEX billing_ledgerentry_of_label
    ON public.billing_ledgerentry (label, request) WHERE label <> '';

CREATE TABLE public.billing_ledgerentry_default
    PARTITION OF public.billing_ledgerentry DEFAULT;
"""

INSERT_ONLY = """
CREATE FUNCTION public.billing_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% of the ledger is refused: its rows never change. Book a correction.', TG_OP
        USING ERRCODE = 'insufficient_privilege', TABLE = TG_TABLE_NAME;
END $$;

CREATE TRIGGER insert_only BEFORE UPDATE OR DELETE ON public.billing_ledgerentry
    FOR EACH ROW EXECUTE FUNCTION public.billing_refuse_change();
CREATE TRIGGER insert_only_whole BEFORE TRUNCATE ON public.billing_ledgerentry
    FOR EACH STATEMENT EXECUTE FUNCTION public.billing_refuse_change();
CREATE TRIGGER insert_only_whole BEFORE TRUNCATE ON public.billing_ledgerentry_default
    FOR EACH STATEMENT EXECUTE FUNCTION public.billing_refuse_change();
"""

PRICES_STAND = """
CREATE FUNCTION public.billing_refuse_repricing() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.effective_from <= now() AND OLD IS DISTINCT FROM NEW THEN
        RAISE EXCEPTION '% of a price that has taken effect is refused. Add a new one.', TG_OP
            USING ERRCODE = 'insufficient_privilege', TABLE = TG_TABLE_NAME;
    END IF;
    RETURN coalesce(NEW, OLD);
END $$;

CREATE TRIGGER effective_prices_stand BEFORE UPDATE OR DELETE ON public.billing_priceversion
    FOR EACH ROW EXECUTE FUNCTION public.billing_refuse_repricing();
"""

UNDO = """
DROP TABLE public.billing_ledgerentry;
DROP FUNCTION public.billing_refuse_change;
DROP TRIGGER effective_prices_stand ON public.billing_priceversion;
DROP FUNCTION public.billing_refuse_repricing;
"""


def make_partitions(apps, schema_editor):
    partitions.make(timezone.now())


class Migration(migrations.Migration):
    dependencies = [("billing", "0001_initial")]

    operations = [
        migrations.SeparateDatabaseAndState(
            database_operations=[
                migrations.RunSQL([TABLE, INSERT_ONLY, PRICES_STAND], UNDO),
                migrations.RunPython(make_partitions, migrations.RunPython.noop),
            ],
            state_operations=[
                migrations.CreateModel(
                    name="LedgerEntry",
                    fields=[
                        ("request", models.UUIDField(primary_key=True, serialize=False)),
                        ("key", models.CharField(max_length=16)),
                        ("model", models.CharField(max_length=64)),
                        ("month", models.DateField()),
                        (
                            "state",
                            models.CharField(
                                choices=[
                                    ("finished", "Finished"),
                                    ("failed", "Failed"),
                                    ("cancelled", "Cancelled"),
                                ],
                                max_length=9,
                            ),
                        ),
                        ("units", models.JSONField()),
                        ("amounts", models.JSONField()),
                        ("amount", models.BigIntegerField()),
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
                        ("region", models.CharField(max_length=32)),
                        ("label", models.CharField(blank=True, max_length=128)),
                        ("credit_epoch", models.BigIntegerField()),
                        ("created_at", models.DateTimeField(default=django.utils.timezone.now)),
                        (
                            "organization",
                            models.ForeignKey(
                                db_index=False,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="ledger",
                                to="tenants.organization",
                            ),
                        ),
                        (
                            "price_version",
                            models.ForeignKey(
                                db_index=False,
                                null=True,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="billing.priceversion",
                            ),
                        ),
                    ],
                    options={
                        "verbose_name_plural": "ledger entries",
                        "ordering": ("-request",),
                    },
                ),
            ],
        ),
    ]
