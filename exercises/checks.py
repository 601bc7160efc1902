"""The exercises in the order of the student's file, each with its check and its hints.

To add one, see README.md. A check of gradients calls `judge`. Its table of slips has a line for
each known mistake that hints.edits does not make: an edit of the solution, and the hint.
"""

import contextlib
import pickle
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import NamedTuple

import numpy as np

import memt
from autograd import value_and_grad
from memt import rows_of

from . import hints, solutions

# no two sizes are equal: equal sizes hide a transpose
B, N, K, M, T, C, HEADS = 2, 6, 7, 5, 9, 12, 3
CONFIG = memt.Config(symbols=8, width=C, heads=HEADS, hidden=10, layers=1, memory=M)
UPDATE = memt.role_params(memt.param_shapes(CONFIG), CONFIG, 0)["seq"]  # short name -> shape
MASK = np.where(np.arange(N * K).reshape(N, K) % 5 == 1, -np.inf, 0)


class Wrong(Exception):  # noqa: N818
    """An answer is wrong; the text is for the student."""


@contextlib.contextmanager
def case(text):
    """Every error within it says for which case: Wrong in its text, others in `case`."""
    try:
        yield
    except Wrong as wrong:
        raise Wrong(f"{text}: {wrong}") from None
    except Exception as error:
        error.case = text
        raise


class Exercise(NamedTuple):
    check: Callable  # called with what the student wrote
    docstring: str | None = None  # for the starter, if a first sentence does not say enough
    given: Callable | None = None  # its body is given in the starter


EXERCISES: dict[str, Exercise] = {}


def exercise(name, **more):
    """Decorator: the function checks the exercise of this name."""
    return lambda check: EXERCISES.setdefault(name, Exercise(check, **more))


def solution(name):
    """The correct answer to an exercise."""
    return getattr(solutions, name, None) or getattr(memt, name)


# ---------------------------------------------------------------- gradients


def draw(seed, **shapes):
    """name -> random numbers, float64."""
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape) for name, shape in shapes.items()}


def judge(function, solution, forward, inputs, slips="", params=None, nest=dict):
    """Raise Wrong unless a backward function gives the gradients of forward.

    forward(*inputs) -> outputs, cache; function(*gradients of outputs, cache) -> gradients of
    inputs. With params, forward also takes nest(params), and function their gradients so far, to
    which it adds.
    """
    everything, params = {**inputs, **(params or {})}, params or {}

    def outputs(p):
        more = [nest({name: p[name] for name in params})] if params else []
        out, cache = forward(*(p[name] for name in inputs), *more)
        return out if isinstance(out, tuple) else (out,), cache

    def loss(p):
        return sum((out * d).sum() for out, d in zip(outputs(p)[0], douts, strict=True))

    outs, cache = outputs(everything)
    douts = draw(2, **{str(i): out.shape for i, out in enumerate(outs)}).values()
    run = partial(results, (*douts, cache), list(inputs), params, nest)
    given, (_, right) = run(function), value_and_grad(loss)(everything)
    slips = chain(hints.listed(solution, slips), hints.edits(solution))
    if text := hints.explain(given, right, hints.tried(run, slips)):
        raise Wrong(text)


def results(arguments, names, params, nest, function):
    """name -> gradient that a backward function returns or adds, given copies of its arguments.

    Raises Wrong if it changes the cache or, without params, the gradients that it is given.
    """
    copies = pickle.loads(pickle.dumps(arguments))
    kept = copies[-1:] if params else copies
    before = pickle.dumps(kept)
    added = {name: np.ones_like(p) for name, p in params.items()}
    out = function(*copies, nest(added)) if params else function(*copies)
    if pickle.dumps(kept) != before:
        raise Wrong("the function changes an array that it is given and that is needed again.")
    out = [out] if len(names) == 1 else out
    if not isinstance(out, tuple | list) or len(out) != len(names):
        count = f"{len(out)} results" if isinstance(out, tuple | list) else type(out).__name__
        raise Wrong(f"must return {', '.join('d' + name for name in names)}, not {count}.")
    sums = {name: total - 1 for name, total in added.items()}
    return {**dict(zip(names, out, strict=True)), **sums}


