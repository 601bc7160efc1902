"""An independent check of memt's gradients: a small reverse-mode tape, and finite differences.

The tape differentiates an ordinary scalar NumPy function: a `Tensor` holds an array
and takes part in NumPy's own dispatch, so memt's forward functions run on Tensors unchanged, and
not one line of memt's backward is used.

    value, grads = value_and_grad(f)(params)      # params, grads: dict of name -> array
    check_grad(f, params, grads)                  # compares with finite differences

The danger is silent failure. So whatever the tape does not know raises a TypeError, and whatever
it keeps is a private copy: an array may be changed after its use.
"""

import copy
import itertools
from collections.abc import Callable

import numpy as np


class Tensor(np.lib.mixins.NDArrayOperatorsMixin):
    """An array of floats that remembers how it was made.

    `links` holds pairs (parent, vector–Jacobian product): a Tensor that this one was made from, and
    the function from this Tensor's gradient to the parent's (before `unbroadcast`).
    """

    def __init__(self, value: np.ndarray, *links: tuple):
        if value.dtype.kind != "f":
            raise TypeError(f"autograd: a Tensor holds floats, not {value.dtype}")
        self.value = value
        self.links = [(x, vjp) for x, vjp in links if isinstance(x, Tensor)]

    shape = property(lambda self: self.value.shape)
    dtype = property(lambda self: self.value.dtype)
    ndim = property(lambda self: self.value.ndim)
    size = property(lambda self: self.value.size)
    T = property(np.transpose)
    sum, mean, max, swapaxes = np.sum, np.mean, np.max, np.swapaxes  # x.sum(0) is np.sum(x, 0)

    def reshape(self, *shape):
        return np.reshape(self, shape[0] if len(shape) == 1 else shape)

    def transpose(self, *axes):
        return np.transpose(self, axes[0] if len(axes) == 1 else axes or None)

    def __len__(self):
        return len(self.value)

    def __getitem__(self, index):
        index = copy.deepcopy(index)  # raises where it holds a Tensor

        def vjp(d):
            dx = np.zeros_like(self.value)
            np.add.at(dx, index, d)  # an index array may name an element twice
            return dx

        return Tensor(self.value[index], (self, vjp))

    def __array_ufunc__(self, ufunc, method, *args, **kwargs):
        if method != "__call__":
            raise TypeError(f"autograd: np.{ufunc.__name__}.{method} has no rule")
        operands = [np.array(x) if isinstance(x, (list, tuple)) else x for x in args]
        return record(ufunc, operands, kwargs)

    def __array_function__(self, function, types, args, kwargs):
        if function is np.concatenate:  # its operands are in a list
            kwargs = dict(zip(("axis", "out"), args[1:], strict=False)) | kwargs
            args = [np.array(x) if isinstance(x, (list, tuple)) else x for x in args[0]]
        return record(function, args, kwargs)

    def refuse(self, *args, **kwargs):
        raise TypeError("autograd: a Tensor can't be assigned to, copied or turned into an array")

    __setitem__ = __array__ = __bool__ = __index__ = refuse  # __index__ serves int and float too
    __reduce_ex__ = refuse  # serves copy.copy, copy.deepcopy and pickle


def record(function, args, kwargs) -> Tensor:
    """Call the rule of a NumPy function; raises TypeError if there is none for such a call."""
    name = f"np.{function.__name__}"
    if function not in RULES:
        raise TypeError(f"autograd: {name} has no rule")
    try:
        value, *vjps = RULES[function](*map(plain, args), **copy.deepcopy(kwargs))
    except TypeError as error:
        reason = str(error).removeprefix("autograd: ").replace("<lambda>", name)
        raise TypeError(f"autograd: {name} has no rule for this: {reason}") from error
    links = list(itertools.zip_longest(args, vjps))
    if any(isinstance(x, Tensor) and vjp is None for x, vjp in links):
        raise TypeError(f"autograd: {name} has no gradient with respect to this argument")
    return Tensor(value, *links)


def plain(x):
    """The array behind a Tensor; a private copy of anything else, which may be changed later."""
    if isinstance(x, Tensor):
        return x.value
    if isinstance(x, np.ndarray) and type(x) is not np.ndarray:
        raise TypeError(f"autograd: {type(x).__name__} can't be recorded, only plain arrays")
    return copy.deepcopy(x)


