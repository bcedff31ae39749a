"""History has how long each answer was to be kept, so that it is known whether one was lost early."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("inference", "0005_reasoning"),
    ]

    operations = [
        migrations.AddField(
            model_name="request",
            name="kept_seconds",
            field=models.PositiveIntegerField(
                db_default=3600, default=3600, help_text="How long its answer could be read."
            ),
        ),
    ]
