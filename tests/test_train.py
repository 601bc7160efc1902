"""Training: the same numbers every time, through interruptions, and clear words for bad input."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

import memt
import train_toy
from train_toy import default_settings

TINY = {"length": 3, "width": 8, "heads": 2, "hidden": 16, "layers": 1, "batch": 8, "steps": 60}
ARGUMENTS = [f"--{n}={x}" for n, x in TINY.items()]
SCRIPT = [sys.executable, str(Path(train_toy.__file__))]


def train(s, state=None, until=None):
    state = state or train_toy.start(s)
    for _ in train_toy.training(s, state):
        if state.step == until:
            break
    return state


def command(monkeypatch, *arguments):
    """Exit status of the command in this process."""
    monkeypatch.setattr(sys, "argv", ["train_toy.py", *map(str, arguments)])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    try:
        return train_toy.main()
    except SystemExit as end:
        return end.code


# Loss at steps 1, 10, 20 and 30, written down when PyTorch's twin, Adam and clipping gave the same.
CURVES = {
    "transformer": [2.519339, 2.509070, 2.340086, 2.326371],
    "memtransformer": [2.653243, 2.407281, 2.406207, 2.336650],
    "masked": [2.962404, 2.433794, 2.368081, 2.364503],
    "memctrl": [2.537162, 2.520259, 2.385667, 2.302368],
    "membottleneck": [2.638607, 2.576112, 2.329984, 2.307892],
}
CURVE_SETTINGS = {"length": 4, "width": 16, "heads": 4, "hidden": 24, "batch": 16, "seed": 1,
                  "steps": 30, "lr": 1e-2}  # fmt: skip


@pytest.mark.parametrize("variant", memt.VARIANTS)
def test_frozen_loss_curve(variant):
    """A change of BLAS moves these by about 1e-6, a wrong term by much more than 1e-3."""
    s = default_settings(variant, **CURVE_SETTINGS)
    state = train_toy.start(s)
    losses = np.array([state.loss for _ in train_toy.training(s, state)])
    assert np.allclose(losses[[0, 9, 19, 29]], CURVES[variant], rtol=1e-3), losses


@pytest.mark.parametrize("variant", memt.VARIANTS)
def test_same_seed_same_bits(variant):
    s = default_settings(variant, **TINY)
    a, b = train(s), train(s)
    assert np.array_equal(memt.flat(a.params), memt.flat(b.params)) and a.log == b.log
    other = train(default_settings(variant, **TINY, seed=1))
    assert not np.array_equal(memt.flat(a.params), memt.flat(other.params))


@pytest.mark.parametrize("until", [0, 1, 25, 37])
def test_resumed_equals_uninterrupted(until, tmp_path):
    s = default_settings("memctrl", **TINY)
    whole = train(s)
    state = train(s, until=until) if until else train_toy.start(s)
    train_toy.write_checkpoint(tmp_path, s, state)
    s_read, read = train_toy.read_checkpoint(tmp_path)
    assert s_read == s and read.step == until
    resumed = train(s_read, read)
    assert resumed.log == whole.log and resumed.step == whole.step == 60
    for a, b in ((resumed.m, whole.m), (resumed.v, whole.v)):
        assert np.array_equal(a, b)
    assert np.array_equal(memt.flat(resumed.params), memt.flat(whole.params))


def test_adam_by_the_formula():
    """Two steps of one number, from the paper's algorithm written out."""
    x, m, v = np.array([1.0]), np.zeros(1), np.zeros(1)
    mean = square = 0.0
    expected = 1.0
    for step, g in ((1, 0.5), (2, -2.0)):
        train_toy.adam(x, np.array([g]), m, v, step, 0.01)
        mean, square = 0.9 * mean + 0.1 * g, 0.999 * square + 0.001 * g * g
        fair = mean / (1 - 0.9**step), square / (1 - 0.999**step)
        expected -= 0.01 * fair[0] / (fair[1] ** 0.5 + 1e-8)
        assert np.allclose(x, expected, rtol=1e-14)


