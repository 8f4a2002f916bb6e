"""Where a study's records can be handed to: a Parquet file, an MLflow server, a project at Weights & Biases.

Nothing is sent anywhere unless it is asked for by name, and then only there: what the trackers would tell their makers
about themselves is switched off.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from prunecast.errors import MissingExtra, UserError
from prunecast.store import new_file
from prunecast.study.frame import Row, Value

FINGERPRINT_TAG = "prunecast.fingerprint"
BATCH = 100
"""Parameters that MLflow takes in one call."""


def to_parquet(rows: Sequence[Row], target: str, title: str) -> int:
    """Writes the rows into a new file, one column for each name that any row has.

    Args:
        rows: of the study.
        target: the file; must not exist.
        title: of the study, kept in the file's metadata.

    Raises:
        UserError: when there are no rows, or the file exists or cannot be written.
    """
    if not rows:
        raise UserError("expected records to write, found none; run the study first")
    columns = list(dict.fromkeys(name for row in rows for name in row.columns))
    table = pa.table({name: [row.columns.get(name) for row in rows] for name in columns})
    with new_file(Path(target)) as path:
        pq.write_table(table.replace_schema_metadata({"title": title}), path)
    return len(rows)


def to_mlflow(rows: Sequence[Row], target: str, title: str) -> int:
    """Writes one MLflow run for each row that the experiment does not have yet.

    Args:
        rows: of the study.
        target: tracking URI: of a server, a database or a folder.
        title: name of the experiment.

    Raises:
        UserError: when MLflow is not installed, or cannot be reached.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    try:
        import mlflow
    except ModuleNotFoundError:
        raise MissingExtra("mlflow", "mlflow") from None
    try:
        client = mlflow.MlflowClient(tracking_uri=target)
        found = client.get_experiment_by_name(title)
        experiment = found.experiment_id if found else client.create_experiment(title)
        known = _known_to_mlflow(client, experiment)
        new = [row for row in rows if row.describes["fingerprint"] not in known]
        for row in new:
            _log_to_mlflow(mlflow, client, experiment, row)
    except (mlflow.MlflowException, OSError) as error:
        raise UserError(f"mlflow at {target}: {str(error).strip().splitlines()[0]}") from None
    return len(new)


def _known_to_mlflow(client: Any, experiment: str) -> set[str]:
    known: set[str] = set()
    token = None
    while True:
        page = client.search_runs([experiment], max_results=1000, page_token=token)
        known.update(run.data.tags[FINGERPRINT_TAG] for run in page if FINGERPRINT_TAG in run.data.tags)
        token = page.token
        if not token:
            return known


def _log_to_mlflow(mlflow: Any, client: Any, experiment: str, row: Row) -> None:
    started_ms = _milliseconds(row.describes["started_at"])
    elapsed_ms = round(1000 * float(row.measures["elapsed_s"] or 0))
    label = str(row.describes["label"])
    run = client.create_run(experiment, start_time=started_ms, run_name=label)
    metric, param = mlflow.entities.Metric, mlflow.entities.Param
    metrics = [metric(name, float(value), started_ms, 0) for name, value in _numbers(row).items()]
    for epoch in row.epochs:
        curve = {"train_loss": epoch.train_loss, "validation_loss": epoch.validation_loss}
        metrics += [metric(name, value, started_ms, epoch.epoch) for name, value in curve.items()]
    params = [param(name, str(value)) for name, value in row.describes.items() if value is not None]
    for start in range(0, max(len(metrics), len(params)), BATCH):
        client.log_batch(run.info.run_id, metrics[start : start + BATCH], params[start : start + BATCH])
    # the tag comes last: a run that was interrupted does not count as known
    client.set_tag(run.info.run_id, FINGERPRINT_TAG, row.describes["fingerprint"])
    client.set_terminated(run.info.run_id, end_time=started_ms + elapsed_ms)


def _milliseconds(started_at: Value) -> int:
    return round(1000 * datetime.fromisoformat(str(started_at)).timestamp())


def _numbers(row: Row) -> dict[str, float]:
    return {name: float(value) for name, value in row.measures.items() if isinstance(value, int | float)}


def to_wandb(rows: Sequence[Row], target: str, title: str) -> int:
    """Writes one run at Weights & Biases for each row; one that is there already is written over.

    Args:
        rows: of the study.
        target: the project, or entity/project.
        title: the group that the runs belong to.

    Raises:
        UserError: when wandb is not installed, or refuses.
    """
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    try:
        import wandb
    except ModuleNotFoundError:
        raise MissingExtra("wandb", "wandb") from None
    entity, _, project = target.rpartition("/")
    settings = wandb.Settings(
        silent=True, console="off", disable_git=True, disable_code=True, save_code=False, x_disable_stats=True
    )
    try:
        for row in rows:
            _log_to_wandb(wandb, entity or None, project, title, row, settings)
    except wandb.Error as error:
        raise UserError(f"wandb, project {target}: {str(error).strip().splitlines()[0]}") from None
    return len(rows)


def _log_to_wandb(  # noqa: PLR0917
    wandb: Any, entity: str | None, project: str, title: str, row: Row, settings: Any
) -> None:
    run = wandb.init(
        entity=entity,
        project=project,
        group=title,
        job_type=row.describes["stage"],
        id=row.describes["fingerprint"],
        name=row.describes["label"],
        config={name: value for name, value in row.describes.items() if value is not None},
        resume="allow",
        settings=settings,
    )
    for epoch in row.epochs:
        losses = {"train_loss": epoch.train_loss, "validation_loss": epoch.validation_loss}
        run.log(losses | {"learning_rate": epoch.learning_rate}, step=epoch.epoch)
    run.summary.update(_numbers(row))
    run.finish()
