"""History has how much of an answer was thinking; older rows learn their projects."""

from django.db import migrations, models

BEFORE = """
UPDATE inference_request row SET project = entry.project FROM public.billing_ledgerentry entry
WHERE entry.request = row.id AND entry.project <> '' AND row.project = ''
"""


class Migration(migrations.Migration):
    dependencies = [
        ("inference", "0004_stored_responses"),
    ]

    operations = [
        migrations.AddField(
            model_name="request",
            name="reasoning_tokens",
            field=models.PositiveIntegerField(db_default=0, default=0),
        ),
        migrations.RunSQL(BEFORE, migrations.RunSQL.noop),
    ]
