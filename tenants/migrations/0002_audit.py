"""The audit log: insert-only. Django keeps its state, PostgreSQL the rule."""

import django.contrib.postgres.fields
import django.db.models.deletion
from django.db import migrations, models

import tenants.models

INSERT_ONLY = """
CREATE FUNCTION public.tenants_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% of the audit log is refused: its entries never change.', TG_OP
        USING ERRCODE = 'insufficient_privilege', TABLE = TG_TABLE_NAME;
END $$;

CREATE TRIGGER insert_only BEFORE UPDATE OR DELETE ON public.tenants_auditentry
    FOR EACH ROW EXECUTE FUNCTION public.tenants_refuse_change();
CREATE TRIGGER insert_only_whole BEFORE TRUNCATE ON public.tenants_auditentry
    FOR EACH STATEMENT EXECUTE FUNCTION public.tenants_refuse_change();
"""

UNDO = """
DROP TRIGGER insert_only_whole ON public.tenants_auditentry;
DROP TRIGGER insert_only ON public.tenants_auditentry;
DROP FUNCTION public.tenants_refuse_change;
"""


class Migration(migrations.Migration):
    dependencies = [
        ("tenants", "0001_initial"),
    ]

    operations = [
        migrations.CreateModel(
            name="AuditHead",
            fields=[
                ("chain", models.BigIntegerField(primary_key=True, serialize=False)),
                ("sequence", models.BigIntegerField(default=0)),
                ("hash", models.CharField(blank=True, max_length=64)),
            ],
        ),
        migrations.AlterField(
            model_name="apikey",
            name="scopes",
            field=django.contrib.postgres.fields.ArrayField(
                base_field=models.CharField(
                    choices=[
                        ("inference", "Inference"),
                        ("usage", "Usage"),
                        ("keys", "Keys"),
                        ("audit", "Audit"),
                    ],
                    max_length=20,
                ),
                default=tenants.models.every_scope,
                size=None,
            ),
        ),
        migrations.CreateModel(
            name="AuditEntry",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("chain", models.BigIntegerField()),
                ("sequence", models.BigIntegerField()),
                ("at", models.DateTimeField()),
                ("actor", models.CharField(max_length=64)),
                ("actor_name", models.CharField(blank=True, max_length=254)),
                ("address", models.CharField(blank=True, max_length=45)),
                ("agent", models.CharField(blank=True, max_length=200)),
                ("action", models.CharField(max_length=64)),
                ("target", models.CharField(max_length=254)),
                ("before", models.JSONField(default=dict)),
                ("after", models.JSONField(default=dict)),
                ("previous", models.CharField(max_length=64)),
                ("hash", models.CharField(max_length=64)),
                (
                    "organization",
                    models.ForeignKey(
                        db_constraint=False,
                        null=True,
                        on_delete=django.db.models.deletion.DO_NOTHING,
                        related_name="+",
                        to="tenants.organization",
                    ),
                ),
            ],
            options={
                "verbose_name": "audit entry",
                "verbose_name_plural": "audit log",
                "ordering": ("chain", "sequence"),
                "indexes": [models.Index(fields=["at"], name="audit_at")],
                "constraints": [
                    models.UniqueConstraint(fields=("chain", "sequence"), name="one_entry_a_place")
                ],
            },
        ),
        migrations.RunSQL(INSERT_ONLY, UNDO),
    ]
