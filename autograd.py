"""The independent judge of memt's gradients: a small reverse-mode tape, and finite differences.

The tape differentiates any scalar function that is written with NumPy on arrays, as it stands:
a `Tensor` holds an array and takes part in NumPy's own dispatch, so memt's forward functions run
on Tensors unchanged, and not one line of memt's backward is used.

    value, grads = value_and_grad(f)(params)      # params, grads: dict of name -> array
    check_grad(f, params, grads)                  # the same question asked by finite differences

Silence is the danger in such a tool. What the tape does not know, an in-place operation, an
assignment into an array and a conversion to a plain array or number each raise a TypeError.
"""

import inspect
from collections.abc import Callable

import numpy as np

Array = np.ndarray
RULES: dict[Callable, Callable] = {}  # NumPy function -> the function below that records it


class Tensor(np.lib.mixins.NDArrayOperatorsMixin):
    """An array that remembers how it was made.

    `links` holds a pair for every Tensor that this one was made from: that Tensor, and a function
    from the gradient of this one to the gradient of that one (before `unbroadcast`).
    """

    def __init__(self, value: Array, *links: tuple):
        self.value = value
        self.links = [(x, back) for x, back in links if isinstance(x, Tensor)]

    shape = property(lambda self: self.value.shape)
    dtype = property(lambda self: self.value.dtype)
    ndim = property(lambda self: self.value.ndim)
    size = property(lambda self: self.value.size)
    T = property(lambda self: transpose(self))

    def __array_ufunc__(self, ufunc, method, *args, **kwargs):
        if "out" in kwargs:
            raise TypeError(f"autograd: np.{ufunc.__name__} in place (out=, +=) can't be recorded")
        if method != "__call__":
            raise TypeError(f"autograd: np.{ufunc.__name__}.{method} is not on the tape")
        return record(ufunc, args, kwargs)

    def __array_function__(self, function, types, args, kwargs):
        return record(function, args, kwargs)

    def __getitem__(self, index):
        return getitem(self, index)

    def __len__(self):
        return len(self.value)

    def reshape(self, *shape):
        return reshape(self, shape[0] if len(shape) == 1 else shape)

    def transpose(self, *axes):
        return transpose(self, (axes[0] if len(axes) == 1 else axes) or None)

    def swapaxes(self, axis1, axis2):
        return swapaxes(self, axis1, axis2)

    def sum(self, axis=None, keepdims=False):
        return sum_(self, axis, keepdims)

    def mean(self, axis=None, keepdims=False):
        return mean(self, axis, keepdims)

    def max(self, axis=None, keepdims=False):
        return max_(self, axis, keepdims)

    def __setitem__(self, index, value):
        raise TypeError("autograd: an assignment into an array can't be recorded")

    def refuse(self, *args, **kwargs):
        raise TypeError("autograd: a recorded array can't become a plain array or number")

    __array__ = __float__ = __int__ = __bool__ = __index__ = __complex__ = refuse

    def __getattr__(self, name):
        raise AttributeError(f"autograd: .{name} of an array is not on the tape")


# ---------------------------------------------------------------- recording


def record(function, args, kwargs) -> Tensor:
    """Call the rule of a NumPy function; raises TypeError if there is none for such a call."""
    name = f"np.{function.__name__}"
    if function not in RULES:
        raise TypeError(f"autograd: {name} is not on the tape")
    rule = RULES[function]
    try:
        inspect.signature(rule).bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(f"autograd: {name} is on the tape, but not with this: {error}") from None
    return rule(*args, **kwargs)


def rule(*functions):
    """Decorator: this function records those of NumPy."""

    def register(recorder):
        RULES.update(dict.fromkeys(functions, recorder))
        return recorder

    return register


def val(x):
    """The plain array behind x."""
    return x.value if isinstance(x, Tensor) else x


def unbroadcast(d: Array, shape: tuple[int, ...]) -> Array:
    """Sum d over the axes along which an array of that shape was stretched to d's shape."""
    d = d.sum(axis=tuple(range(d.ndim - len(shape))))
    stretched = tuple(i for i, n in enumerate(shape) if n == 1 and d.shape[i] != 1)
    return d.sum(axis=stretched, keepdims=True)


# ---------------------------------------------------------------- one rule per operation


@rule(np.add)
def add(x, y):
    return Tensor(val(x) + val(y), (x, lambda d: d), (y, lambda d: d))


@rule(np.subtract)
def subtract(x, y):
    return Tensor(val(x) - val(y), (x, lambda d: d), (y, lambda d: -d))


@rule(np.multiply)
def multiply(x, y):
    return Tensor(val(x) * val(y), (x, lambda d: d * val(y)), (y, lambda d: d * val(x)))


