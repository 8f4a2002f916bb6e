"""The command line: a verb calls one function of the facade. Heavy imports wait until a verb needs them.

Exit codes: 0 done; 2 the user's mistake, nothing written, one line on stderr; 3 a budget was not met and the
nearest was written; 1 ours.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prunecast.cli.console import Output, output_of
from prunecast.cli.study import SetOption, WaitOption, study_app
from prunecast.errors import UserError

if TYPE_CHECKING:
    from prunecast.api import Scoring

app = typer.Typer(
    help="Make Transformer time-series forecasters small and fast, and know what it costs.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Find, download and check data.")
app.add_typer(data_app, name="data")
app.add_typer(study_app, name="study")

_USAGE_ERROR: Any = typer.BadParameter.__base__
"""The base of the parser's complaints; typer brings its own parser and exports only this child of it."""

GLOBAL_FLAGS = ("--json", "--quiet")

DataOption = Annotated[str | None, typer.Option("--data", help="Catalogue name, or a CSV or Parquet file.")]
OutOption = Annotated[Path, typer.Option("--out", help="Where the result goes; must not exist.")]
SourceArgument = Annotated[Path, typer.Argument(metavar="DIR|ARTIFACT", help="A model folder or an exported file.")]
DirectoryArgument = Annotated[Path, typer.Argument(metavar="DIR", help="A model folder.")]
FillOption = Annotated[str, typer.Option("--fill", help="Gaps: refuse, ffill or interpolate:N.")]


