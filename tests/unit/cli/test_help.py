"""The command line says what it can do, at once, and can do what is promised."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from prunecast.cli.main import main

HEAVY = ("torch", "pandas", "onnxruntime", "onnx", "altair")

VERBS = {
    "data list": "",
    "data fetch": "NAME... --accept-unverified",
    "data check": "NAME|FILE --fill --set --plot",
    "train": "--model --data --horizon --lookback --seed --set --out",
    "import": "CHECKPOINT --from --model --modes --modes-seed --data --set --out",
    "prune": "DIR --method --sparsity --of --recovery --finetune-epochs --data --set --out",
    "evaluate": "DIR|ARTIFACT --data --scoring",
    "measure": "DIR|ARTIFACT... --runtime --threads --batch --data --wait --profile --profile-out",
    "export": "DIR --runtime --int8 --quantizer --max-mse-increase --batch --opset --max-size --max-memory "
    "--data --out",
    "forecast": "DIR|ARTIFACT --data --fill --origin --origins --out --plot",
    "compress": "DIR --max-loss-increase --max-latency --max-size --max-memory --runtime --threads "
    "--profile --time-limit --engine --data --wait --set --out",
    "study run": "RECIPE.yaml --out --workers --engine --measure --wait --set",
    "study status": "DIR --verify",
    "study export": "DIR --to",
    "report": "DIR --out",
    "list": "models|methods|runtimes|datasets",
}
"""Verb -> the arguments and options that the design promises."""


@pytest.mark.parametrize("arguments", ["--help", "list models", "list methods", "list runtimes", "list datasets"])
def test_answers_at_once(arguments: str) -> None:
    code = (
        "import sys; from prunecast.cli.main import main; code = main(sys.argv[1:]);"
        f"print(code, *sorted(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments.split()], capture_output=True, text=True, check=True)
    assert done.stdout
    assert done.stderr.split() == ["0"], "a verb that only lists must import nothing heavy"


def help_of(capsys: pytest.CaptureFixture[str], verb: str) -> str:
    capsys.readouterr()
    assert main([*verb.split(), "--help"]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_takes_what_is_promised(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(capsys, verb)
    words = set(re.findall(r"--[a-z][a-z0-9-]*|[^\s\[\]]+", text))
    assert set(VERBS[verb].split()) <= words
    options = {word for word in words if word.startswith("--")} - {"--help"}
    assert options == {word for word in VERBS[verb].split() if word.startswith("--")}, "promised and there"


def test_there_is_no_other_verb(capsys: pytest.CaptureFixture[str]) -> None:
    found = set(commands(help_of(capsys, "")))
    assert found == {verb.split()[0] for verb in VERBS}
    for group in ("data", "study"):
        assert set(commands(help_of(capsys, group))) == {v.split()[1] for v in VERBS if v.split()[0] == group}


def commands(text: str) -> list[str]:
    return re.findall(r"^  ([a-z]+)  ", text[text.index("Commands:") :], re.MULTILINE)


def test_every_help_text_says_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in VERBS:
        usage, about, *_ = help_of(capsys, verb).split("\n\n")
        assert verb in usage
        assert re.fullmatch(r"[A-Z].*\.", " ".join(about.split())), verb


@pytest.mark.parametrize("flag", ["--json", "--quiet"])
def test_global_flags_may_stand_anywhere(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    outputs = []
    for arguments in ([flag, "list", "models"], ["list", flag, "models"], ["list", "models", flag]):
        assert main(arguments) == 0
        outputs.append(capsys.readouterr().out)
    assert len(set(outputs)) == 1
