"""Which slip makes wrong gradients? Slips are tried until one gives exactly the given numbers.

Some are made on a tensor as a whole: a sign, a factor, a transpose. Others are made inside: the
tape of the student's own forward pass is broken at one link, and runs. The last are made on one
term of a sum, which is what a cut link takes away.
"""

import itertools
from collections.abc import Callable, Iterator

import numpy as np

from autograd import Array, Tensor, backward, error_table, gradient_errors, topological

TOLERANCE = 1e-9
Grads = dict[str, Array]

WORDS = {
    "missing sum": "missing sum: a value is used in every element of a row (or for every row); "
    "its gradient is the sum over them.",
    "not accumulated": "not accumulated: a value is used in more than one place, and the gradient "
    "that comes back from one of them is not added (`=` where `+=` belongs?).",
    "overwritten": "not accumulated: what dp held before is lost; gradients add into dp.",
    "factor": "factor: a term has a wrong factor: one is forgotten, there twice or the wrong one; "
    "a number such as 1/C counts, too.",
    "sign": "sign: a gradient has the wrong sign.",
    "transposed": "transposed: a product has its factors in the wrong order, untransposed, or not "
    "the right arrays. Write the shape of each beside its line.",
    "shapes": "shapes: these two do not belong to the same array. Write the shape of each beside "
    "its line (keepdims? other rows?).",
    "order": "order: in {} the right numbers stand in the wrong places.",
    "swapped": "order: a gradient stands in the place of another one.",
    "shape": "shape: count again what its docstring says, and what each sum or cut leaves.",
    "past": "past: somewhere a gradient goes past a function that it must go through, or it is "
    "that of another array of the same shape. Which `d` belongs to which array?",
    "axis": "axis: a sum runs over the wrong axis.",
    "gate": "gate: ReLU lets a gradient pass only where its input was positive; the way forward "
    "decides that, not the gradient.",
    "rows": "not accumulated: some rows are right and others wrong. What do the wrong ones share?",
}


def explain(f: Callable, params: Grads, grads: Grads, before: Grads) -> str:
    """A table and a hint for gradients of f that are wrong; empty if they are right.

    `before` is what dp held when the student's backward was called.
    """
    tensors = {name: Tensor(p) for name, p in params.items()}
    out = f(tensors)
    reference = read(out, tensors)
    try:
        errors = gradient_errors(grads, reference)
        table = error_table(grads, reference)
    except (ValueError, AttributeError) as error:  # a name or shape, or not an array
        shaped = [n for n, b in reference.items() if np.shape(grads.get(n)) != b.shape]
        errors = dict.fromkeys(shaped or reference, np.inf)
        table = f"{error} (values not compared yet)"
    wrong = [name for name, error in errors.items() if not error <= TOLERANCE]
    if not wrong:
        return ""
    left = [n for n in wrong if n in before and n in grads and not np.any(grads[n])]
    if left:
        hint = f"left out: {', '.join(left)} never reached dp."
        return f"{table}\n\nwrong: {', '.join(wrong)}\n{hint}"
    found = shape_slip(grads, reference) or direct_slip(grads, reference, before, wrong)
    found = found or tape_slip(out, tensors, grads, reference, wrong)
    hint = WORDS[found] if found else none_fits(wrong, reference)
    if found == "order":
        hint = hint.format(next(n for n in wrong if moved(grads[n], reference[n])))
    return f"{table}\n\nwrong: {', '.join(wrong)}\n{hint}"


def none_fits(wrong: list[str], reference: Grads) -> str:
    """What can be said without a slip that fits."""
    right = [name for name in reference if name not in wrong]
    names = ", ".join(right) if len(right) < 9 else f"all the others ({len(right)})"
    advice = f" Right: {names}. Look at what the wrong ones share." if right else ""
    return f"I do not recognise this slip.{advice}"


def read(out: Tensor, tensors: dict[str, Tensor]) -> Grads:
    """Gradients of a scalar by the tape as it stands."""
    grads = backward(out)
    return {n: grads.get(id(t), np.zeros(t.shape)) for n, t in tensors.items()}


def same(a: Array, b: Array) -> bool:
    """Equal shapes, equal numbers."""
    return a.shape == b.shape and bool(abs(a - b).max(initial=0) <= TOLERANCE * abs(b).max())


def moved(a: Array, b: Array) -> bool:
    """The same numbers, wherever they stand."""
    return a.shape == b.shape and same(np.sort(a, axis=None), np.sort(b, axis=None))


# ---------------------------------------------------------------- slips in a whole tensor


