"""Every forward/backward pair alone, against the tape and finite differences."""

import numpy as np
import pytest

import memt
from autograd import check_grad, gradient_errors, value_and_grad

from .support import SIZES

HEADS, C, F, M, N, K, B, T = 3, 12, 10, 5, 6, 7, 2, 9
UPDATE = {n.rpartition(".")[2]: s for n, s in memt.param_shapes(memt.Config(**SIZES)).items()
          if n.startswith("layers.0.seq.")}  # fmt: skip
MASK = np.where(np.arange(N * K).reshape(N, K) % 5 == 1, -np.inf, 0)
ROWS_MASK = np.where(np.arange((M + T) ** 2).reshape(M + T, -1) % 6 == 5, -np.inf, 0)
TOKENS = np.array([[0, 3, 3, 1, 6], [3, 6, 6, 6, 2]])  # repeated symbols; 4 and 5 never occur
TARGETS = np.array([[0, 4, 4, 1], [5, 2, 2, 0]])

# name -> (shapes of the inputs, forward of a dict of them, the gradients that backward gives)
PAIRS = {
    "linear": (
        {"x": (2, 4, 5), "w": (5, 3), "b": (3,)},
        lambda p: memt.linear_forward(p["x"], p["w"], p["b"]),
        memt.linear_backward,
    ),
    "linear without bias": (
        {"x": (2, 4, 5), "w": (5, 3)},
        lambda p: memt.linear_forward(p["x"], p["w"]),
        lambda dy, cache: memt.linear_backward(dy, cache)[:2],
    ),
    "layernorm": (
        {"x": (2, 4, 5), "g": (5,), "b": (5,)},
        lambda p: memt.layernorm_forward(p["x"], p["g"], p["b"]),
        memt.layernorm_backward,
    ),
    "relu": (
        {"x": (2, 4, 5)},
        lambda p: memt.relu_forward(p["x"]),
        lambda dy, cache: [memt.relu_backward(dy, cache)],
    ),
    "softmax": (
        {"s": (2, 4, 5)},
        lambda p: memt.softmax_forward(p["s"]),
        lambda dy, cache: [memt.softmax_backward(dy, cache)],
    ),
    "attention": (
        {"x": (B, N, C), "context": (B, K, C), "wq": (C, C), "wkv": (C, 2 * C), "wo": (C, C)},
        lambda p: memt.attention_forward(**p, heads=HEADS, mask=None),
        memt.attention_backward,
    ),
    "attention under a mask": (
        {"x": (B, N, C), "context": (B, K, C), "wq": (C, C), "wkv": (C, 2 * C), "wo": (C, C)},
        lambda p: memt.attention_forward(**p, heads=HEADS, mask=MASK),
        memt.attention_backward,
    ),
    "cross-entropy": (
        {"logits": (2, 4, 6)},
        lambda p: memt.cross_entropy_forward(p["logits"], TARGETS),
        lambda dy, cache: [memt.cross_entropy_backward(dy, cache)],
    ),
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


@pytest.mark.parametrize("pair", PAIRS)
def test_pair(pair):
    shapes, forward, backward = PAIRS[pair]
    rng = np.random.default_rng(1)
    params = draw(rng, shapes)
    out, cache = forward(params)
    dout = rng.standard_normal(np.shape(out))
    before = [np.copy(dout), *map(np.copy, params.values())]
    grads = dict(zip(params, backward(dout, cache), strict=True))
    compare(lambda p: (forward(p)[0] * dout).sum(), params, grads)
    for old, new in zip(before, [dout, *params.values()], strict=True):
        assert np.array_equal(old, new), "a pair must not change what it is given"


@pytest.mark.parametrize("width", [1, 7, 64, 65, 200])
def test_row_max(width):
    """Short rows and long ones, some of them -inf in part."""
    x = np.random.default_rng(3).standard_normal((2, 3, width))
    x[0, :, 1:] = -np.inf
    assert np.array_equal(memt.row_max(x), x.max(axis=-1, keepdims=True))
    _, grads = value_and_grad(lambda p: (memt.row_max(p["x"]) * x[:, :, :1]).sum())({"x": x})
    assert np.array_equal(grads["x"], (x == x.max(axis=-1, keepdims=True)) * x[:, :, :1])


def test_update():
    rng = np.random.default_rng(2)
    params = draw(rng, {"x": (B, N, C), "context": (B, K, C), **UPDATE})
    dh = rng.standard_normal((B, N, C))

    def forward(p):
        return memt.update_forward(p["x"], p["context"], p, HEADS, MASK)

    start = draw(rng, UPDATE)  # gradients add to what is there
    dp = {name: s.copy() for name, s in start.items()}
    dx, dcontext = memt.update_backward(dh, forward(params)[1], dp)
    grads = {"x": dx, "context": dcontext} | {name: dp[name] - start[name] for name in UPDATE}
    compare(lambda p: (forward(p)[0] * dh).sum(), params, grads)


WIRINGS = {"shared": ("all",), "memctrl": ("mem", "seq"), "membottleneck": ("mem", "seq")}


@pytest.mark.parametrize("read", [None, np.array([7, 0, 4])], ids=["all rows", "read"])
@pytest.mark.parametrize("wiring", WIRINGS)
def test_wiring(wiring, read):
    rng = np.random.default_rng(3)
    roles = WIRINGS[wiring]
    shapes = {f"{role}.{name}": s for role in roles for name, s in UPDATE.items()}
    params = draw(rng, {"mem": (B, M, C), "seq": (B, T, C), **shapes})
    mask = None if wiring == "membottleneck" else ROWS_MASK.copy()
    if wiring == "memctrl":
        mask[:M] = 0  # its memory sees everything

    def split(p):
        return {role: {n: p[f"{role}.{n}"] for n in UPDATE} for role in roles}

    def forward(p):
        make = getattr(memt, f"{wiring}_forward")
        return make(p["mem"], p["seq"], split(p), HEADS, mask, read)

    (mem, seq), cache = forward(params)
    dmem, dseq = rng.standard_normal(mem.shape), rng.standard_normal(seq.shape)
    start = draw(rng, shapes)
    grads = {name: s.copy() for name, s in start.items()}
    back = getattr(memt, f"{wiring}_backward")(dmem, dseq, cache, split(grads))
    grads = {name: g - start[name] for name, g in grads.items()}
    grads = dict(zip(("mem", "seq"), back, strict=True)) | grads

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


def test_layernorm_values():
    """By the formula, with the eps that the code promises."""
    x, g, b = np.array([[1.0, 2.0, 6.0]]), np.array([2.0, 1.0, 0.5]), np.array([0.0, 1.0, 2.0])
    y, _ = memt.layernorm_forward(x, g, b)
    assert np.allclose(y, (x - 3) / np.sqrt(14 / 3 + 1e-5) * g + b, rtol=1e-14)
    small, _ = memt.layernorm_forward(1e-3 * x, np.ones(3), np.zeros(3))
    assert np.allclose(small, 1e-3 * (x - 3) / np.sqrt(14e-6 / 3 + 1e-5), rtol=1e-12)


def test_softmax_holds_at_large_logits():
    s = np.array([[1e4, 1e4 - 1, -1e4], [-1e4, -np.inf, -1e4 - 2]])
    p, _ = memt.softmax_forward(s)
    e = np.exp(-1.0)
    assert np.allclose(p[0], [1 / (1 + e), e / (1 + e), 0], rtol=1e-14)
    assert p[1, 1] == 0 and np.allclose(p.sum(axis=1), 1)


def test_cross_entropy_of_large_and_uniform_logits():
    loss, _ = memt.cross_entropy_forward(np.array([[1e4, 0.0, -1e4]]), np.array([2]))
    assert loss == 2e4
    loss, _ = memt.cross_entropy_forward(np.zeros((3, 4, 8)), np.zeros((3, 4), int))
    assert np.isclose(loss, np.log(8), rtol=1e-15)


def test_a_key_bias_would_be_pointless():
    """Softmax ignores a constant added to a row, which is what a bias on the keys adds."""
    rng = np.random.default_rng(5)
    q, k, bias = rng.standard_normal((N, 4)), rng.standard_normal((K, 4)), rng.standard_normal(4)
    p, _ = memt.softmax_forward(q @ k.T)
    p_bias, cache = memt.softmax_forward(q @ (k + bias).T)
    assert np.allclose(p, p_bias, rtol=1e-12)
    ds = memt.softmax_backward(rng.standard_normal((N, K)), cache)
    assert abs((ds.T @ q).sum(axis=0)).max() < 1e-14  # the bias's gradient
