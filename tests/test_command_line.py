"""What people type: the names of runs, the words of other tools, another Python than the one with the libraries."""

import os
import shutil
import subprocess
import sys

import pytest
from torch.distributed.run import get_args_parser

import plot_loss
import sample
from config import FIELDS
from lib.other_names import OTHER_NAMES, hint
from tests.conftest import SCRIPTS
from tools import export
from tools.report import __main__ as report

PROMPT = ["--prompt=曹操", "--max_new_tokens=0"]
OWN_FLAGS = {"prompt", "prompt_file", "num_samples", "max_new_tokens", "temperature", "top_k", "top_p", "stop"}
OWN_FLAGS |= {"repetition_penalty", "resume", "overwrite", "type", "out"}


@pytest.mark.parametrize("script", [plot_loss, sample, export, report])
def test_a_run_is_named_in_one_way_everywhere(run, fails, script):
    more = PROMPT if script is sample else []
    for words in (["none"], ["--run=none"], ["--run", "none"], ["--run_name=none"]):
        assert "no run named 'none'; there is run" in fails(script.main, [*words, *more])
        assert "no run named 'none'; there is run" in fails(script.main, [*more, *words])
    if script is not plot_loss:  # It draws several.
        assert "--run" in fails(script.main, ["run", "--run=none", *more], code=2)
    assert "here it is --run" in fails(script.main, ["--out_dir", "run", *more], code=2)


@pytest.mark.parametrize("script", [plot_loss, sample, export, report])
def test_a_folder_of_the_same_name_hides_no_run(run, home, monkeypatch, fails, script):
    (home / "here" / "run").mkdir(parents=True)
    (home / "here" / "best.pt").mkdir()
    monkeypatch.chdir(home / "here")
    more = PROMPT if script is sample else []
    assert script.main(["run", *more]) == 0
    (home / "here" / "other").mkdir()
    assert "other has no " in fails(script.main, ["other", *more])


def test_a_mistake_names_the_help_of_what_was_started():
    for words, name in (
        (["plot_loss.py"], "plot_loss.py"),
        (["-m", "tools.lab.experiments"], "python -m tools.lab.experiments"),
    ):
        found = subprocess.run(
            [sys.executable, *words, "--nonsense"], cwd=SCRIPTS, capture_output=True, encoding="utf-8"
        )
        assert found.stderr == f"error: unknown flag --nonsense (see {name} --help)\n"


def test_a_value_that_begins_with_a_dash_says_how_it_is_written(run, fails, capsys):
    assert "as in --prompt=-1" in fails(sample.main, ["run", "--prompt", "-老周说"], code=2)
    assert "unknown flag -abc; a value is --prompt=-abc" in fails(sample.main, ["run", "--prompt", "-abc"], code=2)
    assert sample.main(["run", "--prompt=-老周说", "--max_new_tokens=0"]) == 0
    assert capsys.readouterr().out == "-老周说\n"


def test_half_a_character_is_no_name(run, fails):
    for script, word in ((sample, "--prompt_file=\ud800"), (sample, "--out=\ud800"), (plot_loss, "--out=\ud800")):
        assert "\\ud800: half a character" in fails(script.main, ["run", word], code=2)


def test_plot_loss_takes_several_runs_in_each_form(run, home):
    shutil.copytree(run, run.parent / "second")
    for words in (["run", "second"], ["--run=run", "--run=second"], ["run", "--run=second"]):
        assert plot_loss.main(words) == 0
        (home / "out" / "loss.png").unlink()


def test_the_name_of_a_file_chooses_its_format(run, home):
    out = home / "model.GGUF"
    assert export.main(["--run=run", f"--out={out}", "--type=q8_0"]) == 0
    assert out.read_bytes().startswith(b"GGUF")


def test_sample_knows_the_words_of_other_tools(run, fails):
    for words, flag in (
        (["--start", "曹操"], "--prompt"),
        (["--start=曹操 刘备"], "--prompt"),
        (["--max_tokens=3"], "--max_new_tokens"),
        (["-n", "3"], "--num_samples"),
        (["--checkpoint=run"], "--run"),
    ):
        error = fails(sample.main, [*words, "--run=run"], code=2)
        assert f"unknown flag {words[0].split('=')[0]}, here it is {flag}" in error