@rule(np.divide)
def divide(x, y):
    out = val(x) / val(y)
    return Tensor(out, (x, lambda d: d / val(y)), (y, lambda d: -d * out / val(y)))


@rule(np.negative)
def negative(x):
    return Tensor(-val(x), (x, lambda d: -d))


@rule(np.power)
def power(x, n):
    if isinstance(n, Tensor):
        raise TypeError("autograd: np.power is on the tape with a plain exponent only")
    return Tensor(val(x) ** n, (x, lambda d: d * n * val(x) ** (n - 1)))


@rule(np.exp)
def exp(x):
    out = np.exp(val(x))
    return Tensor(out, (x, lambda d: d * out))


@rule(np.log)
def log(x):
    return Tensor(np.log(val(x)), (x, lambda d: d / val(x)))


@rule(np.sqrt)
def sqrt(x):
    out = np.sqrt(val(x))
    return Tensor(out, (x, lambda d: d / (2 * out)))


@rule(np.maximum)
def maximum(x, y):
    first = val(x) > val(y)  # where both are equal the second takes the gradient: relu'(0) = 0
    out = np.maximum(val(x), val(y))
    return Tensor(out, (x, lambda d: d * first), (y, lambda d: d * ~first))


@rule(np.matmul)
def matmul(x, y):
    if val(x).ndim < 2 or val(y).ndim < 2:
        raise TypeError("autograd: np.matmul is on the tape for two or more dimensions only")
    back_x = (x, lambda d: d @ val(y).swapaxes(-1, -2))
    return Tensor(val(x) @ val(y), back_x, (y, lambda d: val(x).swapaxes(-1, -2) @ d))


@rule(np.sum)
def sum_(x, axis=None, keepdims=False):
    def back(d):
        if axis is not None and not keepdims:
            d = np.expand_dims(d, axis)
        return np.broadcast_to(d, x.shape)

    return Tensor(val(x).sum(axis=axis, keepdims=keepdims), (x, back))