def plain_layernorm(dy, cache):
    xhat, rstd, g = cache
    dxhat = dy * g
    mean = dxhat.mean(axis=-1, keepdims=True)
    dx = rstd * (dxhat - mean - xhat * (dxhat * xhat).mean(axis=-1, keepdims=True))
    return dx, rows_of(dy * xhat).sum(axis=0), rows_of(dy).sum(axis=0)


COLUMNS = "factor: C is the number of columns, dy.shape[-1], and the mean divides by C."
LAYERNORM = f"""
dxhat = ... -> dxhat = dy; rstd -> g * rstd | \
factor: the means are over dxhat, not over dy. Or are rstd and g swapped where they are unpacked?
rstd * (...) -> rstd * (dxhat - (mean + xhat * (dxhat * xhat).mean(axis=-1, keepdims=True)) \
* dy.shape[-1] / len(dy)) | {COLUMNS}
rstd * (...) -> rstd * (dxhat - (mean + xhat * (dxhat * xhat).mean(axis=-1, keepdims=True)) \
* dy.shape[-1] / (dy.shape[-1] - 1)) | {COLUMNS}
"""


@exercise("layernorm_backward")
def check_layernorm(function):
    for shape in ((2, 4, 5), (2, 3, 4, 5)):
        inputs = draw(1, x=shape, g=(5,), b=(5,))
        judge(function, plain_layernorm, memt.layernorm_forward, inputs, LAYERNORM)


def plain_softmax(dp, p):
    return p * (dp - (dp * p).sum(axis=-1, keepdims=True))


SOFTMAX = """
p * (dp - ...) -> p * dp - (dp * p).sum(axis=-1, keepdims=True) | factor: p multiplies both terms.
p * (dp - ...) -> dp - p * (dp * p).sum(axis=-1, keepdims=True) | factor: p multiplies both terms.
p * (dp - ...) -> dp - p * dp.sum(axis=-1, keepdims=True) | log: this is for log-softmax.
p * (dp - ...) -> p * (dp - p * (dp * p).sum(axis=-1, keepdims=True)) | factor: p is used twice.
p * (dp - ...) -> p * (dp - p * dp.sum(axis=-1, keepdims=True)) | weights: the sum is over p * dp.
p * (dp - ...) -> p * (1 - p) * dp | diagonal: a score changes every probability of its row.
p * (dp - ...) -> p - dp | loss: p - target is for softmax and cross-entropy together, this is not.
(dp * p).sum(...) -> dp.mean(axis=-1, keepdims=True) | mean: subtract the mean of dp weighted by p.
(dp * p).sum(...) -> dp.sum(axis=-1, keepdims=True) | weights: in the sum, dp is weighted by p.
"""


@exercise("softmax_backward")
def check_softmax(function):
    for shape in ((2, 4, 5), (2, 3, 4, 5)):
        judge(function, plain_softmax, memt.softmax_forward, draw(1, s=shape), SOFTMAX)