def test_other_names_lead_to_ours():
    keys = {key.partition(";")[0] for key in OTHER_NAMES}
    assert keys <= FIELDS.keys() | OWN_FLAGS
    for key, theirs in OTHER_NAMES.items():
        name = key.partition(";")[0]
        for word in theirs.split():
            assert word != name and f"here it is {name}" in hint(word, [name]), word
    words = [word for key, theirs in OTHER_NAMES.items() if key.partition(";")[0] in FIELDS for word in theirs.split()]
    assert not set(words) & FIELDS.keys()


def test_torchrun_leaves_the_flags_alone():
    flags = [name for name in FIELDS if name != "run"]
    for flag in [*flags, "run_name", "config", "resume", "overwrite", "plan"]:
        words = ["config/tiny.py", f"--{flag}", f"--{flag}=1"]
        assert get_args_parser().parse_args(["--standalone", "train.py", *words]).training_script_args == words


@pytest.mark.parametrize(
    "script, settings, expected",
    [
        ("train.py", {}, "1000"),
        ("train.py", {"GOMP_SPINCOUNT": "7"}, "7"),
        ("train.py", {"OMP_WAIT_POLICY": "ACTIVE"}, "None"),
        ("sample.py", {}, "None"),
    ],
)
def test_threads_wait_shortly_in_training_unless_the_user_has_said(script, settings, expected):
    code = f"import os, sys; sys.argv[0] = '{script}'; import lib.machine.startup as _;"
    code += " print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"
    environment = {key: value for key, value in os.environ.items() if key not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    command = [sys.executable, "-c", code]
    found = subprocess.check_output(command, cwd=SCRIPTS, env=environment | settings, encoding="utf-8")
    assert found.split() == [expected, "False"]


# --- another Python


def refuses_to_start(*command, **settings):
    """Start a process in the folder of the scripts; it must fail with one line of error, which is returned."""
    found = subprocess.run(command, cwd=SCRIPTS, capture_output=True, encoding="utf-8", **settings)
    assert found.returncode == 1 and found.stdout == ""
    assert found.stderr.startswith("error: ") and found.stderr.count("\n") == 1, found.stderr
    return found.stderr


SCRIPT_NAMES = ["train_tokenizer.py", "prepare.py", "train.py", "sample.py", "plot_loss.py"]
TOOL_NAMES = ["tools.report", "tools.export", "tools.bench", "tools.lab.experiments"]


@pytest.mark.parametrize("words", [*([name] for name in SCRIPT_NAMES), *(["-m", name] for name in TOOL_NAMES)])
def test_a_python_without_the_libraries(words):
    error = refuses_to_start(sys.executable, "-S", *words)  # -S: without site-packages
    assert " is not installed for " in error and ".venv/bin/python" in error and "requirements.txt" in error


def test_a_mistake_of_our_own_keeps_its_traceback():
    code = "import lib.machine.startup; 1 / 0"
    found = subprocess.run([sys.executable, "-c", code], cwd=SCRIPTS, capture_output=True, encoding="utf-8")
    assert "Traceback" in found.stderr and "ZeroDivisionError" in found.stderr


OLD = "sys.version_info, sys.version = (3, 10, 12), '3.10.12 (main)'"


@pytest.mark.parametrize("script", SCRIPT_NAMES)
def test_a_python_that_is_too_old(script):
    code = f"import runpy, sys; {OLD}; runpy.run_path({script!r}, run_name='__main__')"
    error = refuses_to_start(sys.executable, "-S", "-c", code)
    assert "is Python 3.10.12, and 3.11 or newer is needed" in error


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
def test_make_needs_a_python_that_is_new_enough(tmp_path):
    python = (
        tmp_path / "python3.10"
    )  # It answers what is asked with -c; anything else would make or download something.
    python.write_text(
        f"""#!/bin/sh
test "$1" = -c && exec {sys.executable} -c "import sys; {OLD}; exec(sys.argv[1])" "$2"
touch "{tmp_path}/used"
""",
        encoding="utf-8",
    )
    python.chmod(0o755)
    command = ["make", "demo", f"PYTHON={python}", f"VENV={tmp_path / 'venv'}"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    found = subprocess.run(command, cwd=SCRIPTS, env=environment, capture_output=True, encoding="utf-8")
    assert found.returncode == 2 and "3.11 or newer is needed" in found.stderr
    assert list(tmp_path.iterdir()) == [python]