def shape_slip(grads: Grads, reference: Grads) -> str:
    """The slip behind the first tensor of a wrong shape."""
    for name, b in reference.items():
        a = grads.get(name)
        if not isinstance(a, np.ndarray) or a.shape == b.shape:
            continue
        if any(a.shape == c.shape != np.shape(grads.get(n)) for n, c in reference.items()):
            return "swapped"
        if a.shape == b.shape[::-1]:
            return "transposed"
        return "missing sum" if a.ndim > b.ndim else "shape"
    return ""


def direct_slip(grads: Grads, reference: Grads, before: Grads, wrong: list[str]) -> str:
    """The first slip that turns a wrong tensor of the reference into the given one."""
    for name in wrong:
        a, b = grads[name], reference[name]
        if same(a + before.get(name, 0), b) and name in before:
            return "overwritten"
        if same(a.T, b):
            return "transposed"
        others = reference if len(wrong) < 4 else wrong  # of many one may be so by chance
        if any(same(a, reference[other]) for other in others if other != name):
            return "swapped"
        if moved(a, b):
            return "order"
        scale = (a * b).sum() / max((a * a).sum(), 1e-300)
        if same(a * scale, b):
            return "sign" if np.isclose(scale, -1) else "factor"
        rows = [same(x, y) for x, y in zip(a, b, strict=True)]
        if b.ndim == 2 and name == "embed" and any(rows):
            return "rows"
    return ""


# ---------------------------------------------------------------- slips inside, made on the tape


def tape_slip(
    out: Tensor, tensors: dict[str, Tensor], grads: Grads, reference: Grads, wrong: list[str]
) -> str:
    """The slip of the first broken tape that gives the given gradients; empty if none does."""
    values = [node.value for node in topological(out)]
    if any(factor_wrong(grads[n], reference, n, values) for n in wrong):
        return "factor"
    if any(same(d, grads[n]) for n in wrong for g in backward(out).values() if g.ndim for d in g):
        return "missing sum"
    terms, cut, flows = set(), reference, []
    for slip in broken_tapes(out):
        broken = read(out, tensors)
        if all(same(grads[n], broken[n]) for n in wrong):
            return slip
        if slip in ("missing sum", "not accumulated"):
            cut, whole = broken, reference
        else:
            whole = broken
        if all(same(cut[n], b) for n, b in reference.items() if n not in wrong):
            terms.add(term_slip(grads, cut, whole, wrong, values))
        if slip in ("missing sum", "not accumulated"):
            flows.append((reference[wrong[0]] - broken[wrong[0]]).ravel())
    if len(wrong) == 1:
        off = (grads[wrong[0]] - reference[wrong[0]]).ravel()
        slips = (mixture(off, pair) for pair in itertools.combinations(flows, 2))
        if slip := next(filter(None, slips), ""):
            return slip
    if any(terms):
        return next(slip for slip in ("axis", "factor", "missing sum") if slip in terms)
    for _ in detours(out):
        broken = read(out, tensors)
        if all(same(grads[n], broken[n]) for n in wrong):
            return "past"
    return ""


def fitting(values: list[Array], a: Array) -> list[Array]:
    """The arrays without zeros that stretch to a's shape."""
    return [v for v in values if stretches(v.shape, a.shape) and v.all()]


def factor_wrong(a: Array, reference: Grads, name: str, values: list[Array]) -> bool:
    """Whether a wrong tensor has one array of the forward pass too few or too many as a factor."""
    right = [c for n, c in reference.items() if c.shape == a.shape]
    return any(same(a * v, reference[name]) for v in fitting(values, a)) or any(
        same(a, c * v) for v in fitting(values, a) for c in right
    )


def mixture(off: Array, parts: tuple[Array, Array]) -> str:
    """The slip made in two terms at once, if what is off is the sum of a multiple of each."""
    columns = np.stack(parts, axis=1)
    share = np.linalg.lstsq(columns, off, rcond=None)[0]
    if not same(columns @ share, off):
        return ""
    known = {-1: "not accumulated", -2: "sign"}  # a term that is gone; one that is turned
    return next((slip for x, slip in known.items() if np.allclose(share, x)), "factor")


