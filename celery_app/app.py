"""Broker, delivery and schedule.

Inference tasks acknowledge early and are never prefetched: the lease in Redis, not the broker, is
the promise that a request finishes.
"""

from celery import Celery
from celery.schedules import crontab
from django.conf import settings

MAINTENANCE = "maintenance"
"""The queue of everything that is not inference."""

app = Celery("platform")
app.conf.update(
    broker_url=settings.BROKER_URL,
    broker_connection_retry_on_startup=True,
    broker_transport_options={"visibility_timeout": 3600},
    result_backend="django-db",
    result_extended=True,
    result_expires=30 * 86400,
    imports=["celery_app.worker"],
    task_serializer="json",
    result_serializer="json",
    accept_content=["json"],
    task_default_queue=MAINTENANCE,
    task_create_missing_queues=True,
    task_acks_late=False,
    worker_prefetch_multiplier=1,
    worker_disable_prefetch=True,
    worker_hijack_root_logger=False,
    worker_redirect_stdouts=False,
    worker_send_task_events=False,
    timezone="UTC",
    beat_schedule={
        "ledger partitions": {
            "task": "billing.make_partitions",
            "schedule": crontab(hour=3, minute=17),
        },
        "anchor the audit log": {
            "task": "tenants.anchor_audit",
            "schedule": crontab(hour=0, minute=10),
        },
        "schemas that were left unfinished": {"task": "tenants.make_schemas", "schedule": 30.0},
        "erase deleted organizations": {
            "task": "tenants.erase_organizations",
            "schedule": crontab(minute=23),
        },
        "when keys were last used": {"task": "tenants.write_uses", "schedule": 60.0},
        "close months that have ended": {
            "task": "billing.close_months",
            "schedule": crontab(minute=5),
        },
        "purge texts": {
            "task": "inference.purge_texts",
            "schedule": crontab(hour=2, minute=23),
        },
        "go on with batches": {"task": "inference.run_batches", "schedule": 5.0},
        "tell webhooks": {"task": "tenants.send_webhooks", "schedule": 3.0},
        "forget what webhooks were told": {
            "task": "tenants.purge_webhooks",
            "schedule": crontab(hour=2, minute=41),
        },
        "forget log-ins that are over": {
            "task": "tenants.purge_log_ins",
            "schedule": crontab(hour=2, minute=53),
        },
        "forget registrations that came to nothing": {
            "task": "tenants.purge_registrations",
            "schedule": crontab(hour=3, minute=11),
        },
        "meter what is stored": {
            "task": "inference.meter_storage",
            "schedule": crontab(minute=2),
        },
        "meter devices": {
            "task": "inference.meter_devices",
            "schedule": crontab(minute="4,34"),
        },
        "purge files": {"task": "inference.purge_files", "schedule": crontab(minute=37)},
        "purge batches": {"task": "inference.purge_batches", "schedule": crontab(minute=43)},
        "purge dead letters": {
            "task": "inference.purge_dead_letters",
            "schedule": crontab(hour=2, minute=41),
        },
        "purge runs of shadows": {
            "task": "inference.purge_shadow_runs",
            "schedule": crontab(hour=3, minute=7),
        },
        "count requests": {"task": "analytics.count_requests", "schedule": 60.0},
        "write exports": {"task": "analytics.write_exports", "schedule": 30.0},
        "go on with payments": {"task": "billing.collect", "schedule": 60.0},
        "compare the books": {
            "task": "analytics.reconcile",
            "schedule": crontab(hour=4, minute=11),
        },
    },
)
app.autodiscover_tasks(["inference", "billing", "analytics", "tenants"])
