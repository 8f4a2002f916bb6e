"""The verbs of `prunecast study`: a verb calls one function of the facade."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prunecast.cli.console import output_of
from prunecast.errors import UserError

if TYPE_CHECKING:
    from prunecast.studies import Timings

WaitOption = Annotated[
    str, typer.Option("--wait", metavar="TIME", help="Longest wait of a timing for other stages on this machine.")
]
SetOption = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any key of the recipe.")]

study_app = typer.Typer(help="Run a grid of pipelines, ask how it stands, and hand its records on.")


@study_app.command("run")
def study_run(
    context: typer.Context,
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.yaml")],
    out: Annotated[Path | None, typer.Option("--out", help="Study folder [default: runs/<recipe's name>].")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Stages at once [default: cores / threads].")] = None,
    engine: Annotated[str, typer.Option(help="local, or ray: the cluster that RAY_ADDRESS names.")] = "local",
    measure: Annotated[
        str, typer.Option(help="Timings that count as done: any machine's, or those taken here alone.")
    ] = "any",
    wait: WaitOption = "60s",
    settings: SetOption = None,
) -> None:
    """Run a study, or go on with it, and write its report."""
    from prunecast import api as facade

    output = output_of(context)
    result = facade.study_run(
        recipe,
        out=out,
        workers=workers,
        engine=engine,
        measure=_timings(measure),
        wait=wait,
        settings=settings or (),
        monitor=output.monitor(),
    )
    output.table("Results", result.files.rows)
    output.facts(
        {
            "stages": result.stages,
            "done_before": result.outcome.present,
            "ran": result.outcome.ran,
            "failed": list(result.outcome.failed),
            "damaged": list(result.outcome.damaged),
            "report": str(result.files.page),
        }
    )
    if result.outcome.failed:
        raise typer.Exit(1)


@study_app.command("status")
def study_status(
    context: typer.Context,
    directory: Annotated[Path, typer.Argument(metavar="DIR")],
    verify: Annotated[bool, typer.Option("--verify", help="Hash every file; else changed ones alone.")] = False,
) -> None:
    """Say how far a study is, also while it runs, and what of it is damaged."""
    from prunecast import api as facade

    output_of(context).facts(facade.study_status(directory, verify=verify))


@study_app.command("export")
def study_export(
    context: typer.Context,
    directory: Annotated[Path, typer.Argument(metavar="DIR")],
    to: Annotated[
        tuple[str, str],
        typer.Option("--to", metavar="parquet FILE | mlflow URI | wandb PROJECT", help="What takes them, and where."),
    ],
) -> None:
    """Hand a study's records on, one row or run each: errors, sizes, operations, times."""
    from prunecast import api as facade

    tracker, target = to
    output_of(context).facts(facade.study_export(directory, tracker, target))


def _timings(value: str) -> Timings:
    if value == "any":
        return "any"
    if value == "here":
        return "here"
    raise UserError(f"--measure: expected any or here, found {value!r}")