@rule(np.mean)
def mean(x, axis=None, keepdims=False):
    total = sum_(x, axis, keepdims)
    return total / (x.size // total.size)


@rule(np.max)
def max_(x, axis=None, keepdims=False):
    kept = val(x).max(axis=axis, keepdims=True)
    largest = val(x) == kept
    share = largest / largest.sum(axis=axis, keepdims=True)  # equal maxima share the gradient
    back = (x, lambda d: (share * d.reshape(kept.shape)).astype(x.dtype))
    return Tensor(val(x).max(axis=axis, keepdims=keepdims), back)


@rule(np.reshape)
def reshape(x, shape):
    return Tensor(val(x).reshape(shape), (x, lambda d: d.reshape(x.shape)))


@rule(np.transpose)
def transpose(x, axes=None):
    inverse = None if axes is None else np.argsort(axes)
    return Tensor(val(x).transpose(axes), (x, lambda d: d.transpose(inverse)))


@rule(np.swapaxes)
def swapaxes(x, axis1, axis2):
    return Tensor(val(x).swapaxes(axis1, axis2), (x, lambda d: d.swapaxes(axis1, axis2)))


@rule(np.copy)
def copy(x, order="K"):
    return Tensor(np.copy(val(x), order), (x, lambda d: d))


@rule(np.broadcast_to)
def broadcast_to(x, shape):
    return Tensor(np.broadcast_to(val(x), shape), (x, lambda d: d))


@rule(np.concatenate)
def concatenate(arrays, axis=0):
    ends = np.cumsum([val(x).shape[axis] for x in arrays])[:-1]

    def back(i):
        return lambda d: np.split(d, ends, axis)[i]

    links = [(x, back(i)) for i, x in enumerate(arrays)]
    return Tensor(np.concatenate([val(x) for x in arrays], axis), *links)


@rule(np.where)
def where(condition, x, y):
    zero = (lambda d: np.where(condition, d, 0)), (lambda d: np.where(condition, 0, d))
    return Tensor(np.where(condition, val(x), val(y)), (x, zero[0]), (y, zero[1]))


def getitem(x, index):
    if isinstance(index, Tensor):
        raise TypeError("autograd: an index must be a plain array")

    def back(d):
        dx = np.zeros(x.shape, d.dtype)
        keys = index if isinstance(index, tuple) else (index,)
        if all(isinstance(k, (int, slice, type(None), type(...))) for k in keys):
            dx[index] = d  # such an index names no element twice
        else:
            np.add.at(dx, index, d)
        return dx

    return Tensor(val(x)[index], (x, back))


# ---------------------------------------------------------------- going back


def topological(out: Tensor) -> list[Tensor]:
    """Every Tensor that `out` was made from, each after all that it was made from; no recursion.

    Going back along this list, a Tensor comes up only when its whole gradient has been summed:
    in b = a + a, c = b + b, a must wait for b.
    """
    order, seen, stack = [], set(), [(out, False)]
    while stack:
        tensor, ready = stack.pop()
        if ready:
            order.append(tensor)
        elif id(tensor) not in seen:
            seen.add(id(tensor))
            stack.append((tensor, True))
            stack.extend((parent, False) for parent, _ in tensor.links)
    return order


def backward(out: Tensor) -> dict[int, Array]:
    """id of a Tensor -> gradient of the scalar `out` with respect to it."""
    grads = {id(out): np.ones_like(out.value)}
    for tensor in reversed(topological(out)):
        for parent, back in tensor.links:
            d = unbroadcast(back(grads[id(tensor)]), parent.shape)
            known = grads.get(id(parent))
            grads[id(parent)] = d if known is None else known + d
    return grads


def value_and_grad(f: Callable) -> Callable:
    """f: dict of name -> array -> scalar, made with NumPy. Returns params -> (value, gradients).

    The gradients are a dict of the same names and shapes; zero where f does not depend on one.
    Raises TypeError where f does what the tape can't record, or gives no scalar that depends on
    params, and ValueError where f on Tensors and f on plain arrays disagree.
    """

    def run(params: dict[str, Array]):
        tensors = {name: Tensor(p) for name, p in params.items()}
        out = f(tensors)  # first: where f works in place, this raises before params are touched
        plain = f(params)
        if not isinstance(out, Tensor) or out.shape:
            raise TypeError(f"autograd: f must give a scalar that depends on params, not {out!r}")
        if not np.isclose(out.value, plain, rtol=1e3 * np.finfo(out.dtype).eps, equal_nan=True):
            raise ValueError(f"autograd: f gives {out.value} on the tape, {plain} on plain arrays")
        grads = backward(out)
        return out.value, {
            name: grads.get(id(t), np.zeros(t.shape, t.dtype)) for name, t in tensors.items()
        }

    return run


# ---------------------------------------------------------------- finite differences


def finite_differences(f: Callable, params: dict[str, Array], step: float = 1e-5):
    """name -> (f(p + step) - f(p - step)) / (2 step) for every single number p, in float64."""
    params = {name: np.array(p, np.float64) for name, p in params.items()}
    grads = {name: np.zeros_like(p) for name, p in params.items()}
    for name, p in params.items():
        for i in np.ndindex(p.shape):
            kept = p[i]
            p[i] = kept + step
            up = f(params)
            p[i] = kept - step
            grads[name][i] = (up - f(params)) / (2 * step)
            p[i] = kept
    return grads


def gradient_errors(grads: dict[str, Array], reference: dict[str, Array]) -> dict[str, float]:
    """name -> max|a - b| over the larger of max|b| and 1e-3 of the largest number in reference.

    The floor is there because some gradients are zero in theory. Raises ValueError where names or
    shapes differ.
    """
    if grads.keys() != reference.keys():
        raise ValueError(f"names differ: {sorted(grads.keys() ^ reference.keys())}")
    for name, b in reference.items():
        if grads[name].shape != b.shape:
            raise ValueError(f"{name} has shape {grads[name].shape}: must be {b.shape}")
    floor = 1e-3 * max(abs(b).max(initial=0) for b in reference.values()) or 1.0
    return {
        name: float(abs(grads[name] - b).max(initial=0) / max(abs(b).max(initial=0), floor))
        for name, b in reference.items()
    }


def error_table(grads: dict[str, Array], reference: dict[str, Array]) -> str:
    """A line per tensor: name, shape, error, where it is largest and what stands there."""
    lines = [f"{'tensor':<24} {'shape':<12} {'error':>8}  largest at: given, reference"]
    for name, error in gradient_errors(grads, reference).items():
        a, b = grads[name], reference[name]
        at = ""
        if a.size:
            i = np.unravel_index(np.argmax(abs(a - b)), a.shape)
            at = f"[{', '.join(map(str, i))}]: {a[i]:.6g}, {b[i]:.6g}"
        lines.append(f"{name:<24} {a.shape!s:<12} {error:8.1e}  {at}")
    return "\n".join(lines)


def check_grad(f, params, grads, step: float = 1e-5, tolerance: float = 1e-6) -> dict[str, float]:
    """Compare given gradients of the scalar function f with central finite differences in float64.

    Prints a table with a line per tensor and returns name -> error, as `gradient_errors` has it.
    Raises AssertionError if one is above the tolerance.
    """
    reference = finite_differences(f, params, step)
    table = error_table(grads, reference)
    print(table)
    errors = gradient_errors(grads, reference)
    wrong = [name for name, error in errors.items() if not error <= tolerance]
    if wrong:
        raise AssertionError(f"off by more than {tolerance:g}: {', '.join(wrong)}\n{table}")
    return errors