@app.callback()
def _global(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout, all else on stderr.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    context.obj = Output(as_json=as_json, quiet=quiet)


@data_app.command("list")
def data_list(context: typer.Context) -> None:
    """List the data sets of the catalogue and where each would come from."""
    from prunecast import api as facade

    output_of(context).rows("datasets", facade.data_list())


@data_app.command("fetch")
def data_fetch(
    context: typer.Context,
    names: Annotated[list[str], typer.Argument(metavar="NAME...")],
    accept_unverified: Annotated[
        bool, typer.Option("--accept-unverified", help="Download where no hash is known; prints the hash.")
    ] = False,
) -> None:
    """Download data sets into the user cache and verify them."""
    from prunecast import api as facade

    output_of(context).rows("datasets", facade.data_fetch(names, accept_unverified=accept_unverified))


@data_app.command("check")
def data_check(
    context: typer.Context, file: Annotated[Path, typer.Argument(metavar="FILE")], fill: FillOption = "refuse"
) -> None:
    """Say what a file holds and what stands in the way of using it."""
    from prunecast import api as facade

    output_of(context).facts(facade.data_check(file, fill=fill))


@app.command()
def train(
    context: typer.Context,
    model: Annotated[str, typer.Option("--model", metavar="NAME", help="See: prunecast list models.")],
    data: Annotated[str, typer.Option("--data", metavar="NAME|FILE")],
    out: OutOption,
    horizon: Annotated[int | None, typer.Option(help="Steps to forecast [default: 96].")] = None,
    lookback: Annotated[int | None, typer.Option(help="Steps of history [default: 96].")] = None,
    seed: Annotated[int, typer.Option(help="Of weights, shuffling and dropout.")] = 1,
    settings: SetOption = None,
) -> None:
    """Train a forecaster and score it."""
    from prunecast import api as facade

    output = output_of(context)
    facts = facade.train(
        model,
        data,
        horizon=horizon,
        lookback=lookback,
        seed=seed,
        settings=settings or (),
        out=out,
        reporter=output.training(f"train {model}"),
    )
    output.facts(facts)


@app.command("import")
def import_checkpoint(
    context: typer.Context,
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A state dict that torch.save wrote.")],
    source: Annotated[str, typer.Option("--from", metavar="tslib|original", help="Whose implementation wrote it.")],
    model: Annotated[str, typer.Option("--model", metavar="NAME", help="See: prunecast list models.")],
    out: OutOption,
    modes: Annotated[
        Path | None, typer.Option("--modes", metavar="FILE.json", help="FEDformer: module name -> its Fourier modes.")
    ] = None,
    modes_seed: Annotated[
        int | None, typer.Option("--modes-seed", metavar="N", help="FEDformer: draw them anew from this NumPy seed.")
    ] = None,
    data: DataOption = None,
    settings: SetOption = None,
) -> None:
    """Turn a checkpoint of Time-Series-Library or of a model's own repository into a model folder."""
    from prunecast import api as facade

    facts = facade.import_checkpoint(
        checkpoint,
        model,
        source=source,
        out=out,
        data=data,
        modes=modes,
        modes_seed=modes_seed,
        settings=settings or (),
    )
    output_of(context).facts(facts)


@app.command()
def prune(
    context: typer.Context,
    directory: DirectoryArgument,
    method: Annotated[str, typer.Option("--method", metavar="NAME", help="See: prunecast list methods.")],
    sparsity: Annotated[float, typer.Option("--sparsity", metavar="S", help="Share to remove, between 0 and 1.")],
    out: OutOption,
    of: Annotated[str | None, typer.Option(help="S of what: prunable, model or operations.")] = None,
    finetune_epochs: Annotated[int, typer.Option(min=0, help="Epochs of fine-tuning afterwards.")] = 0,
    data: DataOption = None,
    settings: SetOption = None,
) -> None:
    """Prune a model, fine-tune it if asked, and score it."""
    from prunecast import api as facade

    output = output_of(context)
    facts = facade.prune(
        directory,
        method,
        sparsity,
        of=of,
        finetune_epochs=finetune_epochs,
        data=data,
        settings=settings or (),
        out=out,
        reporter=output.training("fine-tune"),
    )
    output.facts(facts)


@app.command()
def evaluate(
    context: typer.Context,
    source: SourceArgument,
    data: DataOption = None,
    scoring: Annotated[str, typer.Option(help="full: every window; paper: whole batches of 32.")] = "full",
) -> None:
    """Score a model or an exported artefact on the test part."""
    from prunecast import api as facade

    output_of(context).facts(facade.evaluate(source, data=data, scoring=_scoring(scoring)))


@app.command()
def measure(
    context: typer.Context,
    sources: Annotated[list[Path], typer.Argument(metavar="DIR|ARTIFACT...", help="The first is the reference.")],
    runtime: Annotated[str | None, typer.Option(help="See: prunecast list runtimes.")] = None,
    threads: Annotated[int, typer.Option(min=1)] = 1,
    batch: Annotated[int, typer.Option(min=1)] = 1,
    data: DataOption = None,
    wait: WaitOption = "60s",
) -> None:
    """Measure size, operations, memory and time; later models against the first, in turn."""
    from prunecast import api as facade

    rows = facade.measure(sources, runtime=runtime, threads=threads, batch=batch, data=data, wait=wait)
    output_of(context).rows("models", rows)


@app.command()
def export(
    context: typer.Context,
    directory: DirectoryArgument,
    out: OutOption,
    runtime: Annotated[str, typer.Option(help="See: prunecast list runtimes.")] = "onnxruntime",
    int8: Annotated[bool, typer.Option("--int8", help="Quantise to 8 bits, calibrated on training windows.")] = False,
    data: DataOption = None,
) -> None:
    """Write a model for a runtime and hold it against PyTorch on real windows."""
    from prunecast import api as facade

    output_of(context).facts(facade.export(directory, runtime, int8=int8, data=data, out=out))


@app.command()
def forecast(
    context: typer.Context,
    source: SourceArgument,
    data: Annotated[Path, typer.Option("--data", metavar="FILE", help="History; its last rows are used.")],
    out: OutOption,
    fill: FillOption = "refuse",
) -> None:
    """Forecast what follows a file's last row, into a CSV file, in the file's own units."""
    from prunecast import api as facade

    output_of(context).facts(facade.forecast(source, data, out=out, fill=fill))


@app.command()
def report(
    context: typer.Context,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A study folder.")],
    out: Annotated[Path | None, typer.Option("--out", help="HTML file [default: DIR/report.html].")] = None,
) -> None:
    """Write a study's report: one HTML page that works offline, with its charts and tables beside it."""
    from prunecast import api as facade

    output_of(context).facts({"report": str(facade.report(directory, out=out).page)})


@app.command("list")
def list_things(
    context: typer.Context, kind: Annotated[str, typer.Argument(metavar="models|methods|runtimes|datasets")]
) -> None:
    """List what can be named."""
    from prunecast.cli import listing

    output_of(context).rows(kind, listing.rows(kind))


def _scoring(value: str) -> Scoring:
    if value == "full":
        return "full"
    if value == "paper":
        return "paper"
    raise UserError(f"--scoring: expected full or paper, found {value!r}")


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code and never shows the user a traceback for their own mistake."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    flags = [argument for argument in arguments if argument in GLOBAL_FLAGS]
    rest = [argument for argument in arguments if argument not in GLOBAL_FLAGS]
    return _run(flags + rest)  # the global flags may stand anywhere


def _run(arguments: list[str]) -> int:
    command: Any = typer.main.get_command(app)
    try:
        code = command.main(args=arguments or ["--help"], prog_name="prunecast", standalone_mode=False)
    except _USAGE_ERROR as error:
        return _complain(error.format_message())
    except UserError as error:
        return _complain(str(error))
    except (typer.Abort, KeyboardInterrupt):
        return _complain(
            "interrupted; given again, the command goes on with a training or a study where it stopped", code=130
        )
    return code if isinstance(code, int) else 0


def _complain(message: str, code: int = 2) -> int:
    line = " ".join(message.split())  # names in it may come from a file: nothing of them may steer the terminal
    print(f"prunecast: error: {''.join(c if c.isprintable() else '?' for c in line)}", file=sys.stderr)
    return code