HEADS_MIXED = "heads: a reshape alone mixes rows; split_heads and merge_heads also transpose."
ATTENTION = f"""
merge_heads -> lambda x: x.reshape(len(x), x.shape[2], -1) | {HEADS_MIXED}
merge_heads(dq) -> dq.reshape(len(dq), dq.shape[2], -1) | {HEADS_MIXED}
merge_heads(np.concatenate(...)) -> np.hstack((dk, dv)).reshape(len(dk), len(dk[0][0]), -1) | \
{HEADS_MIXED}
split_heads -> lambda x, heads: x.reshape(len(x), heads, x.shape[1], -1) | {HEADS_MIXED}
softmax_backward -> lambda dp, p: dp | softmax: dp becomes ds only in softmax_backward.
softmax_backward -> lambda dp, p: dp * p | softmax: ds is softmax_backward(dp, p), not dp * p.
softmax_backward -> lambda dp, p: p * softmax_backward(dp, p) | \
softmax: softmax_backward already multiplies by p.
linear_backward(dout, c_o) -> (dout @ c_o[1], linear_backward(dout, c_o)[1], 0) | {hints.TRANSPOSED}
np.concatenate(...) -> np.concatenate((dk, 0 * dv), axis=1) | left out: dv has its place beside dk.
softmax_backward -> lambda dp, p: softmax_backward(dp, q @ k.swapaxes(2, 3)) | \
scores: softmax_backward takes the probabilities, not the scores.
softmax_backward -> lambda dp, p: softmax_backward(p, dp) | \
arguments: softmax_backward takes the gradient dp first, then p.
"""


@exercise("attention_backward")
def check_attention(function):
    shapes = {"x": (B, N, C), "context": (B, K, C), "wq": (C, C), "wkv": (C, 2 * C), "wo": (C, C)}
    inputs = draw(1, **shapes)
    for mask, heads in ((None, HEADS), (MASK, 2)):
        forward = partial(memt.attention_forward, heads=heads, mask=mask)
        judge(function, memt.attention_backward, forward, inputs, ATTENTION)


RESIDUAL = "residual: a sum passes its own gradient, the dx of the LN after it, to both terms."
UPDATE_SLIPS = f"""
dx + dmh -> dx + da | {RESIDUAL}
dx + dmh -> dx + da + dff | {RESIDUAL}
dx + dmh -> dx + 2 * dmh | counted twice: add dmh to dx exactly once.
dmh -> da | path: the gradient reaches MH through the first LN only.
dmh -> da + dff | path: the gradient reaches MH through the first LN only.
da + dff -> da + dff + dh | {RESIDUAL}
dx + dmh -> dx + dff | {RESIDUAL}
dx + dmh -> dx + dh | {RESIDUAL}
da + dff -> da + dh | {RESIDUAL}
relu_backward -> lambda dr, r: dr * (dr > 0) | {hints.GATE}
relu_backward -> lambda dr, r: r * (dr > 0) | arguments: relu_backward takes the gradient first.
relu_backward -> lambda dr, r: dr * r | gate: the derivative of ReLU is 0 or 1, not its output.
"""


@exercise("update_backward")
def check_update(function):
    inputs, params = draw(1, x=(B, N, C), context=(B, K, C)), draw(3, **UPDATE)
    forward = partial(memt.update_forward, heads=HEADS, mask=MASK)
    judge(function, memt.update_backward, forward, inputs, UPDATE_SLIPS, params)


MEMBOTTLENECK = """
dmem + dmem_read -> dmem; dx_mem -> dx_mem + dmem_read | \
bypass: the sequence reads the updated memory, not the old one.
dx_mem -> dx_mem + dmem_read | counted twice: the sequence reads only the updated memory.
dx_mem -> dx_mem + dmem | counted twice: dx already contains the residual connection.
dboth[:, M:] -> dboth[:, M:] + dseq | counted twice: dx already contains the residual connection.
dparams["mem"] -> dparams["seq"] | roles: memory's update has the parameters of role mem.
dparams["seq"] -> dparams["mem"] | roles: the sequence's update has the parameters of role seq.
"""


@exercise("membottleneck_backward")
def check_membottleneck(function):
    def nest(p):
        return {role: {n: p[f"{role}.{n}"] for n in UPDATE} for role in ("mem", "seq")}

    inputs = draw(1, mem=(B, M, C), seq=(B, T, C))
    params = draw(3, **{f"{role}.{n}": UPDATE[n] for role in ("mem", "seq") for n in UPDATE})
    for at in (None, np.array([7, 0, 4])):
        forward = partial(memt.membottleneck_forward, heads=HEADS, mask=None, at=at)
        judge(function, memt.membottleneck_backward, forward, inputs, MEMBOTTLENECK, params, nest)


