"""A little of every attack of attacks.py, more bad input, and odd surroundings.

Bad input is also in test_model.py, test_files.py and test_train.py; here are the kinds beyond.
"""

import io
import json
import os
import struct
import subprocess
import sys
import zipfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pty", reason="signals, limits and terminals are POSIX's")

import fcntl
import pty
import termios

import memt
import train_toy

from . import attacks
from .attacks import valid_members, zipped
from .test_train import ARGUMENTS, command


def test_random_configurations():
    assert attacks.configurations(30, 0)


def test_training_stays_finite_and_repeats():
    assert attacks.training(100, 0)


def test_interruptions():
    assert attacks.interruptions(1, 0)


def test_fuzzed_files():
    assert attacks.fuzz(600, 0)


# ---------------------------------------------------------------- bad files


def member(header: str, version: int = 1, body: bytes = b"") -> bytes:
    """An array with a header that NumPy would never write."""
    size = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes([version, 0]) + size + header.encode() + body


def header(shape="(4, 4)", descr="'<f4'") -> str:
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}\n"


def flagged(bit: int) -> bytes:
    """A whole file in which every member's header has a flag set."""
    data = bytearray(zipped(valid_members()))
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = data.find(mark)
        while at >= 0:
            data[at + offset] |= bit
            at = data.find(mark, at + 4)
    return bytes(data)


def with_config(text: str) -> bytes:
    np.save(file := io.BytesIO(), np.array(text))
    return zipped(valid_members() | {"config.npy": file.getvalue()})


def with_field(**changes) -> bytes:
    config = memt.Config(width=4, heads=2, hidden=3, layers=1, memory=2, symbols=3)
    return with_config(json.dumps(asdict(config) | changes))


BAD_MEMBERS = {
    "no array": b"hello",
    "nothing": b"",
    "shape beyond C": member(header(f"({10**30},)")),
    "negative shape": member(header("(-3,)")),
    "huge shape": member(header("(99999999999,)")),
    "a shape that is no tuple": member(header("3")),
    "brackets that never close": member("{'descr'(((\n"),
    "quotes that never close": member("'''abc\n"),
    "too deep": member("-" * 5000 + "1"),
    "a code point zero": member("{\0}"),
    "a long header": member(" " * 60000),
    "a header that isn't there": b"\x93NUMPY\x02\x00\xff\xff\xff\xff",
    "a set": member("{1, 2}\n"),
    "a call": member("__import__('os').mkdir('executed')\n"),
    "a type with a bracket": member(header(descr="'f4,('")),
    "a type of 10**11 bytes": member(header(descr="'<f99999999999'")),
    "a type that is None": member(header(descr="None")),
    "objects": member(header(descr="'|O'"), body=b"cos\nmkdir\n(S'executed'\ntR."),
    "a structure": member(header(descr="[('a', '<f4')]"), body=bytes(64)),
    "dates": member(header(descr="'<M8[s]'"), body=bytes(128)),
    "half precision": member(header(descr="'<f2'"), body=bytes(32)),
    "the other byte order": member(header(descr="'>f4'"), body=bytes(64)),
    "complex numbers": member(header(descr="'<c8'"), body=bytes(128)),
    "too few bytes": member(header(), body=bytes(60)),
    "format 9": member(header(), version=9),
}
BAD_FILES = {
    **{f"embed: {n}": zipped(valid_members() | {"embed.npy": b}) for n, b in BAD_MEMBERS.items()},
    "encrypted": flagged(1),
    "patched": flagged(0x20),
    "strongly encrypted": flagged(0x40),
    "config: deep": with_config("[" * 100_000),
    "config: a number of 5000 digits": with_config('{"width": ' + "9" * 5000 + "}"),
    "config: infinite width": with_config('{"width": Infinity}'),
    "config: null": with_config("null"),
    "config: a field with a line break": with_field(**{"a\nb": 1}),
    "config: a long variant": with_field(variant="a" * 30_000),
    "config: a list as variant": with_field(variant=["masked"]),
    "config: an object as window": with_field(window={}),
    "config: many symbols": with_field(symbols=2**31 - 1),
    "config: very many symbols": with_field(symbols=10**400),
    "config: many layers": with_field(layers=2**31 - 1),
    "a bomb": zipped({**valid_members(), "embed.npy": bytes(10**7)}, zipfile.ZIP_DEFLATED),
    "a pickle": b"cos\nmkdir\n(S'executed'\ntR.",
    "a member outside": zipped({**valid_members(), "../executed.npy": member(header())}),
    "a file of nothing but zeros": bytes(10_000),
}  # fmt: skip


