"""The command line: its verbs are the functions of `api`. Heavy imports wait until a verb needs them.

Exit codes: 0 done; 2 the user's mistake, nothing written, one line on stderr; 3 a budget was not met and the
nearest was written; 1 ours.
"""

from __future__ import annotations

import gc
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Annotated, Any, NoReturn

import typer
from typer.exceptions import TyperException

from prunecast import api
from prunecast.cli.commands import Interrupted, add
from prunecast.cli.console import Output
from prunecast.errors import UserError, one_line

app = typer.Typer(
    help="Make Transformer time-series forecasters small and fast, and know what it costs.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
data = typer.Typer(help="Find, download and check data.")
study = typer.Typer(help="Run a grid of pipelines, ask how it stands, and hand its records on.")

STDOUT, STDERR = 1, 2

COLLECTED = (50_000, 20, 100)
"""How rarely garbage is looked for: imports make a million objects that stay, which by default takes a second."""

GLOBAL_FLAGS = ("--json", "--quiet")

ENDINGS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]

FOLDER, MODEL = {"directory": "DIR"}, {"source": "DIR|ARTIFACT"}

app.add_typer(data, name="data")
add(data, api.data_list, "list")
add(data, api.data_fetch, "fetch", {"names": "NAME..."})
add(data, api.data_check, "check", {"data": "NAME|FILE"})
app.add_typer(study, name="study")
add(study, api.study_run, "run", {"recipe": "RECIPE.yaml"})
add(study, api.study_status, "status", FOLDER)
add(study, api.study_export, "export", FOLDER)
add(app, api.train, "train")
add(app, api.import_checkpoint, "import", {"checkpoint": "CHECKPOINT"}, {"source": "--from"})
add(app, api.prune, "prune", FOLDER)
add(app, api.evaluate, "evaluate", MODEL)
add(app, api.measure, "measure", {"sources": "DIR|ARTIFACT..."})
add(app, api.export, "export", FOLDER)
add(app, api.forecast, "forecast", MODEL)
add(app, api.compress, "compress", FOLDER)
add(app, api.report, "report", FOLDER)
add(app, api.list_names, "list", {"kind": "|".join(api.KINDS)})


@app.callback()
def _global(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout, all else on stderr.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    context.obj = Output(as_json=as_json, quiet=quiet)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code and never shows the user a traceback for their own mistake."""
    gc.set_threshold(*COLLECTED)
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    flags = [argument for argument in arguments if argument in GLOBAL_FLAGS]
    rest = [argument for argument in arguments if argument not in GLOBAL_FLAGS]
    with _ended_like_interrupted(), _results_alone():
        code = _run(flags + rest)  # the global flags may stand anywhere
        try:
            sys.stdout.flush()
        except OSError as error:
            sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 - Python flushes again at its end, and would complain
            code = code or _complain(f"cannot write to the standard output: {error.strerror}")
    return code


@contextmanager
def _results_alone() -> Iterator[None]:
    """Keeps the standard output for results: what libraries print there by themselves goes to the standard error.

    HiGHS, which solves integer programmes for scipy, has such lines, and they would break the JSON of a verb.
    """
    before = sys.stdout
    try:
        ours = before.fileno() == STDOUT
        kept = os.dup(STDOUT) if ours else STDOUT
    except (OSError, ValueError):  # a stream that is no file, or is closed
        ours = False
    if not ours:
        yield
        return
    before.flush()
    with suppress(OSError):  # a closed standard error hears nothing
        os.dup2(STDERR, STDOUT)
    sys.stdout = results = open(kept, "w", encoding=before.encoding, errors=before.errors)  # noqa: PTH123, SIM115
    try:
        yield
    finally:
        with suppress(OSError):
            results.flush()
        os.dup2(kept, STDOUT)
        with suppress(OSError):
            results.close()
        sys.stdout = before


def _run(arguments: list[str]) -> int:
    command: Any = typer.main.get_command(app)
    try:
        code = command.main(args=arguments or ["--help"], prog_name="prunecast", standalone_mode=False)
    except TyperException as error:
        message = error.format_message()
        found = re.match(r"Got unexpected extra argument\(s\) \((?P<first>[\w.]+=[^\s)]*)", message)  # --set a=1 b=2
        return _complain(f"{message}; give each setting its own --set {found['first']}" if found else message)
    except UserError as error:
        return _complain(str(error))
    except OSError as error:  # a name that is too long, a folder that nobody may read, a disk that fails
        named = "" if error.filename is None else f"{error.filename}: "
        return _complain(f"{named}{error.strerror or error}")
    except (typer.Abort, Interrupted, KeyboardInterrupt) as error:
        return _complain(
            "interrupted; given again, the command goes on with a training or a study where it stopped",
            code=error.code if isinstance(error, Interrupted) else 130,
        )
    return code if isinstance(code, int) else 0


@contextmanager
def _ended_like_interrupted() -> Iterator[None]:
    """Lets a signal to end, or a terminal that closes, end a verb as Ctrl-C does: what is half-written is removed.

    A signal that somebody has seen to already (nohup, for one) is left to them.
    """
    ours = []
    if threading.current_thread() is threading.main_thread():
        ours = [number for number in ENDINGS if signal.getsignal(number) == signal.SIG_DFL]
    for number in ours:
        signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def _interrupt(number: int, _: object) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)  # said twice, it would interrupt the removal
    raise KeyboardInterrupt(128 + number)


def _complain(message: str, code: int = 2) -> int:
    with suppress(OSError):  # where nobody can be told
        print(f"prunecast: error: {one_line(message)}", file=sys.stderr)
    return code
