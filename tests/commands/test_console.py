"""`distillkac VERB`: the same commands by one name."""

import importlib
import subprocess
import sys
import tomllib

import pytest

from distillkac import __main__, __version__
from distillkac.base.commands import prog
from tests.places import PACKAGE, ROOT
from tests.project.test_rooms import COMMANDS


def test_every_command_is_a_verb():
    assert set(__main__.VERBS) == COMMANDS - {"__main__"}


def test_the_package_has_the_script():
    script = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]["distillkac"]
    module, name = script.split(":")
    assert getattr(importlib.import_module(module), name) is __main__.main


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_lists_the_verbs(capsys, option):
    assert __main__.main([option]) == 0
    printed = capsys.readouterr().out
    for verb, what in __main__.VERBS.items():
        assert f"  {verb:10}{what}\n" in printed
    assert max(map(len, printed.splitlines())) <= 100


def test_version(capsys):
    assert __main__.main(["--version"]) == 0
    assert capsys.readouterr().out == f"distillkac {__version__}\n"


def test_without_a_verb_the_help_is_an_error(capsys):
    assert __main__.main([]) == 2
    assert "usage: distillkac VERB" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "meant"),
    [("distil", "distill"), ("smaple", "sample"), ("--train", "train"), ("frobnicate", None)],
)
def test_the_nearest_verb_is_named(capsys, word, meant):
    assert __main__.main([word]) == 2
    hint = f"did you mean {meant}?" if meant else "the verbs are train, adopt, distill, sample"
    assert f"error: there is no verb {word}; {hint}" in capsys.readouterr().err


def test_help_and_version_import_nothing_but_python():
    program = (
        "import sys; from distillkac.__main__ import main; main(['--help']); main(['--version']); main(['nothing']); "
        "print([name for name in ('torch', 'numpy', 'tyro') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.endswith("[]\n"), done.stderr


def test_a_verb_gets_its_arguments_and_gives_its_code(monkeypatch):
    given = []
    module = importlib.import_module("distillkac.report")
    monkeypatch.setattr(module, "main", lambda argv: given.append(argv) or 7)
    assert __main__.main(["report", "runs/demo", "--help"]) == 7
    assert given == [["runs/demo", "--help"]]


@pytest.mark.parametrize(
    ("called", "name"),
    [
        ("/usr/bin/distillkac", "distillkac report"),
        (str(PACKAGE / "__main__.py"), "python -m distillkac report"),
        (str(PACKAGE / "report.py"), "python -m distillkac.report"),
        ("/somewhere/else/__main__.py", "python -m distillkac.report"),
        ("", "python -m distillkac.report"),
    ],
)
def test_help_says_how_the_command_was_called(monkeypatch, capsys, called, name):
    monkeypatch.setattr(sys, "argv", [called])
    assert prog("report") == name
    with pytest.raises(SystemExit) as stop:
        __main__.main(["report", "--help"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: {name} ")


def test_every_verb_has_its_name_in_its_help(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["distillkac"])
    for verb in __main__.VERBS:
        with pytest.raises(SystemExit):
            __main__.main([verb, "--help"])
        assert capsys.readouterr().out.startswith(f"usage: distillkac {verb} "), verb


def test_completion_knows_verbs_and_their_options(capsys):
    with pytest.raises(SystemExit) as stop:
        __main__.main(["--tyro-print-completion", "bash"])
    assert stop.value.code in (0, None)
    script = capsys.readouterr().out
    assert "complete -F" in script
    for word in (*__main__.VERBS, "--optim.batch-size", "--inverse.steps", "--teacher-steps"):
        assert word in script, word


@pytest.mark.parametrize("option", ["--version", "--help"])
def test_words_after_what_stands_alone_are_refused(capsys, option):
    assert __main__.main([option, "train"]) == 2
    assert f"{option} stands alone, got train after it" in capsys.readouterr().err
