"""What is wrong with a gradient: a table, and a hint if a known slip gives the same numbers.

A slip is a pair: a hint, and a function with that mistake. All are edits of the correct function:
those that an exercise lists (`listed`), and every small one of its syntax tree (`edits`).
"""

import ast
import contextlib
import inspect
import itertools
import re
import textwrap

import numpy as np

from autograd import gradient_errors

TOLERANCE = 1e-9
AXIS = "axis: a sum, mean or concatenation runs along the wrong axis."
FACTOR = "factor: a factor of a term, as 1/C or 1/√D, is missing, wrong, or used twice."
GATE = "gate: ReLU passes the gradient where its input was positive in the forward pass."
LEFT_OUT = "left out: all zeros. Is the gradient computed, and added in place (`+=`, add_into)?"
ORDER = "order: two correct gradients are swapped where they are returned, named or stacked."
OTHER = """wrong array: one array is used in place of another, or a function that the gradient must
pass through is left out. Which `d` belongs to which array?"""
OVERWRITTEN = "overwritten where `+=` belongs: what dparams held before must be kept (add_into)."
SHAPE = "shape: check the docstring, and write the shape of each array next to its line."
SIGN = "sign: a term has the wrong sign."
SUM = "missing sum: an array used for many rows gets the sum of the gradients of all of them."
TERM = """missing term: a value that reaches the output along several paths gets the sum of their
gradients. One of them is left out, or overwritten (`=` instead of `+=`)."""
TRANSPOSED = "transposed: a product is in the wrong order, or a factor of it is not transposed."
UNPACKED = "order: two values are swapped where they are unpacked, or one is used as the other."
UNKNOWN = """This is not one of the known mistakes. Compute one row by hand, or compare term by term
with finite differences; several wrong gradients may have one line in common."""


@np.errstate(all="ignore")  # the arrays may hold anything
def explain(given, right, candidates):
    """A hint and a table for wrong gradients; empty if all are correct.

    given, right: name -> array. candidates: pairs of a hint and the gradients with its slip.
    """
    if complaint := misshapen(given, right):
        return complaint
    errors = gradient_errors(given, right)
    wrong = [name for name, error in errors.items() if not error <= TOLERANCE]
    if not wrong:
        return ""
    candidates = itertools.chain(whole(given, right, wrong), candidates)
    hint, explained = best_match(given, wrong, candidates)
    lines = [hint, "", f"{'wrong':<12} {'shape':<12} {'error':>8}  worst at: given, expected"]
    if 0 < len(explained) < len(wrong):
        lines[0] = f"{hint}\nThis explains {', '.join('d' + name for name in explained)}."
    for name in wrong:
        a, b = given[name], right[name]
        i = np.unravel_index(np.argmax(abs(a - b)), a.shape)
        at = f"{list(map(int, i))}: {a[i]:.6g}, {b[i]:.6g}"
        lines.append(f"{'d' + name:<12} {a.shape!s:<12} {errors[name]:8.1e}  {at}")
    good = [f"d{name}" for name in right if name not in wrong]
    return "\n".join([*lines, f"correct: {', '.join(good) or 'none'}"])


def misshapen(given, right):
    """A complaint about results that are not float64 arrays of the right shapes, or empty."""
    for name, a in given.items():
        if type(a) is not np.ndarray or a.dtype != np.float64:
            return f"d{name} must be an array of float64, not {found(a)}."
    wrong = [name for name, b in right.items() if given[name].shape != b.shape]
    if not wrong:
        return ""
    a, b = given[wrong[0]].shape, right[wrong[0]].shape
    hint = TRANSPOSED if a == b[::-1] else SUM if len(a) > len(b) else SHAPE
    hint = ORDER if any(a == right[name].shape for name in wrong) else hint
    lines = (f"d{n} has shape {given[n].shape}: must be {right[n].shape}" for n in wrong)
    return "\n".join([hint, "", *lines])


def found(a):
    """What an answer is: an array of some type and shape, None, or another type."""
    if isinstance(a, np.generic):
        return f"a single number of {a.dtype}"
    if isinstance(a, np.ndarray):
        kind = "an array" if type(a) is np.ndarray else type(a).__name__
        return f"{kind} of {a.dtype} of shape {a.shape}"
    return "None" if a is None else type(a).__name__


