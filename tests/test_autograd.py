"""The tape: right on each operation, and loud about what it does not know."""

import numpy as np
import pytest

from autograd import (
    Tensor,
    check_grad,
    finite_differences,
    gradient_errors,
    topological,
    unbroadcast,
    value_and_grad,
)  # fmt: skip

RNG = np.random.default_rng(50)
W = RNG.standard_normal((2, 3, 4))
ROWS = np.array([2, 0, 2])  # one index twice

# Functions of x (2, 3, 4), positive, and y (3, 1); each result is weighted with random numbers.
OPERATIONS = {
    "add": lambda x, y: x + y,
    "radd": lambda x, y: 2.0 + x,
    "subtract": lambda x, y: x - y * x,
    "rsubtract": lambda x, y: W - x,
    "multiply": lambda x, y: x * y,
    "divide": lambda x, y: y / x,
    "rdivide": lambda x, y: W / x,
    "negative": lambda x, y: -x * y,
    "power": lambda x, y: x**3 + x**-0.5 + y**2,
    "exp": lambda x, y: np.exp(x * y),
    "log": lambda x, y: np.log(x),
    "sqrt": lambda x, y: np.sqrt(x),
    "maximum": lambda x, y: np.maximum(x, 1) * np.maximum(y, x),
    "matmul": lambda x, y: x.swapaxes(1, 2) @ y,
    "matmul broadcast": lambda x, y: x @ np.swapaxes(x[0], 0, 1),
    "sum": lambda x, y: x.sum(axis=1) * x.sum() + np.sum(y, axis=(0, 1), keepdims=True),
    "sum negative axis": lambda x, y: x.sum(axis=-2, keepdims=True) * x,
    "mean": lambda x, y: x.mean(axis=(0, 2), keepdims=True) * x + y.mean(),
    "max": lambda x, y: x.max(axis=-1, keepdims=True) * x + y.max(),
    "reshape": lambda x, y: x.reshape(4, -1) @ x.reshape((6, 4)) @ np.reshape(x, (4, 6)),
    "transpose": lambda x, y: x.transpose(1, 2, 0) * y[:, :, None] + x.T.transpose((1, 0, 2)),
    "copy": lambda x, y: np.copy(x.T, order="C") * y + np.copy(x).T * x.T,
    "basic index": lambda x, y: x[:, 1:, None, ::2] * x[..., :1, None, 2:],
    "integer index": lambda x, y: x[:, ROWS] * y[ROWS],
    "mask index": lambda x, y: x[W > 0] * 2,
    "concatenate": lambda x, y: np.concatenate((x, W, x * x), axis=1),
    "concatenate last": lambda x, y: np.concatenate([x, x[:, :, :1]], -1),
    "broadcast_to": lambda x, y: np.broadcast_to(y, (2, 3, 4)) * x,
    "where": lambda x, y: np.where(W > 0, x * y, y),
    "used often": lambda x, y: x * x + x * x * y + x,
}


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_operation(operation):
    rng = np.random.default_rng(51)
    params = {"x": rng.uniform(0.5, 2, (2, 3, 4)), "y": rng.standard_normal((3, 1))}
    weights = rng.standard_normal(operation(**params).shape)
    f = lambda p: (operation(p["x"], p["y"]) * weights).sum()  # noqa: E731
    value, grads = value_and_grad(f)(params)
    assert value == f(params)
    check_grad(f, params, grads, tolerance=1e-7)


def test_equal_maxima_share_the_gradient():
    _, grads = value_and_grad(lambda p: p["x"].max())({"x": np.array([1.0, 3.0, 3.0])})
    assert np.array_equal(grads["x"], [0, 0.5, 0.5])


def test_relu_has_gradient_zero_at_zero():
    f = lambda p: np.maximum(p["x"], 0).sum()  # noqa: E731
    assert np.array_equal(value_and_grad(f)({"x": np.array([-1.0, 0.0, 2.0])})[1]["x"], [0, 0, 1])


def test_topological_order():
    """b = a + a, c = b * a, d = c + b: each comes after all that it was made from."""
    a = Tensor(np.array(3.0))
    b = a + a
    c = b * a
    d = c + b
    order = topological(d)
    assert [t is u for t, u in zip(order, [a, b, c, d], strict=True)] == [True] * 4
    _, grads = value_and_grad(lambda p: (p["a"] + p["a"]) * p["a"] + (p["a"] + p["a"]))(
        {"a": np.array(3.0)}
    )
    assert grads["a"] == 4 * 3 + 2


def test_a_long_chain_needs_no_recursion():
    def f(p):
        x = p["x"]
        for _ in range(5000):
            x = x + 1.0
        return x

    assert value_and_grad(f)({"x": np.array(1.0)})[1]["x"] == 1


