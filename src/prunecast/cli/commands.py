"""A command from a function of `api`: its signature gives arguments and options, its docstring the help.

Nothing that the functions name in their annotations is imported for it.
"""

from __future__ import annotations

import functools
import inspect
import re
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prunecast.cli.console import Output
from prunecast.errors import UserError

if TYPE_CHECKING:
    from prunecast.results import Result

TYPES: Mapping[str, Any] = {
    "str": str,
    "str | None": str | None,
    "str | Path": str,
    "str | Path | pd.DataFrame": str,
    "Path": Path,
    "Path | None": Path | None,
    "int": int,
    "int | None": int | None,
    "float": float,
    "float | None": float | None,
    "bool": bool,
    "tuple[str, str]": tuple[str, str],
    "Sequence[str]": list[str],
    "Sequence[Path]": list[Path],
    "Scoring": str,  # the function says what it expects
    "TimedWhere": str,
}
"""Annotation, as it is written in `api` -> what the parser makes of a text."""

METAVARS = {
    "batch": "N",
    "data": "NAME|FILE",
    "finetune_epochs": "N",
    "horizon": "H",
    "lookback": "L",
    "max_latency": "TIME",
    "max_loss_increase": "SHARE",
    "max_memory": "BYTES",
    "max_size": "BYTES",
    "method": "NAME",
    "model": "NAME",
    "modes_seed": "N",
    "opset": "N",
    "origin": "TIME",
    "origins": "N",
    "out": "PATH",
    "plot": "FILE.png",
    "profile_out": "FILE.json|DIR",
    "recovery": "NAME",
    "runtime": "NAME",
    "seed": "S",
    "settings": "KEY=VALUE",
    "sparsity": "S",
    "threads": "N",
    "time_limit": "TIME",
    "to": "KIND TARGET",
    "wait": "TIME",
    "workers": "N",
}
"""Parameter -> what stands for its value in the help, where it is not its type."""

LISTENERS: Mapping[str, Callable[[Output, str], Any]] = {
    "reporter": lambda output, verb: output.training(verb),
    "monitor": lambda output, verb: output.monitor(),
}
"""Parameters that hear of progress: on the command line that is the console."""


class Interrupted(Exception):
    """A verb was ended from outside."""

    def __init__(self, code: int = 130) -> None:
        super().__init__()
        self.code = code


def add(
    app: typer.Typer,
    function: Callable[..., Result],
    name: str,
    arguments: Mapping[str, str] | None = None,
    options: Mapping[str, str] | None = None,
) -> None:
    """Adds a verb to the command line.

    Args:
        app: of which it becomes a command.
        function: of `api`.
        name: of the command.
        arguments: parameters that stand without the name of an option -> what stands for them in the help.
        options: parameter -> option, where they differ for this verb.
    """
    signature = inspect.signature(function)
    about, described = _docstring(function)
    heard, names = signature.parameters.keys() & LISTENERS.keys(), {"settings": "--set", **(options or {})}
    parameters = [inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)]
    parameters += [
        _parameter(parameter, described[parameter.name], arguments or {}, names)
        for parameter in signature.parameters.values()
        if parameter.name not in heard
    ]

    @functools.wraps(function)
    def command(context: typer.Context, **values: Any) -> None:
        output = context.obj
        assert isinstance(output, Output)
        given = {key: value for key, value in values.items() if value is not None}  # else the function's own default
        try:
            result = function(**given, **{key: LISTENERS[key](output, name) for key in heard})
        except KeyboardInterrupt as interrupt:  # the parser would answer it with an empty line
            raise Interrupted(*interrupt.args) from None
        try:
            output.result(result)
        except OSError as error:
            raise UserError(f"cannot write to the standard output: {error.strerror}") from None
        if result.exit_code:
            raise typer.Exit(result.exit_code)

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app.command(name, help=about)(command)


def _parameter(
    parameter: inspect.Parameter, about: str, arguments: Mapping[str, str], names: Mapping[str, str]
) -> inspect.Parameter:
    """Returns what the parser reads of a parameter: type, default, help, and whether it is an argument or an option."""
    name, kind = parameter.name, TYPES[str(parameter.annotation)]
    default = parameter.default
    if name in arguments:
        declared = typer.Argument(metavar=arguments[name], help=about, show_default=False)
    else:
        flag = names.get(name, f"--{name.replace('_', '-')}")
        shown = default not in (None, (), False, inspect.Parameter.empty)
        declared = typer.Option(flag, help=about, metavar=METAVARS.get(name), show_default=shown)
    if default == ():
        kind, default = kind | None, None
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, declared]
    )


def _docstring(function: Callable[..., Any]) -> tuple[str, Mapping[str, str]]:
    """Returns the first paragraph of a Google docstring, and the text on each parameter."""
    text = inspect.getdoc(function)
    assert text is not None
    about, *_ = text.partition("\n\n")
    section, *_ = text.partition("\nArgs:\n")[2].partition("\n\n")
    entries = re.findall(r"^(\w+): (.+(?:\n .+)*)", textwrap.dedent(section), re.MULTILINE)
    described = {name: " ".join(words.split()).rstrip(".") for name, words in entries}
    return about, {name: f"{words[:1].upper()}{words[1:]}." for name, words in described.items()}