BUILD_MASK = """(M+T, M+T) of dtype: 0 where a target row may attend to a source column, else -inf.

    `window`: a sequence row attends to sequence rows at most `window` positions away (None: to
    all). In variant masked it attends to no sequence row, not even to itself. Attention to and from
    memory rows is never limited. Return None if nothing is limited, as for membottleneck, whose
    wiring needs no mask. In this exercise `mask` is None.
    """


@exercise("build_mask", docstring=BUILD_MASK)
def check_mask(function):
    unlimited = [(variant, None) for variant in ("memctrl", "masked", "membottleneck")]
    limited = [("transformer", 2), ("memtransformer", 0), ("memtransformer", 2), ("memctrl", 1)]
    more = [("transformer", None), ("memtransformer", None)]
    for variant, window in [*limited, *unlimited, *more]:
        memory = 0 if variant == "transformer" else M
        config = replace(CONFIG, variant=variant, memory=memory, window=window)
        for length, dtype in ((T, np.float64), (1, np.float32)):
            with case(f"variant {variant}, M = {memory}, window {window}"):
                right = memt.build_mask(config, length, dtype)
                compare_masks(function(config, length, dtype, None), right)


def compare_masks(mask, right):
    """Raise Wrong unless the masks are equal, or both None."""
    found, must_be = hints.found(mask), hints.found(right)
    if found != must_be:
        raise Wrong(f"must be {must_be}, not {found}.")
    if right is not None and not np.isin(mask, (0, -np.inf)).all():
        raise Wrong("must contain only 0 and -inf.")
    for row, column in np.argwhere(mask != right):
        cell = f"row {row}, column {column} is {mask[row, column]}"
        raise Wrong(f"{cell}: may that target attend to that source?")


REPEATED = "missing sum: of equal ids, only one is added. `=` overwrites, and so does "
REPEATED += "`dembed[ids] += d` if equal ids are in one array; np.add.at adds all."
EMPTY = "one_hot = ... -> dembed = np.zeros((vocabulary, dseq.shape[-1]))"
EMBEDDING = f"""
{EMPTY}; dembed = ... -> dembed[tokens] += dseq | {REPEATED}
{EMPTY}; dembed = ... -> for ids, d in zip(tokens, dseq): dembed[ids] += d | {REPEATED}
{EMPTY}; dembed = ... -> for t in range(tokens.shape[1]): dembed[tokens[:, t]] += dseq[:, t] | \
{REPEATED}
{EMPTY}; dembed = ... -> np.add.at(dembed, tokens[0], dseq[0]) | \
missing sum: over all examples of the batch.
tokens.reshape(-1, 1) -> tokens.T.reshape(-1, 1) | order: flatten tokens and dseq in the same order.
one_hot.astype(dseq.dtype) -> one_hot / np.maximum(one_hot.sum(axis=0), 1) | \
sum: a token that occurs often gets the sum of its gradients, not their mean.
np.arange(vocabulary) -> np.append(np.arange(vocabulary - 1), -1) | \
blank: the last row of embed, that of the blank, has a gradient too.
rows_of(dseq) -> rows_of(dseq - sinusoids(*dseq.shape[1:], dseq.dtype)) | \
constant: a term that is added and not trained leaves dseq as it is.
"""


@exercise("embedding_backward")
def check_embedding(function):
    # ids are repeated within rows and within a column; the blank, 6, only occurs in the second
    both = np.array([[[0, 3, 3, 1, 5], [3, 5, 3, 5, 2]], [[0, 3, 6, 1, 6], [3, 6, 6, 5, 2]]])
    arrays = draw(1, embed=(7, C), memory=(4, C))
    for tokens in both:
        forward = partial(memt.embedding_forward, tokens)
        judge(function, memt.embedding_backward, forward, arrays, EMBEDDING)
    dmem, dseq = (np.ones((2, rows, C), np.float32) for rows in (4, 5))
    for name, d in zip(arrays, function(dmem, dseq, (both[0], 7)), strict=True):
        if d.dtype != np.float32:
            raise Wrong(f"d{name} must have the type of dseq, here float32, not {d.dtype}.")