def best_match(given, wrong, candidates):
    """The hint of the candidate that explains the most wrong tensors, and which these are.

    A candidate in which a tensor is wrong that is correct here can't be what happened.
    """
    hint, explained, correct = UNKNOWN, [], given.keys() - wrong
    for text, result in candidates:
        agree = [name for name in given if name in result and same(given[name], result[name])]
        if correct.issubset(agree) and len(agree) - len(correct) > len(explained):
            hint, explained = text, [name for name in wrong if name in agree]
        if len(explained) == len(wrong):
            break
    return hint, explained


def same(a, b):
    """Equal shapes, and equal numbers up to rounding."""
    alike = getattr(b, "shape", None) == a.shape
    return alike and bool(abs(a - b).max() <= TOLERANCE * min(abs(a).max(), abs(b).max()))


# ---------------------------------------------------------------- slips


def whole(given, right, wrong):
    """Hints and gradients for slips that concern the wrong tensors as a whole."""
    scales = {n: (given[n] * right[n]).sum() / ((right[n] ** 2).sum() or 1) for n in wrong}
    for hint, slip in (
        (LEFT_OUT, lambda n: np.zeros_like(right[n])),
        (OVERWRITTEN, lambda n: right[n] - 1),  # checks.results adds to ones
        (SIGN, lambda n: -right[n]),
        (FACTOR, lambda n: scales[n] * right[n]),
        (TRANSPOSED, lambda n: right[n].T),
    ):
        yield hint, {**right, **{n: slip(n) for n in wrong}}
    for one, other in itertools.combinations(wrong, 2):
        yield ORDER, {**right, one: right[other], other: right[one]}


def tried(run, slips):
    """Pairs of a hint and the gradients with its slip, for the slips that run without an error."""
    for hint, function in slips:
        try:
            result = run(function)
        except Exception:
            continue
        yield hint, result


def listed(function, table):
    """Slips: the function with the edits of each line of a table, "old -> new; old -> new | hint".

    Every `old` is replaced, where it is not assigned to; `...` in it is anything.
    """
    for line in table.strip().splitlines():
        changes, hint = line.rsplit(" | ", 1)
        with contextlib.suppress(ValueError):  # the model may have been changed
            yield hint, edited(function, changes)


def edited(function, changes):
    """The function with edits of its syntax tree. Raises ValueError if one changes nothing."""
    tree, replaced = parsed(function), {}
    for change in changes.split("; "):
        old, new = (ast.parse(text).body[0] for text in change.split(" -> "))
        pattern = re.escape(ast.unparse(old)).replace(re.escape("..."), ".*")
        found = [n for n in ast.walk(tree) if re.fullmatch(pattern, ast.unparse(n))]
        found = [n for n in found if not isinstance(getattr(n, "ctx", None), ast.Store)]
        if not found:
            raise ValueError(f"{function.__name__} has no {ast.unparse(old)}")
        new = new.value if isinstance(old, ast.Expr) else new
        replaced |= {id(n): new for n in found}
    return compiled(function, rebuilt(tree, replaced))


def parsed(function):
    """The syntax tree of a function."""
    return ast.parse(textwrap.dedent(inspect.getsource(function)))


def compiled(function, tree):
    """The function that another one becomes with this syntax tree."""
    namespace = dict(function.__globals__)
    exec(compile(ast.fix_missing_locations(tree), "slip", "exec"), namespace)
    return namespace[function.__name__]


def edits(function):
    """Slips: the function with each small edit, and with each pair of edits of the same kind."""
    tree = parsed(function)
    nodes = list(ast.walk(tree))
    names = {n.id: None for n in nodes if isinstance(n, ast.Name)}
    names = [name for name in names if name not in function.__globals__]
    factors = [n.right for n in nodes if isinstance(n, ast.BinOp) and isinstance(n.op, ast.Mult)]
    found = [(hint, {id(n): new}) for n in nodes for hint, new in replacements(n, names, factors)]
    for kind in (TERM, SIGN, FACTOR, AXIS):
        alike = [changes for hint, changes in found if hint is kind]
        found += [(kind, {**a, **b}) for a, b in itertools.combinations(alike, 2)]
    found.sort(key=lambda slip: slip[0] is OTHER)  # the vaguest hint comes last
    lines = {id(n): line for line in nodes if isinstance(line, ast.stmt) for n in ast.walk(line)}
    for hint, changes in found:
        places = dict.fromkeys(place(lines[changed]) for changed in changes)
        yield hint + "".join(places), compiled(function, rebuilt(tree, changes))


