"""Training: the same numbers every time, also if interrupted; clear messages for bad input."""

import copy
import csv
import ctypes
import io
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import matplotlib.figure
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import memt
import train_toy
from train_toy import TEST, TRAINING, VALIDATION, Batch, default_settings

from .support import random_mask
from .test_files import ANY

TINY = {"length": 3, "width": 8, "heads": 2, "hidden": 16, "layers": 1, "batch": 8, "steps": 60}
ARGUMENTS = [f"--{n}={x}" for n, x in TINY.items()]
SCRIPT = [sys.executable, train_toy.__file__, *ARGUMENTS]
RESUME = ["python", "train_toy.py", "--resume", "--out"]
BUFFERED = {**os.environ, "PYTHONUNBUFFERED": ""}  # as it is by default
POSIX = pytest.mark.skipif(os.name == "nt", reason="signals, limits and shells are POSIX's")


def train(s, state=None, until=None):
    state = state or train_toy.start(s)
    for _ in train_toy.training(s, state):
        if state.step == until:
            break
    return state


def command(*arguments):
    """Exit status, standard output and standard error of the command, in this process."""
    with (
        redirect_stdout(io.StringIO()) as out,
        redirect_stderr(io.StringIO()) as err,
        mock.patch.object(sys, "argv", ["train_toy.py", *map(str, arguments)]),
        mock.patch.object(signal, "signal"),
    ):
        try:
            status = train_toy.main()
        except SystemExit as end:
            status = end.code
    return status, out.getvalue(), err.getvalue()


def refusal(*arguments):
    """The one line with which the command must refuse."""
    status, out, err = command(*arguments)
    assert status == 2 and err.count("\n") == 1 and not out
    return err