def tied_given(dy, cache):
    x, w, r = cache
    dw = rows_of(dy).T @ rows_of(r)
    dr = dy @ w
    du = dr * (dr > 0)
    dw = rows_of(x).T @ rows_of(du)
    dx = dy + du @ w.T
    return dx, dw


UNCHANGED = "unchanged"
TIED = f"""
r > 0 -> dr > 0; dw += ... -> dw = rows_of(x).T @ rows_of(du) | {UNCHANGED}
r > 0 -> (r > 0) * (dr > 0) | {hints.GATE}
r > 0 -> r | gate: the derivative of ReLU is 0 or 1, not its output.
"""


@exercise("tied_backward", given=tied_given)
def check_tied(function):
    try:
        for shape in ((2, 4, 5), (4, 5)):
            inputs = draw(1, x=shape, w=(5, 3))
            judge(function, solutions.tied_backward, solutions.tied_forward, inputs, TIED)
    except Wrong as wrong:
        if str(wrong).startswith(UNCHANGED):
            raise NotImplementedError from None
        raise


# ---------------------------------------------------------------- predictions


def prediction(name, *nudges, among=None, note=""):
    """An exercise whose answers are a dict, with a nudge for each wrong answer, in its order.

    The elements of lists must be `among` these. The note is a last line below wrong answers.
    """
    right = solution(name)
    nudges = dict(zip(right, nudges, strict=True))
    EXERCISES[name] = Exercise(partial(compare_answers, right, nudges, among, note))


def compare_answers(right, nudges, among, note, given):
    """Raise Wrong, naming all wrong answers; NotImplementedError if no question is answered."""
    if not isinstance(given, dict) or given.keys() != right.keys():
        raise Wrong(f"must be a dict with the keys {', '.join(map(repr, right))}.")
    if all(answer is None for answer in given.values()):
        raise NotImplementedError
    lines = []
    for question, answer in right.items():
        found, kind = plain(given[question]), type(answer)
        if type(found) is not kind:
            lines.append(f"{question!r}: {given[question]!r} must be of type {kind.__name__}")
        elif found != plain(answer):
            strange = [x for x in found if x not in among] if among else []
            nudge = f"{strange[0]!r} is none of {[*among]}." if strange else nudges[question]
            lines += f"{question!r}: {given[question]!r} is not right.", nudge
    if lines:
        raise Wrong("\n".join([*lines, note]).rstrip())


def plain(answer):
    """A sorted list for a list, tuple, range or array, an int for np.int64, and so on."""
    answer = answer.tolist() if isinstance(answer, np.ndarray | np.generic) else answer
    several = isinstance(answer, list | tuple | range)
    return sorted(map(plain, answer), key=repr) if several else answer