def place(line):
    """The end of a hint: what the edited line of a function computes."""
    match line:
        case ast.Return():
            return " Look at what is returned."
        case ast.Assign([target], value) if not isinstance(value, ast.Name):
            return f" Look at the line that computes {ast.unparse(target).strip('()')}."
    return ""


def rebuilt(node, changes):
    """A copy of a tree in which some nodes, given by their id, are replaced."""
    if isinstance(node, list):
        return [rebuilt(child, changes) for child in node]
    if not isinstance(node, ast.AST):
        return node
    if id(node) in changes:
        return rebuilt(changes[id(node)], changes)
    return type(node)(**{name: rebuilt(child, changes) for name, child in ast.iter_fields(node)})


def times(node, names):
    """Slips: a node multiplied by each of the names."""
    for name in names:
        yield FACTOR, ast.BinOp(node, ast.Mult(), ast.Name(name, ast.Load()))


def replacements(node, names, factors):
    """Hint and new node for every small edit of a node, with the given names and factors."""
    match node:
        case ast.BinOp(left, ast.Add() | ast.Sub() as op, right):
            plus = isinstance(op, ast.Add)
            yield SIGN, ast.BinOp(left, ast.Sub() if plus else ast.Add(), right)
            alone = right if plus else ast.UnaryOp(ast.USub(), right)
            yield from ((TERM, term) for term in (left, alone))
        case ast.BinOp(left, ast.Mult() as op, right):
            hint = GATE if isinstance(right, ast.Compare) else FACTOR
            divided = ast.BinOp(left, ast.Div(), right), ast.BinOp(right, ast.Div(), left)
            yield from ((hint, new) for new in (left, right, *divided))
            yield from times(ast.BinOp(left, op, right), names)
        case ast.BinOp(left, ast.Div(), _):
            yield FACTOR, left
        case ast.BinOp(left, ast.MatMult() as op, right):
            product, ops = ast.BinOp(left, op, right), (ast.Mult(), ast.Div())
            changed = (ast.BinOp(product, op, factor) for factor in factors for op in ops)
            yield from ((FACTOR, new) for new in changed)
        case ast.Call(ast.Attribute(value, "mean" | "sum" as name, ctx), _, keywords):
            other = "sum" if name == "mean" else "mean"
            yield FACTOR, ast.Call(ast.Attribute(value, other, ctx), [], keywords)
            yield from times(ast.Call(ast.Attribute(value, name, ctx), [], keywords), names)
            yield SUM, ast.Subscript(value, ast.Constant(0), ctx)
        case ast.keyword("axis"):
            yield from ((AXIS, ast.keyword("axis", ast.Constant(i))) for i in (0, 1, 2, 3, None))
        case ast.AugAssign(target, _, value):
            yield SIGN, ast.AugAssign(target, ast.Sub(), value)
            yield from ((TERM, new) for new in (ast.Pass(), ast.Assign([target], value)))
        case ast.Call(ast.Name("relu_backward"), [first, _]):
            yield GATE, first
        case ast.Tuple(elts, ctx):
            hint = UNPACKED if isinstance(ctx, ast.Store) else ORDER
            for i, j in itertools.combinations(range(len(elts)), 2):
                swapped = [elts[{i: j, j: i}.get(k, k)] for k in range(len(elts))]
                yield hint, ast.Tuple(swapped, ctx)
        case ast.Compare(ast.Name(), ops, comparators):
            for name in names:
                yield GATE, ast.Compare(ast.Name(name, ast.Load()), ops, comparators)
        case ast.Name(name, ctx) if name in names:
            yield from ((OTHER, ast.Name(other, ctx)) for other in names if other != name)