def contents(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run's directory, and what it printed."""
    out = tmp_path_factory.mktemp("runs") / "ein Lauf ü"
    status, printed, err = command(*ARGUMENTS, "--out", out, "--variant=memctrl", "--window=1")
    assert status == 0 and not err
    return out, printed


@pytest.fixture
def old_run(finished, tmp_path):
    return Path(shutil.copytree(finished[0], tmp_path / "run"))


@pytest.fixture
def clock(monkeypatch):
    """train_toy's clock, advanced by the test."""
    now = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(train_toy, "time", SimpleNamespace(perf_counter=lambda: now.seconds))
    return now


# ---------------------------------------------------------------- numbers

# Loss at steps 1 and 10, written down when PyTorch agreed (see test_bridge).
LOSSES = {
    "transformer": (2.548405, 2.445197),
    "memtransformer": (2.584934, 2.328688),
    "masked": (2.973239, 2.355131),
    "memctrl": (2.499082, 2.353800),
    "membottleneck": (2.499082, 2.346731),
}


@pytest.mark.parametrize("variant", LOSSES)
def test_a_seed_gives_the_same_run_for_ever(variant):
    """Other BLAS kernels move these by about 1e-6 (but later losses by far more)."""
    sizes = {"length": 4, "width": 16, "heads": 4, "hidden": 24, "batch": 16}
    s = default_settings(variant, **sizes, seed=1, steps=10, lr=1e-2)
    losses = [state.loss for state in train_toy.training(s, train_toy.start(s))]
    assert np.allclose((losses[0], losses[9]), LOSSES[variant], rtol=1e-4), losses


CASES = [(v, train_toy.OPTIMIZERS[i % 2], 23 + i) for i, v in enumerate(memt.VARIANTS)]


@pytest.mark.parametrize("variant, optimizer, until", CASES)
@pytest.mark.parametrize("more", [0, 25])
def test_resumed_equals_uninterrupted(variant, optimizer, until, more, tmp_path, monkeypatch):
    """Bit for bit, also when resumed with more steps; step 25 is validated, steps take 1 s."""
    ticks = SimpleNamespace(perf_counter=itertools.count().__next__)
    monkeypatch.setattr(train_toy, "time", ticks)
    short = default_settings(variant, **TINY, optimizer=optimizer)
    s = replace(short, steps=60 + more)
    whole = train(s, train(short) if more else None)
    begun = train(short, until=60 if more else until)
    train_toy.write_checkpoint(tmp_path, short, begun)
    if more:
        train_toy.write_checkpoint(tmp_path, s, train(s, begun, until=60 + until % 7 + 1))
    s_read, read = train_toy.read_checkpoint(tmp_path)
    assert s_read == s and read.step == read.seconds < s.steps
    resumed = train(s_read, read)
    assert resumed.log == whole.log and resumed.step == resumed.seconds == whole.step == s.steps
    for name, vector in whole.vectors.items():
        assert np.array_equal(resumed.vectors[name], vector), name


def test_a_lengthened_run_is_one_that_was_longer_from_the_start():
    """With muon, to the bit: its learning rate does not depend on the number of steps."""
    for optimizer, same in ("muon", True), ("adam", False):
        short = default_settings(**TINY, optimizer=optimizer)
        long = replace(short, steps=75)
        lengthened, whole = train(long, copy.deepcopy(train(short))), train(long)
        assert [row[0] for row in lengthened.log] == [25, 50, 75]
        assert (lengthened.log == whole.log) == same
        for name, vector in whole.vectors.items():
            assert np.array_equal(lengthened.vectors[name], vector) == same


def test_clip():
    """To a norm of at most 1; also where squares overflow in float32."""
    for grad in ([3.0, -4.0], [0.3, 0.4], [0.0, 0.0], [6e25, 8e25], [3e38, 0.0]):
        clipped = np.array(grad, np.float32)
        train_toy.clip(clipped)
        assert np.allclose(clipped, np.array(grad) / max(1, np.hypot(*grad)), rtol=1e-6, atol=0)


def test_learning_rate():
    s = default_settings(steps=1000, lr=0.5, optimizer="adam")
    rates = [train_toy.learning_rate(s, step) for step in range(1, 1001)]
    assert rates[0] == 0.005 and 0.48 < rates[99] < 0.5 and max(rates) == rates[99]
    assert np.isclose(rates[500], 0.25) and 0 < rates[-1] < 1e-5
    rates = [train_toy.learning_rate(default_settings(lr=0.5), step) for step in (1, 20, 200, 800)]
    assert np.allclose(rates, [0.025, 0.5, 0.5, 0.25])


def test_muon_moves_all_directions_of_a_matrix_equally_far():
    """Wide, tall and low-rank matrices keep their singular vectors; zeros stay zeros."""
    rng = np.random.default_rng(60)
    u, v = np.linalg.qr(rng.standard_normal((2, 6, 6)))[0]
    sizes = np.array([9, 5, 3, 2, 1, 0])
    x = u * sizes @ v[:6]
    found = np.diag(u.T @ train_toy.orthogonal(x) @ v.T)
    assert np.allclose(train_toy.orthogonal(x), u * found @ v)
    assert (abs(found[:5] - 1) < 0.35).all() and abs(found[5]) < 1e-9
    assert not train_toy.orthogonal(np.zeros((2, 3, 5))).any()
    tall, wide = np.zeros((5, 3)), np.zeros((3, 5))
    assert train_toy.short_side_first(tall).base is tall
    assert train_toy.short_side_first(wide) is wide


def test_batches():
    s = default_settings(length=4, symbols=3)
    tokens, targets, at, mask = train_toy.make_batch(s, 50, TRAINING, 7)
    assert tokens.shape == (50, 8) and (tokens[:, 4:] == 3).all()
    assert set(np.unique(tokens[:, :4])) == {0, 1, 2}
    assert np.array_equal(targets, tokens[:, 3::-1]) and (at, mask) == (slice(4, 8), None)
    test = train_toy.make_batch(s, 9, TEST).tokens  # no step means step 0
    assert np.array_equal(test, train_toy.make_batch(s, 9, TEST, 0).tokens)
    copy = default_settings(length=4, symbols=3, task="copy")
    assert np.array_equal(train_toy.make_batch(copy, 50, TRAINING, 7).targets, tokens[:, :4])
    other = default_settings(length=4, symbols=3, seed=1)
    for settings, *of in (s, TRAINING, 8), (s, VALIDATION, 7), (s, TEST, 7), (other, TRAINING, 7):
        assert not np.array_equal(tokens, train_toy.make_batch(settings, 50, *of).tokens)


@pytest.mark.parametrize("kind", ["none", "one", "first", "each", "padding"])
def test_chunks_change_nothing(kind):
    """Scores and mean maps of 150 sequences are those of one batch, whatever the mask."""
    s = default_settings("memctrl", **TINY)
    params, batch = train_toy.start(s).params, train_toy.make_batch(s, 150, TEST)
    mask = random_mask(s.config, np.random.default_rng(1), 150, 6)
    kinds = {"none": None, "one": mask[0], "first": mask[:1], "each": mask, "padding": mask[:, :1]}
    mask = kinds[kind]
    logits, _ = memt.model_forward(params, batch.tokens, s.config, batch.at, mask)
    outputs = logits.argmax(axis=-1)
    targets = np.where(np.arange(150)[:, None] < 90, outputs, 9 - outputs)
    targets[:30, 1] = 9 - targets[:30, 1]
    _, cache = memt.model_forward(params, batch.tokens, s.config)
    with mock.patch.object(memt, "model_forward", wraps=memt.model_forward) as spy:
        scores = train_toy.evaluate(params, s.config, Batch(batch.tokens, targets, batch.at, mask))
        maps = train_toy.mean_maps(params, s.config, batch.tokens)
    assert max(len(call.args[1]) for call in spy.call_args_list) <= 64
    assert np.isclose(scores.loss, memt.cross_entropy_forward(logits, targets)[0], rtol=1e-6)
    assert np.isclose(scores[1:3], (240 / 450, 60 / 150)).all()
    assert np.array_equal(scores.outputs, outputs)
    assert np.allclose(maps, memt.attention_maps(cache).mean(axis=1), atol=1e-6)


@pytest.mark.parametrize("tokens, targets, mask", [(0, 0, None), (9, 8, None), (9, 9, 8)])
def test_as_many_targets_and_masks_as_sequences(tokens, targets, mask):
    s = default_settings(**TINY)
    batch = Batch(
        train_toy.make_batch(s, 9, TEST).tokens[:tokens],
        np.zeros((targets, 3), int),
        mask=mask and np.ones((mask, 16, 16), bool),
    )
    with pytest.raises(ValueError, match="equally many sequences"):
        train_toy.evaluate(train_toy.start(s).params, s.config, batch)


def test_any_source_of_batches():
    """Own data, another head, positions and a mask: check the calls, and that the data are used."""
    s = default_settings("memtransformer", **{**TINY, "steps": 25}, outputs=3, memory=4)
    empty = type("Empty", (list,), {"__call__": lambda *_: 1 / 0})()  # no reason to use the task's
    with pytest.raises(ZeroDivisionError):
        next(train_toy.training(s, train_toy.start(s), empty))
    calls = []

    def batches(size, stream, step):
        calls.append((size, stream, step))
        rng = np.random.default_rng([stream, step])
        tokens, targets = rng.integers(10, size=(size, 5)), rng.integers(3, size=(size, 1))
        return tokens, targets, [4], random_mask(s.config, rng, size, 5)

    state = train_toy.start(s)
    tokens, targets, at, mask = batches(8, TRAINING, 1)
    loss, grads = memt.loss_and_grads(state.weights, tokens, targets, s.config, at, mask)
    grad = memt.flat(grads)
    steps = train_toy.training(s, state, batches)
    next(steps)
    assert state.loss == loss and np.linalg.norm(grad) > 1
    clipped = grad / np.linalg.norm(grad)
    assert np.allclose(state.vectors["m"], 0.3 * clipped, rtol=1e-5)
    assert [state.step for state in steps] == list(range(2, 26))
    trained = [(8, TRAINING, step) for step in range(1, 26)]
    validated = (512, VALIDATION, 25)
    assert calls == [trained[0], *trained, validated]
    scores = train_toy.evaluate(state.params, s.config, Batch(*batches(*validated)))
    assert state.log == [(25, *scores[:3])]


def test_a_run_that_is_solved_stops():
    """Its last two validations were without a mistake."""
    s = default_settings("transformer", length=2, symbols=3, width=16, hidden=32, steps=2000)
    state = train(s)
    assert state.step < 1000 and [row[3] for row in state.log[-2:]] == [1, 1]
    scores = train_toy.evaluate(state.params, s.config, train_toy.make_batch(s, 1000, TEST))
    assert scores.exact >= 0.99
    for exacts, solved in ([1], 0), ([1, 1], 1), ([1, 1, 0.999], 0), ([0, 1, 1], 1), ([1, 0, 1], 0):
        state.log = [(25, 0.1, 1.0, exact) for exact in exacts]
        assert train_toy.finished(s, state) == solved
    state.step = 2000
    assert train_toy.finished(s, state)


def test_one_thread_whatever_was_imported_before():
    for path in Path(np.__file__).parents[1].glob("numpy.libs/*openblas*"):
        blas = ctypes.CDLL(str(path))
        blas.scipy_openblas_set_num_threads64_(2)
        train_toy.one_thread()
        assert blas.scipy_openblas_get_num_threads64_() == 1


def test_the_heap_is_kept_by_glibc_alone(monkeypatch):
    """Its M_TRIM_THRESHOLD is -1, its M_MMAP_THRESHOLD -3."""
    calls = []
    libraries = iter((SimpleNamespace(mallopt=lambda *call: calls.append(call)), object()))
    monkeypatch.setattr(ctypes, "CDLL", lambda _: next(libraries))
    for _ in range(2):
        train_toy.keep_heap()
    assert calls == [(-1, 2**30), (-3, 2**30)]


# ---------------------------------------------------------------- files of a run
def test_a_run_leaves_its_files(finished):
    out, printed = finished
    assert sorted(os.listdir(out)) == sorted(train_toy.FILES)
    s, state = train_toy.read_checkpoint(out)
    read, params = train_toy.read_model(out / "model.npz")
    assert s == default_settings("memctrl", **TINY, window=1) and read.config == s.config
    assert (read.task, read.length) == (s.task, s.length)
    memt.save(out / "model.npz", params, s.config, task=s.task, length=3, note="a note")
    assert train_toy.read_model(out / "model.npz")[0] == read
    assert np.array_equal(memt.flat(params), memt.flat(state.params))
    with open(out / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    names = ("step", "loss", "symbol", "exact")
    assert [tuple(float(row[n]) for n in names) for row in rows] == state.log
    assert [row["step"] for row in rows] == ["25", "50"]
    batch = train_toy.make_batch(s, 1000, TEST)
    scores = train_toy.evaluate(params, s.config, batch)
    expected = {"task": "reverse", "variant": "memctrl", "seed": 0, "tested_on": 1000, "window": 1}
    expected |= {"loss": scores.loss, "symbol": scores.symbol, "exact": scores.exact}
    expected |= {"width": 8, "lr": s.lr, "seconds": round(state.seconds, 3)}
    assert expected.items() <= json.loads((out / "result.json").read_text()).items()
    shown = zip(batch.tokens[:3, :3], batch.targets, scores.outputs, strict=False)
    rows = [" ".join(map(str, row)) for example in shown for row in example]
    assert re.findall(r"(?:input|target|output)  ([\d ]+)\n", printed) == rows
    end = f"symbol accuracy {scores.symbol:.1%}, exact match {scores.exact:.1%}"
    begin = "\nreverse, memctrl, seed 0: not solved after 60 steps, "
    for words in ("step 60/60", begin, f"loss {scores.loss:.3g}, {end}", str(out)):
        assert words in printed


def test_the_result_of_a_run_that_stopped_early(tmp_path):
    s, scores = default_settings(**TINY), train_toy.Scores(0.5, 0.25, 0.125, None)
    train_toy.write_result(tmp_path, s, train(s, until=7), scores)
    said = json.loads((tmp_path / "result.json").read_text())
    names = ("steps", "max_steps", "loss", "symbol", "exact")
    assert [said[name] for name in names] == [7, 60, 0.5, 0.25, 0.125]


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["params", "weights", "m", "v"])
def test_what_is_not_finite(name, value, tmp_path):
    """It is neither written, so that the last checkpoint is kept, nor read."""
    s = default_settings(**TINY)
    state = train(s, until=2)
    train_toy.write_checkpoint(tmp_path, s, state)
    before = contents(tmp_path)
    state.vectors[name][3] = value
    with pytest.raises(FloatingPointError, match="step 2"):
        train_toy.write_checkpoint(tmp_path, s, state)
    assert contents(tmp_path) == before
    with np.load(tmp_path / "checkpoint.npz") as file:
        arrays = dict(file)
    arrays[name][3] = value
    np.savez(tmp_path / "checkpoint.npz", **arrays)
    with pytest.raises(ValueError, match=f"not a checkpoint: {name}"):
        train_toy.read_checkpoint(tmp_path)
    del arrays[name]
    np.savez(tmp_path / "checkpoint.npz", **arrays)
    with pytest.raises(ValueError, match="another version"):
        train_toy.read_checkpoint(tmp_path)


FIELDS = [*train_toy.as_dict(train_toy.Settings()), "depth"]
ROWS = st.lists(st.lists(st.integers(0, 70) | st.floats() | st.text(), min_size=3, max_size=5))


@given(st.sampled_from(["step", "seconds", "log", "settings", *FIELDS]), ANY | ROWS)
@example("hidden", 2_000_000_000)
@example("layers", 2_000_000_000)
@example("step", 61)
@example("step", -1)
@example("step", float("inf"))
@example("log", [[70, 0, 0, 0]])
@example("seconds", float("nan"))
def test_damaged_checkpoints(tmp_path_factory, name, value):
    """Refused in one line, or a state that fits its settings."""
    out, s = tmp_path_factory.getbasetemp(), default_settings(**TINY)
    train_toy.write_checkpoint(out, s, train_toy.start(s))
    with np.load(out / "checkpoint.npz") as file:
        arrays = dict(file)
    about = json.loads(str(arrays["about"]))
    (about if name in about else about["settings"])[name] = value
    np.savez(out / "checkpoint.npz", **arrays | {"about": json.dumps(about)})
    try:
        s, state = train_toy.read_checkpoint(out)
    except ValueError as error:
        assert "is not a checkpoint" in str(error) and "\n" not in str(error)
    else:
        assert 0 <= state.step <= s.steps and all(row[0] <= state.step for row in state.log)
        assert np.isfinite(state.seconds)


# ---------------------------------------------------------------- pictures
def test_pictures(tmp_path, monkeypatch):
    """The log's columns; every head's mean map, not transposed; the lesion matrix, sorted."""
    s = default_settings("memctrl", **{**TINY, "layers": 3}, memory=4)
    state, figures = train_toy.start(s), []
    state.log = [(25, 2.5, 0.25, 0.125), (50, 1.5, 0.75, 0.5), (60, 0.5, 1.0, 0.875)]
    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", lambda f, *_, **__: figures.append(f))
    train_toy.draw(tmp_path, s, state)
    curve, attention, lesions = figures
    step, loss, symbol, exact = np.array(state.log).T
    right = {"loss": loss, "symbol accuracy": 100 * symbol, "exact match": 100 * exact}
    lines = {line.get_label(): line.get_xydata() for ax in curve.axes for line in ax.lines}
    assert [text.get_text() for text in curve.legends[0].texts] == [*right] == [*lines]
    for label, y in right.items():
        assert np.array_equal(lines[label], np.stack((step, y), axis=1))
    left, percent = curve.axes
    words = left.get_xlabel() + left.get_ylabel() + percent.get_ylabel()
    assert [*re.findall("step|nats|%", words)] == ["step", "nats", "%"]
    assert left.get_ylim()[0] == percent.get_ylim()[0] == 0 and 100 < percent.get_ylim()[1] < 110
    assert "memctrl" in left.get_title("left") and "memctrl" in attention.get_suptitle()
    maps = train_toy.mean_maps(state.params, s.config, train_toy.make_batch(s, 1000, TEST).tokens)
    for i, (layer, head) in enumerate(np.ndindex(3, 2)):
        ax = attention.axes[i]
        assert ax.get_title() == f"layer {layer + 1}, head {head + 1}"
        assert np.array_equal(ax.images[0].get_array(), maps[layer, head])
        assert ax.images[0].get_clim() == (0, 1) and len(ax.texts) == 3
    drawn, _ = lesions.axes
    labels = [int(text.get_text()) - 1 for text in drawn.get_yticklabels()]
    matrix = train_toy.lesion_matrix(state.params, s.config, train_toy.make_batch(s, 500, TEST))
    assert sorted(labels) == [0, 1, 2, 3]
    assert np.allclose(drawn.images[0].get_array(), 100 * matrix[labels])
    width, height = attention.get_size_inches()
    assert width < height
    assert "target" in attention.get_supylabel() and "source" in attention.get_supxlabel()


def test_pictures_of_many_heads_and_of_lesions(tmp_path):
    """Over 16 heads: their mean. Tokens by the slot each hurts most, those without effect last."""
    one = default_settings(**TINY, memory=1)  # it must stay
    assert "lesions" not in train_toy.draw(tmp_path, one, train_toy.start(one))
    maps = np.random.default_rng(0).random((3, 6, 5, 5))
    assert train_toy.few_maps(maps[:2]).shape[1] == 6
    assert np.allclose(train_toy.few_maps(maps)[:, 0], maps.mean(axis=1))
    axes, matrix = matplotlib.figure.Figure().add_subplot(), np.zeros((4, 3))
    matrix[[0, 1, 3], [2, 0, 1]] = 0.9, 0.3, 0.6
    train_toy.draw_matrix(axes, matrix)
    assert np.array_equal(axes.images[0].get_array(), 100 * matrix[[1, 3, 0, 2]])
    assert [text.get_text() for text in axes.get_yticklabels()] == [*"2413"]
    assert [text.get_text() for text in axes.get_xticklabels()] == [*"123"]


@pytest.mark.parametrize("M", [0, 4])
def test_names_and_borders_of_a_map(M):
    """Rows are targets: READ is below PROCESS, WRITE to its right; memory, symbols, slots."""
    ax = matplotlib.figure.Figure().add_subplot()
    train_toy.draw_map(ax, np.eye(M + 6), M, 3)
    assert (ax.images[0].get_array().mask == (np.eye(M + 6) == 0)).all()  # in grey
    names = {M + 1: "symbols", M + 4: "slots"} | ({1.5: "memory"} if M else {})
    for axis in (ax.xaxis, ax.yaxis):
        places = zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True)
        assert {place: text.get_text() for place, text in places} == names
    blocks = {text.get_text(): text.get_position() for text in ax.texts}
    assert blocks == ({"PROCESS": (0, 0), "WRITE": (4, 0), "READ": (0, 4)} if M else {})
    for axis in (0, 1):
        lines = [line.get_xydata()[:, axis] for line in ax.lines]
        assert {a for a, b in lines if a == b} == ({M + 2.5, M - 0.5} if M else {2.5})