prediction(
    "REACH",
    "A row attends to the rows at most 2 positions away, and itself. Which of them change?",
    "Memory is read as it was before this layer. What else is a row's new value computed from?",
    "The first layer writes the symbol into memory. Who reads memory in the second?",
    "Memory is updated first. Who reads the updated memory, in the same layer?",
    "Memory is read as it was before this layer. With window 0, a row attends only to itself.",
    among=range(9),
    note="Positions count from 0.",
)
SAME = (
    "Equal rows have equal queries and equal residuals. Can they part? Can other rows become equal?"
)
prediction(
    "EQUAL_ROWS",
    SAME,
    SAME,
    "Can two equal rows differ in their effect on the loss? Can the two others have the same?",
    "A step subtracts the gradient. What have equal rows, and what have the others?",
    "The changed row is no longer equal to the other two. Count again how many groups there are.",
)
GROUPS = [f"layers.{i}.{role}" for i in (0, 1) for role in ("all", "mem", "seq")] + ["controller"]
prediction(
    "ZERO_GRADIENTS",
    "One update, layers.N.all, serves memory and sequence. Is it used for the sequence?",
    "Whose output is read by nobody?",
    "The shared controller also updates memory in layer 0: who reads that? The output reads seq.",
    "The sequence reads the memory that the same layer has updated. The sequence of layer 0 goes "
    "on to layer 1: the residual connection carries it, and memory attends to it.",
    among=GROUPS,
    note="Layers count from 0.",
)
prediction(
    "READING",
    "WRITE: memory rows, sequence columns, all but the first 3. Add up its part of each row.",
    "PROCESS: memory rows, memory columns, the first 3. Add up its part of each row.",
    "A horizontal strip attends about equally to every column.",
    "A vertical stripe: a column of READ with much weight in every row that reads.",
    "Position 0 is row 3. For each source, add up weight to memory row times that row's WRITE.",
    note="Rows and positions count from 0.",
)


# ---------------------------------------------------------------- a task and a lesion


@exercise("sort_task")
def check_sort(function):
    for shape in ((20, 6), (3, 1)):
        x = np.random.default_rng(1).integers(30, size=shape)
        answers, right = function(given := x.copy()), np.sort(x, axis=1)
        if not np.array_equal(given, x):
            raise Wrong("the input was changed: a task must leave it unchanged.")
        plain_array = type(answers) is np.ndarray and answers.shape == shape
        if not plain_array or answers.dtype.kind not in "iu":
            found = hints.found(answers)
            raise Wrong(f"must return an array of integers of shape {shape}, not {found}.")
        for row, answer, sorted_row in zip(x, answers, right, strict=True):
            if not np.array_equal(answer, sorted_row):
                raise Wrong(f"for {row}, your task gives {answer}: must be {sorted_row}.")


@exercise("without")
def check_without(function):
    more = {"window": 1, "outputs": 3, "share_controller": True, "positions": False}
    config = replace(CONFIG, layers=2, variant="memctrl", **more)
    for gone in ([], [1, 3], [3, 1], [0]):
        with case(f"without tokens {gone}"):
            params = draw(3, **memt.param_shapes(config))
            params = {name: p.astype(np.float32) for name, p in params.items()}
            given = {name: p.copy() for name, p in params.items()}
            out = function(given, replace(config), [*gone])
            if any(not np.array_equal(given.get(name), p) for name, p in params.items()):
                raise Wrong("the given params were changed: they must stay unchanged.")
            compare_models(out, *solutions.without(params, config, gone))


def compare_models(out, right, small):
    """Raise Wrong unless `out` is the pair of these params and this config."""
    kinds = [type(x).__name__ for x in out] if isinstance(out, tuple) else [hints.found(out)]
    if kinds != ["dict", "Config"]:  # memt's Config or that of the student's file
        raise Wrong(f"must return params, config, not {', '.join(kinds)}.")
    hurt, smaller = out
    rows, expected = getattr(hurt.get("memory"), "shape", None), right["memory"].shape
    if rows != expected:
        raise Wrong(f"memory has shape {rows}: must be {expected}.")
    if hurt["memory"].dtype != right["memory"].dtype:
        raise Wrong(f"memory has dtype {hurt['memory'].dtype}: must be that of the given one.")
    types = {n: getattr(p, "dtype", None) for n, p in hurt.items()}
    wrong = [n for n in {**right, **hurt} if not np.array_equal(hurt.get(n), right.get(n))]
    wrong = wrong or [n for n in right if types[n] != right[n].dtype]
    if wrong:
        many = f" and {len(wrong) - 2} others" * (len(wrong) > 2)
        raise Wrong(f"params {wrong[:2]}{many} are wrong or missing: rows, or their order?")
    for field, value in vars(small).items():
        if (found := getattr(smaller, field)) != value:
            raise Wrong(f"config.{field} is {found!r}: must be {value!r}.")
