"""Where a study's records can be handed to: a Parquet file, an MLflow server, a project at Weights & Biases.

Nothing is sent anywhere unless it is asked for by name, and then only there: what the trackers would tell their makers
about themselves is switched off.
"""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from prunecast.errors import MissingExtra, UserError
from prunecast.store import new_file
from prunecast.study.frame import DESCRIBES, JSON_COLUMNS, StageRow, StudyFrame, write_records

FINGERPRINT_TAG = "prunecast.fingerprint"
PARAMETERS_A_CALL = 100
"""Parameters that MLflow takes in one call."""


def to_parquet(frame: StudyFrame, target: str, title: str) -> int:
    """Writes the stages into a new file, one row each.

    Args:
        frame: the study's records.
        target: the file; must not exist.
        title: of the study, kept in the file's metadata.

    Raises:
        UserError: when there are no records, or the file exists or cannot be written.
    """
    if frame.stages.empty:
        raise UserError("expected records to write, found none; run the study first")
    with new_file(Path(target)) as path:
        write_records(frame.stages, path, title)
    return len(frame.stages)


def _numbers(row: StageRow) -> dict[str, float]:
    """Returns the numbers that came of a stage, not those that say what it is."""
    found = {name: value for name, value in row.items() if isinstance(value, int | float) and name not in DESCRIBES}
    return {name: float(value) for name, value in found.items() if not isinstance(value, bool)}


def _describes(row: StageRow) -> dict[str, Any]:
    but = {*_numbers(row), *JSON_COLUMNS}
    return {name: value for name, value in row.items() if name not in but}


def _curve(frame: StudyFrame, row: StageRow) -> list[dict[str, float]]:
    """Returns the training curve of a stage: for each epoch its number, both losses and the learning rate."""
    kinds = {"epoch": "epoch"} | {n: f"epoch_{n}" for n in ("train_loss", "validation_loss", "learning_rate")}
    found = {name: frame.values(row["fingerprint"], kind) for name, kind in kinds.items()}
    columns = {name: values for name, values in found.items() if values is not None}
    return [dict(zip(columns, map(float, epoch), strict=True)) for epoch in np.transpose(list(columns.values()))]


def to_mlflow(frame: StudyFrame, target: str, title: str) -> int:
    """Writes one MLflow run for each row that the experiment does not have yet.

    Args:
        frame: the study's records.
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
        known: set[str] = set()
        token: str | None = ""
        while token is not None:
            page = client.search_runs([experiment], max_results=1000, page_token=token or None)
            known.update(run.data.tags[FINGERPRINT_TAG] for run in page if FINGERPRINT_TAG in run.data.tags)
            token = page.token or None
        new = [row for row in frame.rows.values() if row["fingerprint"] not in known]
        for row in new:
            _log_to_mlflow(mlflow, client, experiment, row, _curve(frame, row))
    except (mlflow.MlflowException, OSError) as error:
        raise UserError(f"mlflow at {target}: {str(error).strip().splitlines()[0]}") from None
    return len(new)


def _log_to_mlflow(mlflow: Any, client: Any, experiment: str, row: StageRow, curve: list[dict[str, float]]) -> None:
    started_ms = round(1000 * datetime.fromisoformat(row["started_at"]).timestamp())
    run = client.create_run(experiment, start_time=started_ms, run_name=row["label"])
    metric, param = mlflow.entities.Metric, mlflow.entities.Param
    metrics = [metric(name, float(value), started_ms, 0) for name, value in _numbers(row).items()]
    for epoch in curve:
        losses = (name for name in epoch if name.endswith("_loss"))
        metrics += [metric(name, epoch[name], started_ms, int(epoch["epoch"])) for name in losses]
    params = [param(name, str(value)) for name, value in _describes(row).items()]
    for start in range(0, max(len(metrics), len(params)), PARAMETERS_A_CALL):
        client.log_batch(
            run.info.run_id, metrics[start : start + PARAMETERS_A_CALL], params[start : start + PARAMETERS_A_CALL]
        )
    # the tag comes last: a run that was interrupted does not count as known
    client.set_tag(run.info.run_id, FINGERPRINT_TAG, row["fingerprint"])
    client.set_terminated(run.info.run_id, end_time=started_ms + round(1000 * row["elapsed_s"]))


def to_wandb(frame: StudyFrame, target: str, title: str) -> int:
    """Writes one run at Weights & Biases for each row; one that is there already is written over.

    Args:
        frame: the study's records.
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
    rows = frame.rows.values()
    settings = wandb.Settings(
        silent=True, console="off", disable_git=True, disable_code=True, save_code=False, x_disable_stats=True
    )
    try:
        for row in rows:
            run = wandb.init(
                entity=entity or None,
                project=project,
                group=title,
                job_type=row["stage"],
                id=row["fingerprint"],
                name=row["label"],
                config=_describes(row),
                resume="allow",
                settings=settings,
            )
            for epoch in _curve(frame, row):
                run.log({name: value for name, value in epoch.items() if name != "epoch"}, step=int(epoch["epoch"]))
            run.summary.update(_numbers(row))
            run.finish()
    except wandb.Error as error:
        raise UserError(f"wandb, project {target}: {str(error).strip().splitlines()[0]}") from None
    return len(rows)