def test_without_matplotlib(old_run, monkeypatch):
    """The run is complete without pictures; those of the old run are deleted."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    status, printed, _ = command(*ARGUMENTS, "--overwrite", "--out", old_run)
    assert status == 0 and "curve.png, attention.png, lesions.png are left out" in printed
    assert {*os.listdir(old_run)} == {"checkpoint.npz", "model.npz", "log.csv", "result.json"}


# ---------------------------------------------------------------- progress, interruptions
def test_progress(clock, capsys):
    """A line every two seconds, and one at the end."""
    s = default_settings(**{**TINY, "steps": 600})
    state, show, shown = train_toy.start(s), train_toy.show_progress(s, 20, 100.0), []
    for state.step, clock.seconds in ((25, 110), (26, 111.9), (27, 112), (600, 112.1)):
        state.loss = 0.12345
        show(state)
        shown.append(capsys.readouterr().out)
        state.log = [(25, 9, 0.625, 0.25)]
    assert shown[0].split("  ") == ["step 25/600", "loss 0.123", "at most 19:10 left\n"]
    assert "symbol  62.5%  exact  25.0%  at most 16:22 left\n" in shown[2]
    assert not shown[1] and shown[3].endswith("exact  25.0%\n")


def test_progress_on_a_narrow_terminal(clock, monkeypatch):
    """In place, on one line, ten times a second."""
    terminal, s = io.StringIO(), default_settings(**TINY)
    terminal.isatty = lambda: True
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr(sys, "stdout", terminal)
    state, show = train_toy.start(s), train_toy.show_progress(s, 0, 100.0)
    for state.step, clock.seconds in ((1, 100.2), (2, 100.25), (3, 100.35)):
        state.log = [(25, 9, 0.625, 0.25)][: state.step - 1]
        show(state)
    first, one, three = terminal.getvalue().split("\r")
    assert not first and one.startswith("step 1/60") and three.startswith("step 3/60")
    assert len(one) == len(three) == 39 and "\n" not in one + three


def run_with(each, s, out, monkeypatch):
    """train_toy.run with each(state, signal handlers) after a step -> status, handlers, saves."""
    handlers, saved, real = {}, [], (train_toy.training, train_toy.write_checkpoint)

    def training(s, start):
        for state in real[0](s, start):
            each(state, handlers)
            yield state

    def write_checkpoint(out, s, state):
        saved.append(state.step)
        real[1](out, s, state)

    monkeypatch.setattr(signal, "signal", handlers.__setitem__)
    monkeypatch.setattr(train_toy, "training", training)
    monkeypatch.setattr(train_toy, "write_checkpoint", write_checkpoint)
    return train_toy.run(out, s, train_toy.start(s)), handlers, saved


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_after_the_step(number, tmp_path, monkeypatch, capsys):
    def each(state, handlers):
        if state.step == 7:
            handlers[number](number, None)
            assert handlers[number] == signal.SIG_DFL  # a second one ends it at once

    out = tmp_path / "ein Lauf; mit 'Zeichen'"
    out.mkdir()
    status, _, saved = run_with(each, default_settings(**TINY), out, monkeypatch)
    assert status == 128 + number and saved == [0, 7]
    printed = capsys.readouterr().out
    assert "stopped at step 7" in printed
    resume = shlex.split(printed.splitlines()[-1])  # it can be pasted into a shell
    assert resume == [*RESUME, str(out)]


def test_checkpoints_every_five_seconds(tmp_path, monkeypatch, clock):
    def each(state, handlers):
        clock.seconds += 2

    s = default_settings(**{**TINY, "steps": 10, "heads": 1})  # and a picture of a single map
    status, handlers, saved = run_with(each, s, tmp_path, monkeypatch)
    assert (status, saved) == (0, [0, 3, 6, 9, 10])
    assert handlers == dict.fromkeys((signal.SIGINT, signal.SIGTERM), signal.SIG_DFL)


@POSIX
def test_interrupted_and_resumed(tmp_path):
    """As a process: stopped twice in the middle, resumed, and equal to an uninterrupted run."""
    given = [*SCRIPT, "--steps=1000", "--symbols=40"]
    whole, cut = ([*given, "--out", str(tmp_path / name)] for name in ("whole", "cut"))
    subprocess.run(whole, check=True, stdout=subprocess.DEVNULL)
    last = 0
    for number, resume in ((signal.SIGINT, []), (signal.SIGTERM, ["--resume"])):
        process = subprocess.Popen([*cut, *resume], stdout=subprocess.PIPE, env=BUFFERED)
        process.stdout.readline()  # the first line of progress
        time.sleep(0.1)
        process.send_signal(number)
        process.communicate(timeout=60)
        assert process.returncode == 128 + number
        _, state = train_toy.read_checkpoint(tmp_path / "cut")
        assert last < state.step < 1000
        last = state.step
    subprocess.run([*cut, "--resume"], check=True, stdout=subprocess.DEVNULL)
    for name in ("model.npz", "log.csv"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


# ---------------------------------------------------------------- the command
def test_a_directory_that_holds_a_run(old_run):
    before, place = contents(old_run), ["--out", old_run]
    assert "--resume" in refusal(*ARGUMENTS, *place)
    assert re.search("--seed is 2.* 0", refusal("--resume", "--seed=2", *place))
    assert "--share-controller is True" in refusal("--resume", "--share-controller", *place)
    assert "--overwrite" in refusal("--resume", "--overwrite", *place)
    assert contents(old_run) == before
    own = [*ARGUMENTS, "--variant=memctrl", "--window=1", "--seed=0"]
    assert command("--resume", *own, *place)[0] == 0  # it is finished, and tested again
    assert command("--resume", "--window=1", *place)[0] == 0  # an option that only memctrl has
    assert contents(old_run)["log.csv"] == before["log.csv"]
    assert "--steps is 50, but the run has 60" in refusal("--resume", "--steps=50", *place)
    status, printed, _ = command("--resume", "--steps=75", *place)  # it is lengthened
    assert status == 0 and "step 75/75" in printed
    *_, resume, _, _, page = map(shlex.split, printed.splitlines())
    assert resume == [*RESUME, str(old_run), "--steps", "150"]
    assert page == ["python", "-m", "experiments.page", str(old_run / "model.npz")]
    assert command(*ARGUMENTS, "--seed=1", "--overwrite", *place)[0] == 0
    assert json.loads((old_run / "result.json").read_text())["seed"] == 1


@pytest.mark.parametrize("held", [["attention.png"], ["model.npz", "log.csv"], []])
def test_a_directory_without_a_checkpoint(held, tmp_path):
    """--resume is refused and not suggested; nothing is deleted."""
    for name in held:
        (tmp_path / name).write_text("precious")
    before = contents(tmp_path)
    assert "holds no checkpoint" in refusal(*ARGUMENTS, "--resume", "--out", tmp_path)
    if held:
        said = refusal(*ARGUMENTS, "--out", tmp_path)
        assert held[0] in said and "--resume" not in said
    assert contents(tmp_path) == before


@POSIX
@pytest.mark.parametrize("held", [True, False], ids=["over a run", "from the start"])
def test_a_full_disk(held, old_run, tmp_path):
    """Existing files are unchanged."""
    out, before = (old_run, contents(old_run)) if held else (tmp_path / "new", {})
    full = ["sh", "-c", 'ulimit -f 0; exec "$@"', "sh", *SCRIPT, "--overwrite", "--out", str(out)]
    done = subprocess.run(full, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert ("kept" in done.stderr) == held and contents(out) == before


def test_the_model_is_saved_before_the_test(tmp_path):
    def batches(s, size, stream, step=0):
        if stream == TEST:
            raise MemoryError("no memory left")
        return make_batch(s, size, stream, step)

    make_batch = train_toy.make_batch
    with mock.patch.object(train_toy, "make_batch", batches):
        status, _, err = command(*ARGUMENTS, "--out", tmp_path)
    assert status == 1 and "no memory left" in err and "checkpoint.npz is kept" in err
    params, _ = memt.load(tmp_path / "model.npz")
    _, state = train_toy.read_checkpoint(tmp_path)
    assert state.step == 60 and np.array_equal(memt.flat(params), memt.flat(state.params))


def test_a_loss_that_is_not_finite(tmp_path):
    status, _, err = command(*ARGUMENTS, "--steps=600", "--lr=1e37", "--out", tmp_path)
    assert status == 1 and "the loss is not finite at step" in err
    _, state = train_toy.read_checkpoint(tmp_path)
    assert np.isfinite(memt.flat(state.params)).all()


BAD_ARGUMENTS = {
    "--task=revers": "'revers'.*copy.*reverse",
    "--variant=membottlneck": "'membottlneck'" + "".join(f".*{v}" for v in memt.VARIANTS),
    "--optimizer=sgd": "'sgd'.*muon.*adam",
    "--variant=masked --share-controller": "share_controller is True",
    "--variant=transformer --memory=2": "memory is 2",
    "--heads=5": r"width is 8.*\b5\b",
    "--layers=10000": "layers is 10000: must be from 1 to 9999",
    "--hidden=2000000000": r"parameters \([\d,]+ GiB in float32\): must be fewer than 2\*\*31",
    "--length=2000000000": r"training needs about [\d,]+ GiB: must be less than \d+",
    **{f"--{name}=0": f"{name} is 0" for name in ("length", "steps", "batch", "lr", "memory")},
    **{f"--lr={value}": "lr is |'fast'" for value in ("nan", "inf", "-0.1", "fast")},
    **{f"--{name}=-3": f"{name} is -3" for name in train_toy.NUMBERS},
    **{f"--{name}={10**10}": f"{name} is {10**10}" for name in train_toy.NUMBERS},
    **{f"--{name}=2.5": f"{name}.*'2.5'" for name in train_toy.NUMBERS},
    **{word: word for word in ("--speed=3", "--mem=3", "more")},
    "--out=/dev/null/run": "/dev/null",
    f"--out={train_toy.__file__}": "train_toy.py'",
    "--out=" + "x" * 5000: "name too long",
}


@pytest.mark.parametrize("arguments, words", BAD_ARGUMENTS.items(), ids=lambda x: x[:30])
def test_bad_arguments(arguments, words, tmp_path):
    """Even with --overwrite, existing files are unchanged."""
    (tmp_path / "model.npz").write_text("precious")
    said = refusal(*ARGUMENTS, "--overwrite", "--out", tmp_path, *arguments.split())
    assert re.search(words, said) and contents(tmp_path) == {"model.npz": b"precious"}


def test_the_directory_by_default(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out, *_ = train_toy.prepare({"task": "copy", "variant": "memctrl", "seed": 3})
    assert out == Path("runs/copy-memctrl-3") and out.is_dir()
    assert train_toy.prepare({})[0] == Path("runs/reverse-membottleneck-0")


def test_what_does_not_belong_together():
    s, other = default_settings(**TINY), default_settings(**TINY | {"heads": 1})
    with pytest.raises(ValueError, match="another configuration"):
        next(train_toy.training(s, train_toy.start(other)))
    with pytest.raises(ValueError, match="memory is 1: must be at least 2"):
        train_toy.lesion_matrix({}, replace(s.config, memory=1), None)


def test_maps_of_long_sequences_are_made_one_by_one(monkeypatch):
    """With the same mean; the defaults take CHUNK at once."""
    s = default_settings(**TINY)
    params, tokens = train_toy.start(s).params, train_toy.make_batch(s, 7, TEST).tokens
    maps = train_toy.mean_maps(params, s.config, tokens)
    assert train_toy.map_chunk(s.config, 6) == 64 and train_toy.map_chunk(s.config, 5000) == 1
    monkeypatch.setattr(train_toy, "map_chunk", lambda *_: 2)
    assert abs(train_toy.mean_maps(params, s.config, tokens) - maps).max() < 1e-6


def test_the_smallest_settings_train():
    s = default_settings(length=1, symbols=1, steps=1, batch=1)
    state = train(s)
    assert state.step == 1
    for name in ("params", "weights"):  # views, to be changed in place
        assert memt.flat(getattr(state, name)) is state.vectors[name]


def test_settings_that_cannot_work():
    with pytest.raises(ValueError, match="task is 'juggle': must be one of copy, reverse"):
        default_settings(task="juggle")
    with pytest.raises(ValueError, match="optimizer is 'sgd': must be one of muon, adam"):
        default_settings(optimizer="sgd")
    with pytest.raises(ValueError, match="config is None: must be"):
        train_toy.Settings(config=None)


def test_defaults():
    """As they are printed by --help; the default run is the one that README measures."""
    status, printed, _ = command("--help")
    assert status == 0
    for variant in memt.VARIANTS:
        own = train_toy.as_dict(default_settings(variant))
        line = f"{variant:<15} --memory {own['memory']} --layers {own['layers']} --lr {own['lr']}\n"
        assert line in printed
    masked = default_settings("masked")
    assert (masked.config.memory, masked.config.layers, masked.lr) == (16, 3, 0.003)
    config = memt.Config(10, 32, 4, 128, 2, 10, "membottleneck", False, None, None)
    assert default_settings() == train_toy.Settings(
        "reverse", 10, 3000, 32, 0.004, 0, config, "muon"
    )
    with pytest.raises(AttributeError):
        default_settings().steps = 4000


@POSIX
@pytest.mark.parametrize("output", [">&-", "> /dev/full", "| true", "> out"])
def test_output_that_nobody_can_read(output, tmp_path):
    """Lost output does not stop a run, nor does a path that the terminal cannot show."""
    shell = ["sh", "-c", f'"$@" {output}', "sh", *SCRIPT, "--out", str(tmp_path / "Läufe ü")]
    environment = BUFFERED | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(shell, cwd=tmp_path, stderr=subprocess.PIPE, env=environment)
    assert done.returncode == 0 and not done.stderr
    assert sorted(os.listdir(tmp_path / "Läufe ü")) == sorted(train_toy.FILES)
    assert output != "> out" or "L?ufe ?\n" in (tmp_path / "out").read_text()


@pytest.mark.parametrize("module, needs", [("memt", ""), ("autograd", ""), ("train_toy", "memt")])
def test_who_imports_whom(module, needs):
    """Only NumPy; memt and autograd do not import each other."""
    code = "import numpy, sys; old = {*sys.modules}; "
    code += f"import {module}; print(*{{*sys.modules}} - old)"
    root = Path(memt.__file__).parent
    printed = subprocess.check_output([sys.executable, "-c", code], cwd=root, text=True)
    loaded = {n.partition(".")[0] for n in printed.split()} - {module, "numpy"}
    assert loaded - set(sys.stdlib_module_names) <= {needs}


@POSIX
def test_ctrl_c_while_importing(tmp_path):
    code = "import os, runpy, signal, sys\nclass Slow:\n    def find_spec(self, name, *_):\n"
    code += "        name != 'memt' or os.kill(os.getpid(), signal.SIGINT)\n"
    code += "sys.meta_path.insert(0, Slow())\n"
    code += f"runpy.run_path({train_toy.__file__!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, b"")


def test_nothing_imports_what_windows_lacks():
    root = Path(memt.__file__).parent
    files = [*root.glob("*.py"), *root.glob("ex*/*.py")]
    names = [".".join(path.relative_to(root).with_suffix("").parts) for path in files]
    lacks = ("fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty")
    code = f"import importlib, sys; sys.modules.update(dict.fromkeys({lacks})); "
    code += f"print(*map(importlib.import_module, {names}), sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.stdout.count("<module ") == len(names) > 25, done.stderr
