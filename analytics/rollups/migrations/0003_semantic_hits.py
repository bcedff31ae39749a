from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("rollups", "0002_alone"),
    ]

    operations = [
        migrations.AddField(
            model_name="rollup",
            name="semantic_hits",
            field=models.BigIntegerField(db_default=0, default=0),
        ),
    ]