def test_unbroadcast():
    d = RNG.standard_normal((5, 2, 3))
    assert np.allclose(unbroadcast(d, (2, 1)), d.sum(axis=(0, 2))[:, None])
    assert np.allclose(unbroadcast(d, ()), d.sum())
    assert np.array_equal(unbroadcast(d, d.shape), d)


def in_place(x):
    x += 1
    return x


def assign(x):
    x[0] = 1
    return x


def into_plain(x):
    out = np.zeros(3)
    out[:] = x
    return x


def add_to_plain(x):
    out = np.zeros(3)
    out += x
    return x


LOUD = {
    "in place": in_place,
    "assignment": assign,
    "assignment into a plain array": into_plain,
    "in place on a plain array": add_to_plain,
    "out=": lambda x: np.exp(x, out=np.zeros(3)),
    "a method of a ufunc": lambda x: np.add.reduce(x),
    "an unknown ufunc": lambda x: np.sin(x),
    "an unknown function": lambda x: np.cumsum(x),
    "an unknown method": lambda x: x.cumsum(),
    "an unknown argument": lambda x: np.sum(x, axis=0, initial=3.0),
    "an unknown ufunc argument": lambda x: np.exp(x, dtype=np.float32),
    "to an array": lambda x: np.asarray(x),
    "to a number": lambda x: float(x[0]),
    "to an integer": lambda x: int(x[0]),
    "as a condition": lambda x: x if x[0] else -x,
    "a comparison": lambda x: x * (x > 0),
    "as an index": lambda x: x[x],
    "as an exponent": lambda x: 2.0**x,
    "a vector product": lambda x: x @ x,
    "einsum": lambda x: np.einsum("i,i->", x, x),
    "a copy with subok": lambda x: np.copy(x, subok=True),
    "a flip": lambda x: np.flip(x),
}


@pytest.mark.parametrize("f", LOUD.values(), ids=LOUD)
def test_loud(f):
    with pytest.raises((TypeError, AttributeError), match="autograd:"):
        f(Tensor(np.array([1.0, 2.0, 3.0])))


def test_nothing_is_changed_before_the_tape_objects():
    params = {"x": np.array([1.0, 2.0, 3.0])}
    with pytest.raises(TypeError, match="in place"):
        value_and_grad(lambda p: in_place(p["x"]).sum())(params)
    assert np.array_equal(params["x"], [1, 2, 3])


def test_value_and_grad_refuses():
    params = {"x": np.array([1.0, 2.0])}
    with pytest.raises(TypeError, match="must give a scalar"):
        value_and_grad(lambda p: p["x"] * 2)(params)
    with pytest.raises(TypeError, match="must give a scalar"):
        value_and_grad(lambda p: 3.0)(params)
    calls = []

    def impure(p):
        calls.append(1)
        return p["x"].sum() * len(calls)

    with pytest.raises(ValueError, match="on the tape"):
        value_and_grad(impure)(params)


def test_unused_parameters_have_gradient_zero():
    params = {"x": np.array([1.0, 2.0]), "y": np.ones((3, 2))}
    assert np.array_equal(value_and_grad(lambda p: p["x"].sum())(params)[1]["y"], np.zeros((3, 2)))


def test_gradient_errors():
    reference = {"a": np.array([1.0, -2.0]), "tiny": np.array([0.0]), "none": np.zeros((0, 3))}
    grads = {"a": np.array([1.0, -2.2]), "tiny": np.array([1e-3]), "none": np.zeros((0, 3))}
    errors = gradient_errors(grads, reference)
    assert np.allclose([errors["a"], errors["tiny"], errors["none"]], [0.1, 0.5, 0])
    with pytest.raises(ValueError, match="names differ"):
        gradient_errors({"a": grads["a"]}, reference)
    with pytest.raises(ValueError, match="has shape"):
        gradient_errors({**grads, "a": np.zeros((2, 1))}, reference)


def test_check_grad_finds_a_wrong_number(capsys):
    params = {"x": np.array([1.0, 2.0]), "y": np.array([[3.0, 4.0]])}
    f = lambda p: (p["x"] ** 2).sum() + (p["y"] ** 3).sum()  # noqa: E731
    right = {"x": 2 * params["x"], "y": 3 * params["y"] ** 2}
    assert max(check_grad(f, params, right).values()) < 1e-9
    assert gradient_errors(finite_differences(f, params), right)["y"] < 1e-9
    wrong = {**right, "y": right["y"] + [[0, 0.1]]}
    with pytest.raises(AssertionError, match=r"off by more than 1e-06: y\n"):
        check_grad(f, params, wrong)
    assert "[0, 1]: 48.1, 48" in capsys.readouterr().out
    with pytest.raises(AssertionError, match="x"):
        check_grad(f, params, {**right, "x": right["x"] * np.nan})
