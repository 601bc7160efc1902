"""Every forward/backward pair alone, against the tape and finite differences."""

import numpy as np
import pytest

import memt
from autograd import check_grad, gradient_errors, value_and_grad

from .support import SIZES

HEADS, C, F, M, N, K, B, T = 3, 12, 10, 5, 6, 7, 2, 9
UPDATE = {n.rpartition(".")[2]: s for n, s in memt.param_shapes(memt.Config(**SIZES)).items()
          if n.startswith("layers.0.seq.")}  # fmt: skip
MASK = np.where(np.arange(N * K).reshape(N, K) % 5 == 1, -np.inf, 0).astype(np.float32)
MASKS = np.stack((MASK, MASK[::-1]))[:, None]  # one for each example
ROWS_MASK = np.where(np.arange((M + T) ** 2).reshape(M + T, -1) % 6 == 5, -np.inf, 0)
TOKENS = np.array([[0, 3, 3, 1, 6], [3, 6, 6, 6, 2]])  # repeated symbols; 4 and 5 never occur
TARGETS = np.array([[0, 4, 4, 1], [5, 2, 2, 0]])
ATTENTION = {"x": (B, N, C), "context": (B, K, C), "wq": (C, C), "wkv": (C, 2 * C), "wo": (C, C)}


def pair(stem, shapes, **fixed):
    """-> shapes of the inputs, forward of a dict of them, backward to a list of gradients."""
    forward, backward = (getattr(memt, f"{stem}_{way}") for way in ("forward", "backward"))

    def gradients(dout, cache):
        found = backward(dout, cache)
        return [d for d in (found if type(found) is tuple else [found]) if d is not None]

    return shapes, lambda inputs: forward(**inputs, **fixed), gradients


PAIRS = {
    "linear": pair("linear", {"x": (2, 4, 5), "w": (5, 3), "b": (3,)}),
    "linear without bias": pair("linear", {"x": (2, 4, 5), "w": (5, 3)}),
    "layernorm": pair("layernorm", {"x": (2, 4, 5), "g": (5,), "b": (5,)}),
    "relu": pair("relu", {"x": (2, 4, 5)}),
    "softmax": pair("softmax", {"s": (2, 4, 5)}),
    "attention": pair("attention", ATTENTION, heads=HEADS, mask=None),
    "attention under a mask": pair("attention", ATTENTION, heads=HEADS, mask=MASK),
    "attention under two masks": pair("attention", ATTENTION, heads=HEADS, mask=MASKS),
    "cross-entropy": pair("cross_entropy", {"logits": (2, 4, 6)}, targets=TARGETS),
}


def draw(rng, shapes):
    return {name: rng.standard_normal(shape) for name, shape in shapes.items()}


def compare(f, params, grads):
    """Given gradients of f against the tape (tight) and finite differences (independent of it)."""
    assert grads.keys() == params.keys()
    _, tape = value_and_grad(f)(params)
    for name, error in gradient_errors(grads, tape).items():
        assert error < 1e-13, f"{name}: {error:.1e} off the tape"
    check_grad(f, params, grads)


@pytest.mark.parametrize("name", PAIRS)
def test_pair(name):
    shapes, forward, backward = PAIRS[name]
    rng = np.random.default_rng(1)
    params = draw(rng, shapes)
    out, cache = forward(params)
    dout = rng.standard_normal(np.shape(out))
    before = [np.copy(dout), *map(np.copy, params.values())]
    grads = dict(zip(params, backward(dout, cache), strict=True))
    compare(lambda p: (forward(p)[0] * dout).sum(), params, grads)
    for old, new in zip(before, [dout, *params.values()], strict=True):
        assert np.array_equal(old, new), "a pair must not change what it is given"
    out, cache = forward({n: x.astype(np.float32) for n, x in params.items()})
    assert {d.dtype for d in [out, *backward(np.float32(dout), cache)]} == {np.dtype(np.float32)}