def term_slip(grads: Grads, cut: Grads, whole: Grads, wrong: list[str], values) -> str:
    """What is wrong with one term of a sum: it is `whole` - `cut` and stands as `grads` - `cut`."""
    given, right = ([g[n] - cut[n] for n in wrong] for g in (grads, whole))
    if multiple(*(np.concatenate([x.ravel() for x in xs]) for xs in (given, right))):
        return "factor"
    if len(wrong) > 1:
        return ""
    a, b = given[0], right[0]
    for v in fitting(values, a):
        if constant(b / v, -1) and np.allclose(a / v, (b / v)[..., 0].sum()):
            return "axis"  # one sum over all
    for v in fitting(values, a):
        if multiple(a * v, b) or multiple(a, b * v):
            return "factor"
        if not constant(b / v, -1):
            continue
        if constant(a / v, -1):
            return "factor"
        if any(constant(a / v, i) for i in range(a.ndim - 1)):
            return "axis"
        if same((a / v).sum(axis=-1), (b / v)[..., 0]):
            return "missing sum"
    return ""


def multiple(a: Array, b: Array) -> bool:
    """Whether a is b times a number other than 0."""
    scale = (a * b).sum() / max((b * b).sum(), 1e-300)
    return abs(a).max() > TOLERANCE and abs(a - scale * b).max() <= TOLERANCE * abs(a).max()


def constant(a: Array, axis: int) -> bool:
    """Whether a is the same all along an axis, and not zero."""
    return abs(a).max() > TOLERANCE and np.ptp(a, axis=axis).max() <= TOLERANCE * abs(a).max()


def broken_tapes(out: Tensor) -> Iterator[str]:
    """Break the tape at one link after the other, naming each slip; each is mended afterwards."""
    full, users = backward(out), {}
    for node in topological(out):  # the row's maximum in softmax: its gradient is 0 but for noise
        node.links = [link for link in node.links if not is_noise(link[0], full)]
    nodes = topological(out)
    for node in nodes:
        for parent in {id(p): p for p, _ in node.links}.values():
            users.setdefault(id(parent), (parent, []))[1].append(node)
    links = {id(node): node.links for node in nodes}
    for parent, children in users.values():
        for child in children:
            yield from broken_links(parent, child, full)
            child.links = links[id(child)]
            for other in children:  # only this child of three or more
                if other is not child:
                    other.links = [link for link in other.links if link[0] is not parent]
            if len(children) > 2:
                yield "not accumulated"
            for other in children:
                other.links = links[id(other)]


def stretches(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    """Whether an array of one shape is stretched to the other in an operation by elements."""
    return len(shape) == len(to) and all(n in (1, m) for n, m in zip(shape, to, strict=True))


def is_noise(node: Tensor, full: dict[int, Array]) -> bool:
    """Whether a node inside the tape has a gradient of zero but for rounding."""
    return bool(node.links) and bool(abs(full[id(node)]).max(initial=0) < 1e-12)


def broken_links(parent: Tensor, child: Tensor, full: dict[int, Array]) -> Iterator[str]:
    """One link: cut; its sign turned; its factor forgotten or inverted; the gradient as a gate."""
    kept = child.links
    others = [link for link in kept if link[0] is not parent]
    own = [back for p, back in kept if p is parent]
    d = sum(back(full[id(child)]) for back in own)
    spread = d.ndim and d.shape[-1] > 1 and np.ptp(d, axis=-1).max() <= 1e-12 * abs(d).max()
    child.links = others
    yield "missing sum" if spread else "not accumulated"
    child.links = [*others, *((parent, lambda d, back=back: -back(d)) for back in own)]
    yield "sign"
    if stretches(parent.shape, child.shape):
        factor = own[0](np.ones(child.shape))
        child.links = [*others, (parent, lambda d: d)]
        yield "factor" if factor.all() else "gate"
        child.links = [*others, (parent, lambda d: d * (d > 0))]
        yield "gate"
        if parent.shape == child.shape and len(own) == 1 and factor.all():
            child.links = [*others, (parent, lambda d: d / factor)]
            yield "factor"
    child.links = kept


def detours(out: Tensor) -> Iterator[None]:
    """Lead gradients past functions: from an array to an earlier one of the same shape."""
    nodes = topological(out)
    links = {id(node): node.links for node in nodes}
    users = {id(p): [n for n in nodes if any(q is p for q, _ in n.links)] for p in nodes}
    for early, late in itertools.combinations(nodes, 2):
        if early.shape != late.shape or not early.ndim:
            continue
        for cut in (*([user] for user in users[id(early)]), users[id(early)]):
            for user in cut:  # early gets late's gradient in place of its users'
                user.links = [link for link in user.links if link[0] is not early]
            late.links = [*late.links, (early, lambda d: d)]
            yield
            for node in (*cut, late):
                node.links = links[id(node)]
        for user in users[id(late)]:  # what is late's goes to early at once
            user.links = [(early if p is late else p, back) for p, back in user.links]
            yield
            user.links = links[id(user)]
