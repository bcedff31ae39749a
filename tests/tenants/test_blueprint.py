"""A schema that is made by saying statements again is the one that migrations make."""

from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.db.migrations.loader import MigrationLoader
from django.utils import timezone

from tenants import blueprint
from tenants.models import Organization

NAMES = ("org_first", "org_second", "org_third")

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _no_schemas(redis: Any) -> Iterator[None]:
    blueprint._statements.clear()
    yield
    blueprint._statements.clear()
    with connection.cursor() as cursor:
        for name in NAMES:
            cursor.execute(f"DROP SCHEMA IF EXISTS {name} CASCADE")


def shape(schema: str) -> list[Any]:
    """Columns, indexes, constraints, triggers, and the migrations that are said to be applied."""
    asked = (
        "SELECT table_name, column_name, data_type, is_nullable, column_default, is_identity"
        " FROM information_schema.columns WHERE table_schema = %s ORDER BY 1, 2",
        "SELECT tablename, replace(indexdef, schemaname, '') FROM pg_indexes"
        " WHERE schemaname = %s ORDER BY 1, 2",
        "SELECT conname, replace(pg_get_constraintdef(oid), connamespace::regnamespace || '.', '')"
        " FROM pg_constraint"
        " WHERE connamespace = %s::regnamespace ORDER BY 1, 2",
        "SELECT tgname FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid"
        " WHERE relnamespace = %s::regnamespace AND NOT tgisinternal ORDER BY 1",
    )
    with connection.cursor() as cursor:
        found = []
        for statement in asked:
            cursor.execute(statement, [schema])
            found.append(cursor.fetchall())
        cursor.execute(f"SELECT app, name FROM {schema}.django_migrations ORDER BY id")  # noqa: S608
        return [*found, cursor.fetchall()]


def test_the_second_is_as_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    assert blueprint.complete("org_first")
    assert blueprint._statements

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("migrated again")

    monkeypatch.setattr(blueprint, "_migrate", never)
    assert blueprint.complete("org_second")
    assert shape("org_second") == shape("org_first")
    assert shape("org_first")[0]
    assert blueprint.behind(["org_first", "org_second", "org_third"]) == ["org_third"]
    assert blueprint.complete("org_second"), "again changes nothing"


def test_a_migration_that_names_its_schema_is_not_said_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    migrate = blueprint._migrate

    def naming(schema: str) -> None:
        migrate(schema)
        with connection.cursor() as cursor:
            cursor.execute(f"COMMENT ON SCHEMA {schema} IS 'made'")

    monkeypatch.setattr(blueprint, "_migrate", naming)
    blueprint.complete("org_first")
    assert not blueprint._statements
    assert blueprint.complete("org_second")


MIGRATION = """
from django.db import migrations, models

def look(apps, editor):
    apps.get_model("inference", "Request").objects.count()

class Migration(migrations.Migration):
    dependencies = [("inference", {leaf!r})]
    operations = [
        migrations.AddField("request", "measured", models.CharField(max_length=20, default="x")),
        migrations.AddIndex("request", models.Index(fields=["measured"], name="measured")),
        {more}
    ]
"""


PACKAGE = """
from inference import migrations
__path__ = [*migrations.__path__, *__path__]
"""


@pytest.fixture
def another(
    tmp_path: Path, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], None]:
    """Adds a migration to the tenants' app, with one more operation."""

    def add(more: str) -> None:
        loader = MigrationLoader(None, ignore_no_migrations=True)
        [(_, leaf)] = loader.graph.leaf_nodes("inference")
        package = tmp_path / f"added_to_{len(more)}"
        package.mkdir()
        (package / "__init__.py").write_text(PACKAGE)
        (package / "test_added.py").write_text(MIGRATION.format(leaf=leaf, more=more))
        monkeypatch.syspath_prepend(tmp_path)
        settings.MIGRATION_MODULES = {"inference": package.name}

    return add


@pytest.mark.parametrize(
    ("more", "migrated"),
    [("", ["org_first"]), ("migrations.RunPython(look)", ["org_first", "org_second"])],
)
def test_what_one_lacked_is_said_to_the_next_unless_it_is_code(
    another: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    more: str,
    migrated: list[str],
) -> None:
    for name in NAMES[:2]:
        blueprint.complete(name)
    another(more)
    assert blueprint.behind(NAMES[:2]) == list(NAMES[:2])
    migrate, said = blueprint._migrate, []

    def told(schema: str) -> None:
        said.append(schema)
        migrate(schema)

    monkeypatch.setattr(blueprint, "_migrate", told)
    blueprint._statements.clear()
    for name in NAMES[:2]:
        assert blueprint.complete(name)
    assert said == migrated
    assert blueprint.behind(NAMES[:2]) == []
    assert shape("org_second") == shape("org_first")
    assert "measured" in str(shape("org_second"))


@pytest.fixture
def three(db: None) -> list[Organization]:
    """Organizations of which the first has its schema, the others none."""
    made = []
    for name in NAMES:
        organization = Organization(slug=name.removeprefix("org_"), name=name)
        organization.schema_at_once = name == "org_first"
        organization.save()
        made.append(organization)
    return made


def test_those_behind_are_brought_up_to_date_and_a_failure_is_named(
    three: list[Organization], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CommandError, match="2 schemas are behind"):
        call_command("migrate_organizations", "--check")
    with connection.cursor() as cursor:
        cursor.execute("CREATE SCHEMA org_third")
        cursor.execute("CREATE VIEW org_third.inference_request AS SELECT 1")
    errors = StringIO()
    with pytest.raises(CommandError, match="1 of 2 schemas could not be migrated"):
        call_command("migrate_organizations", "--processes", "2", stderr=errors)
    assert errors.getvalue().startswith("org_third: ProgrammingError")
    assert shape("org_second") == shape("org_first")
    with connection.cursor() as cursor:
        cursor.execute("DROP VIEW org_third.inference_request")
    call_command("migrate_organizations")
    assert blueprint.behind(NAMES) == []


def test_no_processes_are_refused(db: None) -> None:
    with pytest.raises(CommandError, match="at least 1"):
        call_command("migrate_organizations", "--processes", "0")


def test_organizations_that_were_erased_are_passed_over(
    acme: Organization, monkeypatch: pytest.MonkeyPatch
) -> None:
    Organization.objects.filter(pk=acme.pk).update(erased_at=timezone.now())
    call_command("migrate_organizations", "--check")
