"""Models on disk: what is saved comes back to the bit, and nothing else is taken for a model."""

import io
import json
import os
import zipfile
from dataclasses import asdict

import numpy as np
import pytest

import memt

from .support import configs, name, random_params


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("config", configs(layers=(2,)), ids=name)
def test_what_is_saved_comes_back(config, dtype, tmp_path):
    params = random_params(config, np.random.default_rng(60), dtype)
    path = tmp_path / "a model.npz"
    memt.save(path, params, config)
    loaded, loaded_config = memt.load(path)
    assert loaded_config == config and list(loaded) == list(params)
    assert np.array_equal(memt.flat(loaded), memt.flat(params))
    assert memt.flat(loaded).dtype == dtype
    assert os.listdir(tmp_path) == ["a model.npz"]


def test_a_name_without_ending_is_kept(tmp_path):
    config = memt.Config()
    memt.save(f"{tmp_path}/model", memt.init_params(config, np.random.default_rng(0)), config)
    assert os.listdir(tmp_path) == ["model"]
    assert memt.load(f"{tmp_path}/model")[1] == config


def test_a_failed_save_keeps_the_old_file(tmp_path):
    config = memt.Config()
    params = memt.init_params(config, np.random.default_rng(0))
    path = tmp_path / "model.npz"
    memt.save(path, params, config)
    before = path.read_bytes()

    def breaks_half_way(file):
        file.write(before[:1000])
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        memt.write_whole(path, breaks_half_way)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["model.npz"]


class Unpickled:
    def __reduce__(self):
        return (os.mkdir, ("executed",))


def arrays():
    config = memt.Config(width=8, heads=2, hidden=3, layers=1, memory=2)
    params = memt.init_params(config, np.random.default_rng(0))
    return {"config": np.array(json.dumps(asdict(config))), **params}


def npz(given):
    file = io.BytesIO()
    np.savez(file, **given)
    return file.getvalue()


def claims_to_be_huge():
    """A zip whose array header claims 8 EB."""
    header = io.BytesIO()
    about = {"descr": "<f8", "fortran_order": False, "shape": (10**9, 10**9)}
    np.lib.format.write_array_header_1_0(header, about)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as whole:
        whole.writestr("embed.npy", header.getvalue())
    return file.getvalue()


def with_config(**changes):
    given = arrays()
    config = json.loads(str(given["config"])) | changes
    return npz({**given, "config": np.array(json.dumps(config))})


GOOD = npz(arrays())
BAD = {
    "empty": b"",
    "text": b"hello, world\n" * 9,
    "truncated": GOOD[: len(GOOD) // 2],
    "truncated at the end": GOOD[:-30],
    "a damaged byte": GOOD[:700] + bytes([GOOD[700] ^ 255]) + GOOD[701:],
    "one array": npz({"embed": np.ones(3)})[:0] + io.BytesIO(np.ones(3).tobytes()).getvalue(),
    "a lone npy": (lambda f: (np.save(f, np.ones(3)), f.getvalue())[1])(io.BytesIO()),
    "no config": npz({n: a for n, a in arrays().items() if n != "config"}),
    "config is no json": npz({**arrays(), "config": np.array("{")}),
    "config is a list": npz({**arrays(), "config": np.array("[1, 2]")}),
    "config is a number": npz({**arrays(), "config": np.array(3.0)}),
    "an unknown field": with_config(depth=3),
    "a bad field": with_config(width=7),
    "another width": with_config(width=16),
    "a huge width": with_config(width=10**15),
    "a huge number of layers": with_config(layers=10**15),
    "a missing array": npz({n: a for n, a in arrays().items() if n != "out_b"}),
    "one array too many": npz({**arrays(), "more": np.ones(3)}),
    "a wrong shape": npz({**arrays(), "out_b": np.ones(11, np.float32)}),
    "a wrong type": npz({**arrays(), "out_b": np.ones(10, np.float64)}),
    "integers": npz({**arrays(), "embed": np.ones((11, 8), int)}),
    "NaN": npz({**arrays(), "out_b": np.full(10, np.nan, np.float32)}),
    "infinity": npz({**arrays(), "out_b": np.full(10, np.inf, np.float32)}),
    "a pickle": npz({**arrays(), "out_b": np.array([Unpickled()], object)}),
    "a huge claim": claims_to_be_huge(),
    "a zip of something else": None,
}
with zipfile.ZipFile(_file := io.BytesIO(), "w") as _zip:
    _zip.writestr("readme.txt", "hello")
BAD["a zip of something else"] = _file.getvalue()


@pytest.mark.parametrize("content", BAD.values(), ids=BAD)
def test_a_foreign_or_damaged_file(content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"^'model.npz' is not a ") as error:
        memt.load("model.npz")
    assert "\n" not in str(error.value)
    assert os.listdir(tmp_path) == ["model.npz"], "something in the file was executed"


def deep_config():
    return npz({**arrays(), "config": np.array("[" * 100_000)})


def with_member(name, content, compress=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compress) as whole:
        whole.writestr(name, content)
    return file.getvalue()


def header(text):
    """An .npy whose header is that text."""
    text = text.ljust(118).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


ODD = {
    "deep json": deep_config(),
    "no npy": with_member("embed.npy", b"hello"),
    "a header that does not parse": with_member("embed.npy", header("{'descr'(((")),
    "a header beyond integers": with_member(
        "embed.npy", header("{'descr': '<f8', 'fortran_order': False, 'shape': (10**30,)}")
    ),
    "a bomb": with_member("embed.npy", bytes(10**7), zipfile.ZIP_DEFLATED),
    "an unknown field of two lines": with_config(**{"a\nb": 1}),
    "huge symbols": with_config(symbols=2**31 - 1),
    "a long name": with_config(variant="x" * 30_000),
}


@pytest.mark.parametrize("content", ODD.values(), ids=ODD)
def test_an_odd_file(content, tmp_path, monkeypatch):
    test_a_foreign_or_damaged_file(content, tmp_path, monkeypatch)
    with pytest.raises(ValueError) as error:
        memt.load("model.npz")
    assert len(str(error.value)) < 300


def test_save_refuses_what_load_would(tmp_path):
    config, path = memt.Config(), tmp_path / "model.npz"
    params = memt.init_params(config, np.random.default_rng(0))
    memt.save(path, params, config)
    before = path.read_bytes()
    for bad, message in [
        ({**params, "out_b": np.full(10, np.nan, np.float32)}, "out_b holds NaN"),
        ({**params, "out_b": np.ones(9, np.float32)}, "out_b must have shape"),
        ({**params, "more": np.ones(9)}, "not those of the configuration"),
        ({n: p.astype(np.float16) for n, p in params.items()}, "dtype is float16"),
    ]:
        with pytest.raises(ValueError, match=message):
            memt.save(path, bad, config)
    assert path.read_bytes() == before


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        memt.load(tmp_path / "model.npz")
    with pytest.raises(ValueError, match="not a readable"):
        memt.load(tmp_path)
