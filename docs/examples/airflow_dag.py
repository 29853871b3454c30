"""Upgrade the shop's database when somebody triggers it, and verify it every night."""

from datetime import datetime, timedelta

from airflow import DAG
from airflow.providers.papermill.operators.papermill import PapermillOperator

NOTEBOOKS = "/opt/migration-playbook/notebooks"
RECORDS = "/var/lib/shop-migrations"
COMMON = {"alembic_ini": "/srv/shop/alembic.ini", "database": "production"}
# Of a worker's kernel, made by `python -m ipykernel install` in the playbook's environment.
KERNEL = "migration-playbook"

with DAG(
    "shop_upgrade",
    start_date=datetime(2026, 1, 1),
    schedule=None,
    catchup=False,
    max_active_runs=1,
    params={"confirm": ""},
):
    PapermillOperator(
        task_id="upgrade",
        input_nb=f"{NOTEBOOKS}/upgrade.ipynb",
        output_nb=f"{RECORDS}/upgrade-{{{{ ts_nodash }}}}.ipynb",
        parameters={**COMMON, "confirm": "{{ params.confirm }}"},
        kernel_name=KERNEL,
        language_name="python",
        log_output=True,
        retries=0,  # a failed upgrade is read before it is run again
        execution_timeout=timedelta(hours=2),
    )

with DAG(
    "shop_verify",
    start_date=datetime(2026, 1, 1),
    schedule="15 3 * * *",
    catchup=False,
    max_active_runs=1,
):
    PapermillOperator(
        task_id="verify",
        input_nb=f"{NOTEBOOKS}/verify.ipynb",
        output_nb=f"{RECORDS}/verify-{{{{ ts_nodash }}}}.ipynb",
        parameters=COMMON,
        kernel_name=KERNEL,
        language_name="python",
        log_output=True,
        retries=1,
        retry_delay=timedelta(minutes=10),
    )