def unbroadcast(d: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Sum d over the axes along which an array of that shape was stretched to d's shape."""
    d = d.sum(axis=tuple(range(d.ndim - len(shape))))
    return d.sum(axis=tuple(i for i, n in enumerate(shape) if n == 1), keepdims=True)


def matmul(x, y):
    if np.ndim(x) < 2 or np.ndim(y) < 2:
        raise TypeError("both must have at least two dimensions")
    return x @ y, lambda d: d @ y.swapaxes(-1, -2), lambda d: x.swapaxes(-1, -2) @ d


def sum_(x, axis=None, *, keepdims=False):
    kept = x.sum(axis=axis, keepdims=True)
    y = kept if keepdims else kept.squeeze(axis)
    return y, lambda d: np.broadcast_to(d.reshape(kept.shape), x.shape)


def mean(x, axis=None, *, keepdims=False):
    y, vjp = sum_(x, axis, keepdims=keepdims)
    count = x.size / max(y.size, 1)
    return y / count, lambda d: vjp(d) / count


def max_(x, axis=None, *, keepdims=False):
    kept = x.max(axis=axis, keepdims=True)
    largest = x == kept
    share = largest / largest.sum(axis=axis, keepdims=True)  # equal maxima share the gradient
    y = kept if keepdims else kept.squeeze(axis)
    return y, lambda d: d.reshape(kept.shape) * share


def concatenate(*arrays, axis=0):
    ends = np.cumsum([x.shape[axis] for x in arrays])
    vjps = [lambda d, i=i: np.split(d, ends, axis)[i] for i in range(len(arrays))]
    return np.concatenate(arrays, axis), *vjps


# NumPy function -> its rule, which takes plain arrays and returns the value and, for each argument
# in turn, the function from the gradient d of the value to the gradient of that argument.
RULES: dict[Callable, Callable] = {
    np.add: lambda x, y: (x + y, lambda d: d, lambda d: d),
    np.subtract: lambda x, y: (x - y, lambda d: d, lambda d: -d),
    np.multiply: lambda x, y: (x * y, lambda d: d * y, lambda d: d * x),
    np.divide: lambda x, y: (x / y, lambda d: d / y, lambda d: -d * (x / y) / y),
    np.negative: lambda x: (-x, lambda d: -d),
    # x**0 has slope 0, also at x = 0; n - 1 would wrap in a small integer type, n - 1.0 does not
    np.power: lambda x, n: (x**n, lambda d: d * n * x ** np.where(n == 0, 0, n - 1.0)),
    np.exp: lambda x: (np.exp(x), lambda d: d * np.exp(x)),
    np.log: lambda x: (np.log(x), lambda d: d / x),
    np.sqrt: lambda x: (np.sqrt(x), lambda d: d / (2 * np.sqrt(x))),
    # where both are equal, y takes the gradient: relu'(0) = 0
    np.maximum: lambda x, y: (np.maximum(x, y), lambda d: d * (x > y), lambda d: d * ~(x > y)),
    np.matmul: matmul,
    np.sum: sum_,
    np.mean: mean,
    np.max: max_,
    np.reshape: lambda x, shape: (x.reshape(shape), lambda d: d.reshape(x.shape)),
    np.transpose: lambda x, axes=None: (
        x.transpose(axes),
        lambda d: d.T if axes is None else np.moveaxis(d, range(d.ndim), axes),
    ),
    np.swapaxes: lambda x, *axes: (x.swapaxes(*axes), lambda d: d.swapaxes(*axes)),
    np.copy: lambda x, order="K": (np.copy(x, order), lambda d: d),
    np.broadcast_to: lambda x, shape: (np.broadcast_to(x, shape), lambda d: d),
    np.concatenate: concatenate,
    np.where: lambda condition, x, y: (
        np.where(condition, x, y),
        None,
        lambda d: np.where(condition, d, 0),
        lambda d: np.where(condition, 0, d),
    ),
}


def topological(out: Tensor) -> list[Tensor]:
    """Every Tensor that `out` was made from, parents first; iterative, so a chain may be long.

    Going back along the list, a Tensor is reached when its whole gradient has been summed. The
    smallest case that needs it: b = a + a, c = b + b, where b must wait for both gradients from c.
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


def backward(out: Tensor) -> dict[int, np.ndarray]:
    """id of a Tensor -> gradient of the scalar `out` with respect to it, of its shape and dtype."""
    grads = {id(out): np.ones_like(out.value)}
    for tensor in reversed(topological(out)):
        for parent, vjp in tensor.links:
            d = unbroadcast(vjp(grads[id(tensor)]), parent.shape).astype(parent.dtype)
            grads[id(parent)] = grads[id(parent)] + d if id(parent) in grads else d
    return grads


def copies(params: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Copies, which f may overwrite. Raises TypeError unless all params are arrays of floats."""
    for name, p in params.items():
        if type(p) is not np.ndarray or p.dtype.kind != "f":
            found = f"{type(p).__name__} of {getattr(p, 'dtype', 'no dtype')}"
            raise TypeError(f"autograd: {name!r} is a {found}: must be a NumPy array of floats")
    return {name: np.array(p) for name, p in params.items()}


def value_and_grad(f: Callable) -> Callable:
    """f: dict (name -> array) -> scalar, made with NumPy. Returns params -> (value, gradients).

    The gradients have the names, shapes and dtypes of params; zero where f does not depend on one.
    Raises TypeError for params that are not arrays of floats, for what the tape can't record, and
    unless f gives a scalar that depends on params; ValueError if it differs on plain arrays.
    """

    def run(params: dict[str, np.ndarray]):
        leaves = {name: Tensor(p) for name, p in copies(params).items()}
        out = f(dict(leaves))
        if not isinstance(out, Tensor) or out.shape:
            found = f"{type(out).__name__} of shape {getattr(out, 'shape', ())}"
            raise TypeError(f"autograd: f must give a scalar that depends on params, not {found}")
        again, rtol = f(copies(params)), 100 * np.finfo(out.dtype).eps
        if np.shape(again) or not np.isclose(out.value, again, rtol, atol=0, equal_nan=True):
            raise ValueError(f"autograd: f gives {out.value} on the tape, {again} on plain arrays")
        grads = {id(x): np.zeros_like(x.value) for x in leaves.values()} | backward(out)
        return out.value[()], {name: np.asarray(grads[id(x)]) for name, x in leaves.items()}

    return run


def finite_differences(f: Callable, params: dict[str, np.ndarray], step: float = 1e-5):
    """name -> (f(p + step) - f(p - step)) / (2 step) for every single number p, in float64."""
    params = {name: p.astype(np.float64) for name, p in copies(params).items()}
    grads = {name: np.zeros_like(p) for name, p in params.items()}
    for name, d in grads.items():
        for i in np.ndindex(d.shape):
            up, down = copies(params), copies(params)
            up[name][i] += step
            down[name][i] -= step
            d[i] = (float(f(up)) - float(f(down))) / (2 * step)
    return grads


def gradient_errors(grads: dict, reference: dict) -> dict[str, float]:
    """name -> max|a - b| / max(max|b|, 1e-3 · the largest absolute value in reference).

    The floor is for gradients that are zero in theory. Raises ValueError if names or shapes differ.
    """
    given, right = ({(name, np.shape(a)) for name, a in d.items()} for d in (grads, reference))
    if given != right:
        raise ValueError(f"names, shapes: {dict(given - right)} must be {dict(right - given)}")
    pairs = {name: (np.asarray(grads[name]), np.asarray(b)) for name, b in reference.items()}
    floor = 1e-3 * max(abs(b).max(initial=0) for _, b in pairs.values()) or 1.0
    return {
        name: float(abs(a - b).max(initial=0) / max(abs(b).max(initial=0), floor))
        for name, (a, b) in pairs.items()
    }


def check_grad(f, params, grads, step: float = 1e-5, tolerance: float = 1e-6) -> dict[str, float]:
    """Compare given gradients of the scalar function f with central finite differences in float64.

    Prints and returns name -> error, as `gradient_errors` has it. Raises AssertionError, naming the
    wrong tensors, where an error is above the tolerance.
    """
    errors = gradient_errors(grads, finite_differences(f, params, step))
    print(*(f"{name:<24} {error:.1e}" for name, error in errors.items()), sep="\n")
    wrong = [name for name, error in errors.items() if not error <= tolerance]
    if wrong:
        raise AssertionError(f"off by more than {tolerance:g}: {', '.join(wrong)}")
    return errors
