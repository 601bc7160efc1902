"""What mutants taught: each test here kills a small wrong edit that all other tests let live."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

import memt
from autograd import Tensor, finite_differences, gradient_errors, value_and_grad

from .test_pairs import PAIRS, draw

CONFIG = memt.Config(width=8, heads=2, hidden=3, layers=1, memory=2)


@pytest.mark.parametrize("pair", [name for name in PAIRS if "mask" not in name])
def test_a_pair_keeps_float32(pair):
    shapes, forward, backward = PAIRS[pair]
    rng = np.random.default_rng(80)
    params = {name: x.astype(np.float32) for name, x in draw(rng, shapes).items()}
    out, cache = forward(params)
    dout = rng.standard_normal(np.shape(out)).astype(np.float32)
    assert {x.dtype for x in (out, *backward(dout, cache))} == {np.dtype(np.float32)}


def arrays(config):
    """What `save` writes: parameters of CONFIG under any configuration."""
    params = memt.init_params(CONFIG, np.random.default_rng(81))
    return {"config": np.array(json.dumps(asdict(config))), **params}


def test_a_claim_of_many_layers_costs_nothing(tmp_path, monkeypatch):
    """Refused before the names of all those layers are made."""
    np.savez(tmp_path / "model.npz", **arrays(replace(CONFIG, layers=10**6)))
    monkeypatch.setattr(memt, "param_shapes", None)
    with pytest.raises(ValueError, match="fewer parameters than layers"):
        memt.load(tmp_path / "model.npz")


def test_a_shape_that_would_only_broadcast(tmp_path):
    given = arrays(CONFIG)
    np.savez(tmp_path / "model.npz", **given | {"out_b": given["out_b"][None]})
    with pytest.raises(ValueError, match="out_b must have shape"):
        memt.load(tmp_path / "model.npz")


def test_a_file_that_would_grow_when_read(tmp_path):
    given = arrays(CONFIG) | {"embed": np.zeros((11, 10**6), np.float32)}
    np.savez_compressed(tmp_path / "model.npz", **given)
    with pytest.raises(ValueError, match="claims to hold more"):
        memt.load(tmp_path / "model.npz")


def test_a_write_that_fails_at_the_last_moment_keeps_the_old_file(tmp_path, monkeypatch):
    path, params = tmp_path / "model.npz", memt.init_params(CONFIG, np.random.default_rng(82))
    memt.save(path, params, CONFIG)
    before = path.read_bytes()

    def fails(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(memt.os, "replace", fails)
    memt.flat(params)[:] = 1
    with pytest.raises(OSError, match="no space"):
        memt.save(path, params, CONFIG)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


# ---------------------------------------------------------------- the tape


def test_methods_of_ufuncs_are_refused():
    """Also those that take what the ufunc itself takes."""
    x = Tensor(np.array([1.0, 2.0]))
    for method in (np.multiply.outer, np.add.outer):
        with pytest.raises(TypeError, match="outer is not on the tape"):
            method(x, x)


def test_the_tape_keeps_float32():
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    f = lambda p: (p["x"][[1, 0]] * p["x"].max(axis=1)[:, None]).sum()  # noqa: E731
    value, grads = value_and_grad(f)({"x": x, "unused": x})
    assert {value.dtype, *(g.dtype for g in grads.values())} == {x.dtype}
    for part in (lambda x: x[:1], lambda x: x[[1, 0]], lambda x: x.max(axis=0)):
        _, grads = value_and_grad(lambda p, part=part: part(p["x"]).sum())({"x": x})
        assert grads["x"].dtype == x.dtype


def test_finite_differences_of_float32_are_taken_in_float64():
    grads = finite_differences(lambda p: (p["x"] ** 3).sum(), {"x": np.array([3], np.float32)})
    assert abs(grads["x"] - 27) < 1e-8


def test_errors_where_every_gradient_is_zero():
    zero = {"a": np.zeros(2)}
    assert gradient_errors(zero, zero) == {"a": 0}
    assert gradient_errors({"a": np.array([0, 0.5])}, zero) == {"a": 0.5}
