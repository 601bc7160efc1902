"""Models on disk: saved and loaded bit for bit; nothing else is accepted as a model."""

import io
import json
import os
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import memt

from .support import configs, random_params

CONFIG = memt.Config(width=8, heads=2, hidden=3, layers=1, memory=2, symbols=4)
PARAMS = random_params(CONFIG, np.random.default_rng(60), np.float32)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("models") / "model.npz"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_is_saved_comes_back(dtype, tmp_path):
    for config in (*configs(layers=(2,)), replace(CONFIG, outputs=3)):
        params = random_params(config, np.random.default_rng(60), dtype)
        memt.save(f"{tmp_path}/a model", params, config)  # a name without ending is kept
        assert os.listdir(tmp_path) == ["a model"]
        loaded, loaded_config = memt.load(tmp_path / "a model")
        assert loaded_config == config and list(loaded) == list(params)
        assert np.array_equal(memt.flat(loaded), memt.flat(params))
        assert memt.flat(loaded).dtype == dtype


def test_save_refuses_what_load_would(tmp_path):
    for changes, message in (
        ({"out_b": np.full(4, np.nan, np.float32)}, "out_b.*NaN"),
        ({"out_b": np.full(4, -np.inf, np.float32)}, "out_b.*infinity"),
        ({"out_b": np.ones(3, np.float32)}, r"out_b.*\(3,\).*\(4,\)"),
        ({"more": np.ones(4, np.float32)}, "more"),
        ({name: p.astype(np.float16) for name, p in PARAMS.items()}, "float16"),
    ):
        with pytest.raises(ValueError, match=message):
            memt.save(tmp_path / "model.npz", {**PARAMS, **changes}, CONFIG)
    assert not os.listdir(tmp_path)


# ---------------------------------------------------------------- writing
@pytest.mark.parametrize("place", ["write", "replace"])
def test_a_write_that_is_interrupted_keeps_the_old_file(place, tmp_path, monkeypatch):
    path = tmp_path / "model.npz"
    path.write_text("old")

    def fails(*_):
        raise KeyboardInterrupt

    def write(file):
        file.write(b"new")
        if place == "write":
            fails()

    monkeypatch.setattr(Path, "replace", fails)
    with pytest.raises(KeyboardInterrupt):
        memt.atomic_write(path, write)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["model.npz"]


def test_two_writers_of_one_path(tmp_path):
    """The file is complete at all times."""
    path, contents = tmp_path / "model.npz", [bytes([i]) * 50_000 for i in range(4)]

    def write(i):
        memt.atomic_write(path, lambda file: file.write(contents[i % 4]))
        assert path.read_bytes() in contents

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(200)))
    assert os.listdir(tmp_path) == ["model.npz"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has neither links nor modes like these")
def test_links_and_modes_are_kept(tmp_path):
    real, link, other = tmp_path / "real", tmp_path / "link", tmp_path / "other"
    real.write_text("old")
    real.chmod(0o600)
    link.symlink_to(real)
    other.write_text("other")
    (tmp_path / "link.part").symlink_to(other)
    (tmp_path / "real.part").symlink_to(other)
    memt.atomic_write(link, lambda file: file.write(b"new"))
    assert link.is_symlink() and real.read_text() == "new" and other.read_text() == "other"
    assert real.stat().st_mode & 0o777 == 0o600


def test_what_is_no_file_is_left_alone(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe"):
        memt.atomic_write(tmp_path / "pipe", lambda file: file.write(b"new"))
    with pytest.raises(FileNotFoundError, match="pipe"):
        memt.load(tmp_path / "pipe")  # and it does not wait
    assert (tmp_path / "pipe").is_fifo() and os.listdir(tmp_path) == ["pipe"]


# ---------------------------------------------------------------- foreign and damaged files
class Unpickled:
    def __reduce__(self):
        return (os.mkdir, ("executed",))


def npz(config=None, **changes):
    """The model as a file, with other text or other fields for its config, arrays replaced."""
    if not isinstance(config, str):
        config = json.dumps(asdict(CONFIG) | (config or {}))
    np.savez(file := io.BytesIO(), config=config, **PARAMS | changes)
    return file.getvalue()


def zipped(name, content, how=zipfile.ZIP_STORED):
    with zipfile.ZipFile(file := io.BytesIO(), "w", how) as whole:
        whole.writestr(name, content)
    return file.getvalue()


def header(shape):
    """An array's file without the array."""
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return zipped("embed.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text)


GOOD = npz()
FLAGS = GOOD.index(b"PK\x01\x02") + 8
HOSTILE = {
    "nothing": b"",
    "a zip of something else": zipped("readme.txt", b"hello"),
    "an array of 4 EB": header("(10**9, 10**9)"),
    "a shape beyond C": header(f"({10**30},)"),
    "a header that calls": header("__import__('os').mkdir('executed')"),
    "a pickle": npz(out_b=np.array([Unpickled()], object)),
    "a bomb": zipped("embed.npy", bytes(10**7), zipfile.ZIP_DEFLATED),
    "encrypted": GOOD[:FLAGS] + b"\1" + GOOD[FLAGS + 1 :],
    "no config": npz("null"),
    "config is no json": npz("{"),
    "config is deep": npz("[" * 100_000),
    "huge layers": npz({"layers": 2**31 - 1}),
    "a wrong shape": npz(out_b=np.ones((1, 4), np.float32)),
    "the other byte order": npz(**{n: p.astype(">f4") for n, p in PARAMS.items()}),
}


def load(path, content):
    """What memt.load gives, or None if it refuses in one short line."""
    path.write_bytes(content)
    try:
        return memt.load(path)
    except ValueError as error:
        text = str(error)
        assert text.startswith(f"{str(path)!r} is not a memt model: ")
        assert "\n" not in text and len(text) < 300 + len(str(path))


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_a_foreign_or_damaged_file(content, path, monkeypatch):
    monkeypatch.chdir(path.parent)
    assert load(path, content) is None
    assert os.listdir() == ["model.npz"], "something in the file was executed"


@settings(max_examples=400)
@given(st.integers(0, len(GOOD)), st.integers(0, 4) | st.just(len(GOOD)), st.binary(max_size=4))
def test_damaged_bytes(path, start, cut, new):
    """Refused, or the same model: no damage goes unnoticed."""
    loaded = load(path, GOOD[:start] + new + GOOD[start + cut :])
    if loaded:
        params, config = loaded
        assert config == CONFIG and np.array_equal(memt.flat(params), memt.flat(PARAMS))


ANY = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers())


@given(st.sampled_from([*asdict(CONFIG), "depth", "a\nb"]), ANY)
@example("variant", "x" * 30_000)
@example("hidden", 2_000_000_000)
def test_damaged_configurations(path, field, value):
    loaded = load(path, npz({field: value}))
    assert not loaded or memt.param_shapes(loaded[1]) == memt.param_shapes(CONFIG)


def test_a_missing_file(tmp_path):
    for path in (tmp_path / "model.npz", tmp_path):
        with pytest.raises(FileNotFoundError, match="is not a file"):
            memt.load(path)