def test_clip():
    for grad in (np.array([3.0, -4.0]), np.array([0.3, 0.4]), np.zeros(2)):
        clipped = grad.copy()
        with np.errstate(all="ignore"):
            train_toy.clip(clipped)
        assert np.allclose(clipped, grad / max(1, np.sqrt(grad @ grad)), rtol=1e-14)
    s = default_settings(**TINY)
    state = train_toy.start(s)
    batch = train_toy.make_batch(s, s.batch, train_toy.TRAINING, 1)
    _, grad = train_toy.loss_and_grads(state.params, s, *batch)
    next(train_toy.training(s, state))
    norm = np.linalg.norm(grad)
    assert norm > 1 and np.allclose(state.m, 0.1 * grad / norm, rtol=1e-5)  # training clips


def test_learning_rate():
    rates = [train_toy.learning_rate(step, 1000, 0.5) for step in range(1, 1001)]
    assert rates[0] == 0.005 and 0.48 < rates[99] < 0.5 and max(rates) == rates[99]
    assert np.isclose(rates[500], 0.25) and 0 < rates[-1] < 1e-5


def test_batches():
    s = default_settings(length=4, symbols=3)
    tokens, targets = train_toy.make_batch(s, 50, train_toy.TRAINING, 7)
    assert tokens.shape == (50, 8) and (tokens[:, 4:] == 3).all()
    assert set(np.unique(tokens[:, :4])) == {0, 1, 2}
    assert np.array_equal(targets, tokens[:, 3::-1])
    copy, _ = train_toy.make_batch(default_settings(length=4, symbols=3, task="copy"), 50, 0, 7)
    assert np.array_equal(tokens, copy)
    for stream, step in ((train_toy.TRAINING, 8), (train_toy.VALIDATION, 7), (train_toy.TEST, 7)):
        assert not np.array_equal(tokens, train_toy.make_batch(s, 50, stream, step)[0])


def test_scores():
    s = default_settings(**TINY)
    params = train_toy.start(s).params
    tokens, targets = train_toy.make_batch(s, 40, train_toy.TEST)
    *_, outputs = train_toy.evaluate(params, s, tokens, targets)
    targets = outputs.copy()
    targets[:10, 1] = (targets[:10, 1] + 1) % 10
    _, symbol, exact, _ = train_toy.evaluate(params, s, tokens, targets)
    assert np.isclose(symbol, 1 - 10 / 120) and exact == 0.75


def test_a_run_that_is_solved_stops():
    s = default_settings("transformer", length=2, symbols=3, width=16, hidden=32, steps=2000)
    state = train(s)
    assert state.step < 1000 and min(row[3] for row in state.log[-2:]) >= train_toy.SOLVED
    scores = train_toy.evaluate(state.params, s, *train_toy.make_batch(s, 1000, train_toy.TEST))
    assert scores[2] >= 0.99


def test_one_good_validation_is_not_enough():
    s = default_settings(**TINY)
    state = train_toy.start(s)
    for row, solved in (((25, 0.1, 1.0, 1.0), False), ((50, 0.1, 1.0, 1.0), True)):
        state.log.append(row)
        assert train_toy.finished(s, state) == solved
    state.log.append((55, 0.1, 1.0, 0.99))
    assert not train_toy.finished(s, state)


def test_the_log_is_that_of_the_validation_stream():
    s = default_settings(**TINY)
    state = train(s, until=25)
    batch = train_toy.make_batch(s, train_toy.VALIDATE_ON, train_toy.VALIDATION, 25)
    assert state.log == [(25, *train_toy.evaluate(state.params, s, *batch)[:3])]


def test_an_unknown_task():
    with pytest.raises(ValueError, match="task is 'juggle': must be one of copy, reverse"):
        default_settings(task="juggle")