@pytest.mark.parametrize("content", BAD_FILES.values(), ids=BAD_FILES)
def test_bad_files(content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("model.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"^'model.npz' is not a ") as error:
        memt.load("model.npz")
    assert "\n" not in str(error.value) and len(str(error.value)) < 300
    assert os.listdir() == ["model.npz"]


def about(out: Path, **changes) -> None:
    """Write a checkpoint with some of its words or arrays replaced."""
    s = train_toy.default_settings(length=3, width=8, heads=2, hidden=16, layers=1, batch=8)
    train_toy.write_checkpoint(out, s, train_toy.start(s))
    arrays = memt.read_npz(out / "checkpoint.npz")
    words = json.loads(str(arrays["about"]))
    arrays |= {n: changes.pop(n) for n in ("vector", "m", "v") if n in changes}
    text = changes.pop("text", None) or json.dumps(words | changes)
    np.savez(out / "checkpoint.npz", **arrays | {"about": np.array(text)})


BAD_CHECKPOINTS = {
    "infinite step": {"step": float("inf")},
    "step is text": {"step": "many"},
    "short rows": {"log": [[25]]},
    "long rows": {"log": [[25, 1, 1, 1, 1]]},
    "rows of text": {"log": [["a", "b", "c", "d"]]},
    "no list": {"log": 3},
    "unknown setting": {"settings": {"speed": 3}},
    "unknown task": {"settings": {"task": "sort"}},
    "a task that is a list": {"settings": {"task": []}},
    "a huge model": {"settings": {"width": 2**31 - 2, "heads": 1}},
    "settings are a list": {"settings": [1]},
    "deep": {"text": "[" * 100_000},
    "no json": {"text": "{"},
    "NaN": {"m": np.full(3000, np.nan, np.float32)},
    "short": {"v": np.zeros(3, np.float32)},
    "text": {"vector": np.array("hello")},
}


@pytest.mark.parametrize("changes", BAD_CHECKPOINTS.values(), ids=BAD_CHECKPOINTS)
def test_bad_checkpoints(changes, tmp_path, monkeypatch, capsys):
    about(tmp_path, **changes)
    before = (tmp_path / "checkpoint.npz").read_bytes()
    assert command(monkeypatch, "--resume", "--out", tmp_path) == 2
    printed = capsys.readouterr().err
    assert "is not a checkpoint" in printed and printed.count("\n") == 1 and len(printed) < 500
    assert (tmp_path / "checkpoint.npz").read_bytes() == before


# ---------------------------------------------------------------- bad arguments


@pytest.mark.parametrize(
    "argument",
    ["--width=10000000", "--hidden=2000000000", "--memory=2000000000", "--symbols=2000000000",
     "--layers=99999999999", "--batch=100000000000000000000", "--length=99999999999999999999",
     "--steps=1" + "0" * 400, "--seed=" + "9" * 5000, "--window=99999999999999 --variant=memctrl",
     "--out=" + "x" * 5000, "--width=", "--lr=1e400", "--lr=-0.1", "--task=", "--variant="],
    ids=lambda argument: argument[:30],
)  # fmt: skip
def test_bad_arguments_lose_nothing(argument, tmp_path, monkeypatch, capsys):
    """With --overwrite: what was there stays there."""
    out = tmp_path / "run"
    out.mkdir()
    (out / "model.npz").write_bytes(b"precious")
    given = [*ARGUMENTS, "--overwrite", "--out", out, *argument.split()]
    assert command(monkeypatch, *given) == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1 and not printed.out
    assert (out / "model.npz").read_bytes() == b"precious"


# ---------------------------------------------------------------- bad calls from Python


CONFIG = memt.Config(width=4, heads=2, hidden=3, layers=1, memory=2, symbols=3)
PARAMS = memt.init_params(CONFIG, np.random.default_rng(0))
NAN = memt.fill_params(CONFIG, PARAMS)
NAN["out_b"][1] = np.nan
TOKENS = np.zeros((2, 4), int)
CALLS = {
    "save another shape": lambda path: memt.save(path, PARAMS, memt.Config()),
    "save NaN": lambda path: memt.save(path, NAN, CONFIG),
    "save one array too many": lambda path: memt.save(path, {**PARAMS, "more": np.ones(2)}, CONFIG),
    "save one array too few": lambda path: memt.save(path, {"embed": PARAMS["embed"]}, CONFIG),
    "save objects": lambda path: memt.save(
        path, {**PARAMS, "out_b": np.array([None] * 3)}, CONFIG),
    "save half precision": lambda path: memt.save(
        path, {n: p.astype(np.float16) for n, p in PARAMS.items()}, CONFIG),
    "integer weights": lambda path: memt.init_params(CONFIG, np.random.default_rng(0), int),
    "mixed types": lambda path: memt.model_forward(
        {**PARAMS, "out_b": np.zeros(3)}, TOKENS, CONFIG),
    "tokens of text": lambda path: memt.model_forward(PARAMS, "abc", CONFIG),
    "no tokens": lambda path: memt.model_forward(PARAMS, None, CONFIG),
    "ragged tokens": lambda path: memt.model_forward(PARAMS, [[1], [1, 2]], CONFIG),
    "one position to read": lambda path: memt.model_forward(PARAMS, TOKENS, CONFIG, 2),
    "positions of text": lambda path: memt.model_forward(PARAMS, TOKENS, CONFIG, "x"),
    "positions from the end": lambda path: memt.model_forward(PARAMS, TOKENS, CONFIG, [-1]),
    "transposed dlogits": lambda path: memt.model_backward(
        np.ones((4, 2, 3), np.float32), memt.model_forward(PARAMS, TOKENS, CONFIG)[1]),
    "no targets": lambda path: memt.cross_entropy_forward(np.zeros((2, 3)), None),
    "no path": lambda path: memt.load(None),
    "a path with a zero": lambda path: memt.load("a\0b"),
}  # fmt: skip


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_bad_calls(call, tmp_path):
    memt.save(tmp_path / "model.npz", PARAMS, CONFIG)
    before = (tmp_path / "model.npz").read_bytes()
    with pytest.raises((ValueError, TypeError)) as error:
        call(tmp_path / "model.npz")
    assert len(str(error.value).splitlines()) == 1
    assert (tmp_path / "model.npz").read_bytes() == before


# ---------------------------------------------------------------- surroundings


def run(out: Path, **how) -> subprocess.CompletedProcess:
    """A run of the command without pictures."""
    command = attacks.train_command(out, "--steps=60")
    return subprocess.run(command, cwd=attacks.memt_directory(), timeout=60, **how)


def run_in_shell(out: Path, shell: str) -> subprocess.CompletedProcess:
    """The same in a shell, as "$@"."""
    command = ["sh", "-c", shell, "sh", *attacks.train_command(out, "--steps=60")]
    return subprocess.run(command, cwd=attacks.memt_directory(), timeout=60, capture_output=True)


def test_a_terminal_of_40_columns(tmp_path):
    """Progress stays on one line of it."""
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", 10, 40, 0, 0))
    environment = {**os.environ}  # without COLUMNS, which readline sets behind Python's back
    done = run(tmp_path / "run", stdout=terminal, stderr=subprocess.PIPE, env=environment)
    os.close(terminal)
    printed = b""
    try:
        while part := os.read(controller, 65536):
            printed += part
    except OSError:
        pass  # the end, on Linux
    assert done.returncode == 0 and not done.stderr
    progress = [line for line in printed.decode().split("\r") if line.startswith("step ")]
    assert progress and max(map(len, progress)) <= 39


@pytest.mark.parametrize("output", [">&-", "> /dev/full"], ids=["closed", "full"])
def test_output_that_goes_nowhere(output, tmp_path):
    """The run goes on without it."""
    done = run_in_shell(tmp_path / "run", f'"$@" {output}')
    assert b"Traceback" not in done.stderr
    assert (tmp_path / "run/result.json").exists()


def test_output_that_cannot_show_the_path(tmp_path):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = run(tmp_path / "Läufe ü", env=environment, capture_output=True)
    assert done.returncode == 0 and not done.stderr


def test_a_place_that_cannot_be_written(tmp_path):
    tmp_path.chmod(0o500)
    place = Path("/proc") if os.access(tmp_path, os.W_OK) else tmp_path  # root may write anywhere
    done = run(place / "run", capture_output=True, text=True)
    assert done.returncode == 2 and not done.stdout and done.stderr.count("\n") == 1


def test_a_disk_that_is_full_from_the_start(tmp_path):
    done = run_in_shell(tmp_path / "run", 'ulimit -f 0; exec "$@"')
    assert done.returncode == 1 and done.stderr.count(b"\n") == 1
    assert b"kept" not in done.stderr and os.listdir(tmp_path / "run") == []


def test_modules_need_neither_torch_nor_matplotlib():
    code = "import sys; sys.modules.update(torch=None, matplotlib=None); import memt, autograd, "
    code += "train_toy, tests.attacks, tests.test_pairs, tests.test_model, tests.test_train"
    subprocess.run([sys.executable, "-c", code], cwd=attacks.memt_directory(), check=True)