@pytest.mark.parametrize("width", [1, 7, 64, 65, 200])
def test_row_max(width):
    """Short rows and long ones, some of them -inf in part."""
    x = np.random.default_rng(3).standard_normal((2, 3, width))
    x[0, :, 1:] = -np.inf
    assert np.array_equal(memt.row_max(x), x.max(axis=-1, keepdims=True))
    _, grads = value_and_grad(lambda p: (memt.row_max(p["x"]) * x[:, :, :1]).sum())({"x": x})
    assert np.array_equal(grads["x"], (x == x.max(axis=-1, keepdims=True)) * x[:, :, :1])


@pytest.mark.parametrize("at", [None, np.array([7, 0, 4])], ids=["all rows", "at"])
@pytest.mark.parametrize("variant", memt.VARIANTS)
def test_wiring(variant, at):
    rng = np.random.default_rng(3)
    make, back, roles = memt.WIRINGS[variant]
    shapes = {f"{role}.{name}": s for role in roles for name, s in UPDATE.items()}
    params = draw(rng, {"mem": (B, M, C), "seq": (B, T, C), **shapes})

    def split(p):
        return {role: {n: p[f"{role}.{n}"] for n in UPDATE} for role in roles}

    def forward(p):
        return make(p["mem"], p["seq"], split(p), HEADS, ROWS_MASK, at)

    (mem, seq), cache = forward(params)
    dmem, dseq = rng.standard_normal(mem.shape), rng.standard_normal(seq.shape)
    start = draw(rng, shapes)
    grads = {name: s.copy() for name, s in start.items()}
    dboth = back(dmem, dseq, cache, split(grads))
    grads = {name: g - start[name] for name, g in grads.items()}
    grads = dict(zip(("mem", "seq"), dboth, strict=True)) | grads

    def f(p):
        (mem, seq), _ = forward(p)
        return (mem * dmem).sum() + (seq * dseq).sum()

    compare(f, params, grads)


def test_embedding():
    rng = np.random.default_rng(4)
    params = draw(rng, {"embed": (7, C), "memory": (M, C)})
    dmem, dseq = rng.standard_normal((2, M, C)), rng.standard_normal((2, 5, C))
    _, cache = memt.embedding_forward(TOKENS, **params)
    grads = dict(zip(params, memt.embedding_backward(dmem, dseq, cache), strict=True))

    def f(p):
        (mem, seq), _ = memt.embedding_forward(TOKENS, **p)
        return (mem * dmem).sum() + (seq * dseq).sum()

    compare(f, params, grads)
    assert not grads["embed"][4:6].any()  # symbols that do not occur
    dembed, _ = memt.embedding_backward(dmem, dseq.astype(np.float32), cache)
    assert dembed.dtype == np.float32


def test_large_logits():
    p, _ = memt.softmax_forward(np.array([[1e4, 1e4 - 1, -1e4], [-1e4, -np.inf, -1e4 - 1]]))
    big, small = 1 / (1 + np.exp(-1.0)), 1 / (1 + np.e)
    assert np.allclose(p, [[big, small, 0], [big, 0, small]], rtol=1e-14, atol=0)
    loss, _ = memt.cross_entropy_forward(np.array([[1e4, 0.0, -1e4]]), np.array([2]))
    assert loss == 2e4


@pytest.mark.parametrize("logits", [[0.5, -np.inf, 1.5], [1e308, -1e308, 1e308]])
def test_another_logit_is_infinitely_far(logits):
    p = 1 / (1 + np.exp(logits[0] - logits[2]))
    with np.errstate(over="ignore"):
        loss, cache = memt.cross_entropy_forward(np.array([logits]), np.array([2]))
    assert np.isclose(loss, -np.log(p), rtol=1e-14)
    assert np.allclose(memt.cross_entropy_backward(1.0, cache), [[1 - p, 0, p - 1]], rtol=1e-14)