@pytest.mark.parametrize("name", ["vector", "m", "v"])
def test_a_checkpoint_with_nan(name, tmp_path):
    s = default_settings(**TINY)
    state = train(s, until=2)
    {"vector": memt.flat(state.params), "m": state.m, "v": state.v}[name][3] = np.nan
    train_toy.write_checkpoint(tmp_path, s, state)
    with pytest.raises(ValueError, match=f"{name} does not fit"):
        train_toy.read_checkpoint(tmp_path)


def test_the_result_says_how_many_steps_it_took(tmp_path):
    s = default_settings(**TINY)
    train_toy.write_result(tmp_path, s, train(s, until=7), (0.5, 0.25, 0.125))
    said = json.loads((tmp_path / "result.json").read_text())
    assert (said["steps"], said["max_steps"], said["loss"], said["exact"]) == (7, 60, 0.5, 0.125)


def test_overwriting_removes_the_whole_old_run(tmp_path):
    for name in train_toy.FILES:
        (tmp_path / name).touch()
    (tmp_path / "notes.txt").touch()
    train_toy.prepare({**TINY, "out": tmp_path, "overwrite": True})
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


# ---------------------------------------------------------------- the command


def test_a_run_leaves_its_files(tmp_path, monkeypatch, capsys):
    out = tmp_path / "ein Lauf mit Umlaut ü"
    assert command(monkeypatch, *ARGUMENTS, "--out", out, "--variant=memctrl", "--window=1") == 0
    assert sorted(os.listdir(out)) == sorted(train_toy.FILES)
    params, config = memt.load(out / "model.npz")
    assert config == default_settings("memctrl", **TINY, window=1).config()
    with open(out / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["25", "50", "60"]
    result = json.loads((out / "result.json").read_text())
    s = default_settings("memctrl", **TINY, window=1)
    loss, symbol, exact, _ = train_toy.evaluate(
        params, s, *train_toy.make_batch(s, 1000, train_toy.TEST)
    )
    assert [result[n] for n in ("loss", "symbol", "exact")] == [loss, symbol, exact]
    expected = {"task": "reverse", "variant": "memctrl", "seed": 0, "steps": 60, "max_steps": 60}
    expected |= {"window": 1, "width": 8, "lr": s.lr, "tested_on": 1000}
    assert expected.items() <= result.items() and result["seconds"] > 0
    printed = capsys.readouterr().out
    assert "step 60/60" in printed and printed.count("target") == 3 and str(out) in printed
    for picture in ("curve.png", "attention.png"):
        assert (out / picture).read_bytes().startswith(b"\x89PNG")


def test_a_directory_that_holds_a_run(tmp_path, monkeypatch, capsys):
    arguments = [*ARGUMENTS, "--out", tmp_path / "run"]
    assert command(monkeypatch, *arguments, "--seed=1") == 0
    before = (tmp_path / "run/model.npz").read_bytes()
    assert command(monkeypatch, *arguments) == 2
    assert "holds a run: give --resume, --overwrite" in capsys.readouterr().err
    assert command(monkeypatch, "--resume", "--out", tmp_path / "run", "--seed=2") == 2
    assert "--seed is 2, the run has 1" in capsys.readouterr().err
    assert (tmp_path / "run/model.npz").read_bytes() == before
    log = (tmp_path / "run/log.csv").read_bytes()
    assert command(monkeypatch, "--resume", "--out", tmp_path / "run") == 0  # already finished
    assert (tmp_path / "run/log.csv").read_bytes() == log
    assert command(monkeypatch, *arguments, "--overwrite") == 0
    assert json.loads((tmp_path / "run/result.json").read_text())["seed"] == 0


def test_resume_where_nothing_is(tmp_path, monkeypatch):
    """A run that was killed before its first checkpoint starts at the beginning."""
    assert command(monkeypatch, *ARGUMENTS, "--resume", "--out", tmp_path / "run") == 0
    assert (tmp_path / "run/result.json").exists()


def test_without_matplotlib(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert command(monkeypatch, *ARGUMENTS, "--out", tmp_path / "run") == 0
    assert "curve.png and attention.png are left out" in capsys.readouterr().out
    assert not (tmp_path / "run/curve.png").exists() and (tmp_path / "run/model.npz").exists()


def test_a_loss_that_is_not_finite(tmp_path, monkeypatch, capsys):
    arguments = [*ARGUMENTS, "--steps=600", "--lr=1e37", "--out", tmp_path / "run"]
    assert command(monkeypatch, *arguments) == 1
    assert "the loss is not finite at step" in capsys.readouterr().err
    _, state = train_toy.read_checkpoint(tmp_path / "run")
    assert np.isfinite(memt.flat(state.params)).all()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals to send")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_and_resumed(number, tmp_path):
    """As a process: stopped in the middle, resumed, and equal to an uninterrupted run."""
    arguments = [*ARGUMENTS, "--steps=1500", "--symbols=40"]
    whole = [*SCRIPT, *arguments, "--out", str(tmp_path / "whole")]
    cut = [*SCRIPT, *arguments, "--out", str(tmp_path / "cut")]
    subprocess.run(whole, check=True, stdout=subprocess.DEVNULL)
    process = subprocess.Popen(cut, stdout=subprocess.PIPE, text=True)
    process.stdout.readline()  # the first line of progress
    time.sleep(0.3)
    process.send_signal(number)
    printed = process.communicate(timeout=60)[0]
    assert process.returncode == 128 + number and "--resume --out" in printed
    _, state = train_toy.read_checkpoint(tmp_path / "cut")
    assert 0 < state.step < 1500
    subprocess.run([*cut, "--resume"], check=True, stdout=subprocess.DEVNULL)
    for name in ("model.npz", "log.csv"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_pipe_that_closes(tmp_path):
    process = subprocess.Popen(
        [*SCRIPT, *ARGUMENTS, "--out", str(tmp_path / "run")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    process.stdout.close()
    assert process.wait(timeout=60) == 0 and process.stderr.read() == b""
    assert (tmp_path / "run/result.json").exists()


BAD_ARGUMENTS = {
    "--task=revers": "revers",
    "--variant=membottlneck": "'membottleneck'",
    "--memory=0": "memory is 0",
    "--memory=x": "'x'",
    "--length=0": "length is 0",
    "--symbols=-3": "symbols is -3",
    "--width=33": "width is 33",
    "--heads=5": "width is 8: must be even and a multiple of heads (5)",
    "--hidden=0": "hidden is 0",
    "--layers=0": "layers is 0",
    "--batch=100000000000000000000": "below 2**31",
    "--steps=99999999999": "below 2**31",
    "--window=2": "window is 2",
    "--variant=masked --share-controller": "share_controller is True",
    "--variant=transformer --memory=2": "memory is 2",
    "--steps=0": "steps is 0",
    "--batch=0": "batch is 0",
    "--lr=0": "lr is 0.0",
    "--lr=nan": "lr is nan",
    "--lr=inf": "lr is inf",
    "--lr=fast": "'fast'",
    "--seed=-1": "seed is -1",
    "--resume --overwrite": "--resume and --overwrite",
    "--speed=3": "--speed=3",
    "--mem=3": "--mem=3",
    "more": "more",
}


@pytest.mark.parametrize("arguments, words", BAD_ARGUMENTS.items(), ids=BAD_ARGUMENTS)
def test_bad_arguments(arguments, words, tmp_path, monkeypatch, capsys):
    given = [*ARGUMENTS, *arguments.split(), "--out", tmp_path / "run"]
    assert command(monkeypatch, *given) == 2
    printed = capsys.readouterr()
    assert words in printed.err and printed.err.count("\n") == 1 and not printed.out
    assert not (tmp_path / "run").exists()


def test_bad_places(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("x")
    assert command(monkeypatch, *ARGUMENTS, "--out", tmp_path / "file") == 2
    assert command(monkeypatch, *ARGUMENTS, "--out", tmp_path / "file" / "run") == 2
    (tmp_path / "run").mkdir()
    (tmp_path / "run/checkpoint.npz").write_bytes(b"broken")
    assert command(monkeypatch, *ARGUMENTS, "--resume", "--out", tmp_path / "run") == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 3 and "checkpoint.npz' is not a" in errors[2]
    assert (tmp_path / "run/checkpoint.npz").read_bytes() == b"broken"


def test_overwriting_with_what_cannot_be_had_loses_nothing(tmp_path, monkeypatch, capsys):
    arguments = [*ARGUMENTS, "--out", tmp_path / "run"]
    assert command(monkeypatch, *arguments) == 0
    before = sorted(os.listdir(tmp_path / "run"))
    assert command(monkeypatch, *arguments, "--overwrite", "--hidden=2000000000") == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert sorted(os.listdir(tmp_path / "run")) == before


def damaged_checkpoint(out, **changes):
    about = {"settings": asdict(default_settings(**TINY)), "step": 25, "seconds": 1.0, "log": []}
    vector = memt.flat(train_toy.start(default_settings(**TINY)).params)
    arrays = {"about": np.array(json.dumps(about | changes)), "m": vector, "v": vector}
    np.savez(out / "checkpoint.npz", vector=vector, **arrays)


@pytest.mark.parametrize(
    "changes",
    [
        {"step": float("inf")},
        {"log": [[25]]},
        {"log": 3},
        {"settings": {"depth": 3}},
        {"settings": {"hidden": 2_000_000_000}},
        {"settings": {"width": 16}},
    ],
    ids=str,
)
def test_a_damaged_checkpoint(changes, tmp_path):
    damaged_checkpoint(tmp_path)
    assert train_toy.read_checkpoint(tmp_path)[1].step == 25
    damaged_checkpoint(tmp_path, **changes)
    with pytest.raises(ValueError, match=r"checkpoint.npz' is not a checkpoint") as error:
        train_toy.read_checkpoint(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("stdout", ["closed", "full", "ascii"])
def test_output_that_nobody_can_read(stdout, tmp_path):
    """A run is not lost for a line of progress."""
    run = [*SCRIPT, *ARGUMENTS, "--out", str(tmp_path / "Lauf ü")]
    target, environment = subprocess.PIPE, dict(os.environ)
    if stdout == "full" and os.path.exists("/dev/full"):
        target = open("/dev/full", "w")  # noqa: SIM115
    if stdout == "closed":
        code = "import os, runpy, sys; sys.stdout = None; sys.argv = sys.argv[1:]; "
        run[1:1] = ["-c", code + "runpy.run_path(sys.argv[0], run_name='__main__')"]
    if stdout == "ascii":
        environment["PYTHONIOENCODING"] = "ascii"
    ended = subprocess.run(run, stdout=target, stderr=subprocess.PIPE, env=environment)
    assert ended.returncode == 0 and ended.stderr == b""
    assert (tmp_path / "Lauf ü/result.json").exists()


def test_help_shows_the_defaults(monkeypatch, capsys):
    assert command(monkeypatch, "--help") == 0
    printed = capsys.readouterr().out
    for variant in memt.VARIANTS:
        assert f"{variant:<15} --memory {default_settings(variant).memory}" in printed


# ---------------------------------------------------------------- the house


def test_who_imports_whom():
    """memt and autograd load NumPy alone, and know nothing of each other."""
    allowed = {"memt": {"numpy"}, "autograd": {"numpy"}, "train_toy": {"numpy", "memt"}}
    for module, packages in allowed.items():
        code = (
            f"import sys; old = set(sys.modules); import {module}; print(*{{*sys.modules}} - old)"
        )
        root = Path(memt.__file__).parent
        run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
        loaded = {n.partition(".")[0] for n in run.stdout.split()} - {module}
        loaded = {n for n in loaded if "cython" not in n}  # NumPy's own
        assert loaded - set(sys.stdlib_module_names) <= packages
