"""The exercises: solutions pass, all else is rejected, and typical slips get a hint that fits."""

import ast
import inspect
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import autograd
import memt
import train_toy
from exercises import checks, grade, hints, solutions
from exercises.checks import EXERCISES, Wrong, solution
from exercises.sheet import LAST_STEPS, sheet
from exercises.starter import starter

from .support import SIZES, random_case

BLANK, FULL = starter(), starter(())
NUMBER = {name: number for number, name in enumerate(EXERCISES, 1)}
GRADIENTS = [name for name in EXERCISES if name.endswith("_backward")]


def said(name, answer):
    """The message about an answer to an exercise; empty if it is correct."""
    try:
        EXERCISES[name].check(answer)
    except Wrong as wrong:
        return str(wrong)
    return ""


@pytest.mark.parametrize("name", EXERCISES)
def test_a_solution_passes_alone_and_what_is_left_open_does_not(name):
    state, text = grade.verdict(name, BLANK, "mine.py")
    assert (state, text) == ("not written yet", "")
    others = starter([other for other in EXERCISES if other != name])
    assert grade.verdict(name, FULL, "mine.py") == ("solved", "")
    assert grade.verdict(name, others, "mine.py") == ("solved", "")  # needs no other exercise
    assert grade.verdict(name, starter([name]), "mine.py") == (state, text)


STUBS = ["raise NotImplementedError", 'raise NotImplementedError("")', "pass", "return ()", "1 / 0",
         "return args[0]", "raise SystemExit", "raise KeyboardInterrupt"]  # fmt: skip


@pytest.mark.parametrize("name", EXERCISES)
def test_stubs_and_foreign_files_are_rejected(name):
    files = [f"def {name}(*args):\n    {stub}\n" for stub in STUBS]
    files += [f"{name} = {value}\n" for value in ("{}", "None", "3", "'text'", "{'a': 1}", "[]")]
    files += ["", "x = 1", inspect.getsource(autograd), inspect.getsource(sys.modules[__name__])]
    for source in files:
        assert grade.verdict(name, source, "mine.py")[0] != "solved", source


REPLACED = [  # exercise, a wrong answer, what would make it right
    ("build_mask", "*_: None", "memt.build_mask = build_mask"),
    ("softmax_backward", "dp, p: dp", "memt.softmax_forward = lambda s: (s, s)"),
    ("without", "params, config, gone: (params, config)", "solutions.without = without"),
    ("tied_backward", "dy, c: (dy, 0 * c)", "solutions.tied_forward = lambda x, w: (x, w)"),
]


@pytest.mark.parametrize("name, wrong, replace", REPLACED)
@pytest.mark.parametrize("more", ["", "\n1 / 0"])
def test_a_file_does_not_change_what_it_is_compared_with(name, wrong, replace, more):
    source = f"import memt\nfrom exercises import solutions\n{name} = lambda {wrong}\n{replace}"
    assert grade.verdict(name, source + more, "mine.py")[0] == ("error" if more else "wrong")
    assert grade.verdict(name, FULL, "mine.py") == ("solved", "")


# ---------------------------------------------------------------- hints

BASES = {"layernorm_backward": checks.plain_layernorm, "softmax_backward": checks.plain_softmax}
# exercise | what of its solution is replaced -> by what | the start of the hint
# `...` is anything; "returned a, b -> b, a" changes the results, whatever the solution is like
SLIPS = """
softmax | p * (dp - ...) -> p * dp | missing term
softmax | p * (dp - ...) -> p * ((dp * p).sum(axis=-1, keepdims=True) - dp) | sign
softmax | p * (dp - ...) -> p * dp - np.einsum("...k,...k->...", dp, p)[..., None] | factor
softmax | p * (dp - ...) -> p * dp - p**2 * dp | diagonal
softmax | p * (dp - ...) -> -dp + p | loss
softmax | p * (dp - ...) -> p * dp - p * dp.sum(axis=-1, keepdims=True) | weights
softmax | (dp * p).sum(...) -> dp.mean(axis=-1, keepdims=True) | mean
softmax | (dp * p).sum(...) -> (dp * p).sum(axis=2, keepdims=True) | axis
softmax | (dp * p).sum(...) -> (dp * p).sum(axis=(0, 2), keepdims=True) | This is not one
layernorm | rstd * (...) -> rstd * dxhat | missing term
layernorm | (dxhat * xhat).mean(...) -> (dxhat * xhat).sum(axis=-1, keepdims=True) | factor
layernorm | dxhat.mean(...) -> dxhat.mean(0); (dxhat * xhat).mean(...) -> (dxhat * xhat).mean(0) | \
axis
layernorm | rows_of(dy * xhat).sum(...) -> rows_of(dy).sum(axis=0) | factor
layernorm | rows_of(dy).sum(axis=0) -> dy.sum(axis=(0, 1)) | missing sum
layernorm | dxhat.mean(...) -> dxhat.mean(axis=-1, keepdims=True) * xhat | factor
layernorm | dxhat.mean(...) -> dy.mean(axis=-1, keepdims=True) | wrong array
layernorm | rows_of(dy * xhat).sum(...) -> dy * xhat | missing sum
layernorm | returned dx, dg, db -> dx[0], dg, db | shape
layernorm | returned dx, dg, db -> dx, db, dg | order
layernorm | xhat, rstd, g = cache -> g, rstd, xhat = cache | order: two values
layernorm | dxhat = dy * g -> dxhat = dy; rstd * (...) -> \
g * rstd * (dy - mean - xhat * (dy * xhat).mean(axis=-1, keepdims=True)) | factor: the means
attention | ds.swapaxes(2, 3) @ q -> ds.swapaxes(2, 3) @ q * D**-0.5 | factor
attention | ds.swapaxes(2, 3) @ q -> ds.swapaxes(2, 3) @ (q * D**0.5) | factor
attention | D**-0.5 -> 4**-0.5 | factor
attention | np.concatenate(...) -> np.concatenate((dv, dk), axis=1) | order
attention | np.concatenate(...) -> np.concatenate((dk, dv), axis=3) | axis
attention | softmax_backward(...) -> do @ v.swapaxes(2, 3) | softmax: dp becomes
attention | softmax_backward(...) -> p * (do @ v.swapaxes(2, 3)) | softmax: ds is
attention | returned dx, dcontext, dwq, dwkv, dwo -> dx, dcontext, dwq.T, dwkv, dwo | transposed
attention | split_heads(do, heads) -> do.reshape(len(do), heads, -1, D) | heads
attention | dv = ... -> dv = softmax_forward(q @ k.swapaxes(2, 3))[0].swapaxes(2, 3) @ do | This is
tied | dr * (r > 0) -> dr * (dr > 0) | gate
update | dx + ... -> dx | missing term
update | dx + ... -> dx; da + dff -> da | missing term
update | relu_backward(dr, ...) -> dr | gate
update | relu_backward(dr, ...) -> dr * np.maximum(0, dr / np.where(dr, dr, 1)) | gate
update | relu_backward(dr, c_relu) -> c_relu * dr | gate: the derivative of ReLU is 0 or 1, not
update | da + dff -> dh + da | residual
update | dx + dmh -> layernorm_backward(da + dff, c_ln1)[0] + dx + 0 * dmh |
update | attention_backward(..., c_mh) -> attention_backward(dh, c_mh) | wrong array
update | db2 -> dln2_b; dln2_b -> db2 | order
update | add_into -> dict.update | left out
update | add_into -> lambda d, **new: [np.copyto(d[name], new[name]) for name in new] | overwritten
update | c_mh, c_ln1, c_w1, c_relu, c_w2, c_ln2 = cache -> \
c_mh, c_ln2, c_w1, c_relu, c_w2, c_ln1 = cache | order: two values
embedding | dmem.sum(axis=0) -> dmem | missing sum
embedding | dmem.sum(axis=0) -> dmem.mean(axis=0) | factor
embedding | dmem.sum(axis=0) -> dmem.sum() | dmemory must be an array of float64, not a single
embedding | one_hot.astype(...) -> one_hot.astype(float).T @ rows_of(dseq) | dembed must have
embedding | dembed = ... -> (dembed := np.zeros((7, 12)))[tokens] += dseq | missing sum: of equal
embedding | np.arange(vocabulary) -> np.where(np.arange(7) < 6, np.arange(7), -1) | blank
embedding | dembed = ... -> dembed = one_hot.T @ rows_of(dseq) / np.c_[one_hot.sum(0).clip(1)] | sum
embedding | np.arange(vocabulary) -> np.arange(tokens.max() + 1) | shape
embedding | rows_of(dseq) -> rows_of(dseq) - np.tile(sinusoids(5, 12, "f8"), (2, 1)) | constant
embedding | one_hot = ... -> dembed = np.zeros((7, 12)); dembed = ... -> \
for ids, d in zip(tokens, dseq): dembed[ids] += d | missing sum: of equal
embedding | one_hot = ... -> dembed = np.zeros((7, 12)); dembed = ... -> \
for t in range(5): dembed[tokens[:, t]] += dseq[:, t] | missing sum: of equal
membottleneck | dmem + dmem_read -> dmem | missing term
membottleneck | dboth[:, rows] += dx_seq -> dboth[:, M : M + len(dx_seq[0])] += dx_seq | This is not
membottleneck | dboth[:, rows] += dx_seq -> pass | missing term
build_mask | return None -> return np.zeros((config.memory + T,) * 2, dtype) | \
variant memctrl, M = 5, window None: must be None, not an array
build_mask | config.variant == "membottleneck" -> False | variant membottleneck, M = 5, window None
build_mask | config.variant == "membottleneck" -> config.variant in ("memctrl", "membottleneck") | \
variant memctrl, M = 5, window 1: must be an array of float64 of shape (14, 14), not None.
build_mask | radius is None or config.variant == "membottleneck" -> \
radius is None and config.variant != "transformer" or config.variant == "membottleneck" | \
variant transformer, M = 0, window None: must be None
build_mask | radius is None or config.variant == "membottleneck" -> \
radius is None and config.variant != "memtransformer" or config.variant == "membottleneck" | \
variant memtransformer, M = 5, window None: must be None
build_mask | returned mask -> None if mask is None else mask.squeeze() | \
variant transformer, M = 0, window 2: must be an array of float32 of shape (1, 1), not
build_mask | returned mask -> None if mask is None else np.ma.array(mask) | \
variant transformer, M = 0, window 2: must be an array of float64 of shape (9, 9), not MaskedArray
build_mask | -1 -> 0 | variant masked, M = 5, window None: row 5, column 5 is 0.0: may that target
build_mask | np.abs(...) -> np.abs(position[:, None] - position) + 1 | variant transformer, M = 0
build_mask | -np.inf -> -1e9 | variant transformer, M = 0, window 2: must contain only 0 and -inf
build_mask | returned mask -> mask.astype(float) | variant transformer, M = 0, window 2: must be an
sort_task | 1 -> 0 | for [
sort_task | np.sort(...) -> x.sort(axis=1) or x | the input was changed
sort_task | returned x -> x.astype(float) | must return an array of integers of shape (20, 6), not a
sort_task | np.sort(...) -> np.sort(x.astype("U9"), axis=1).astype(int) | for [
sort_task | returned x -> np.ma.array(x) | must return an array of integers of shape (20, 6), not
sort_task | returned x -> x.squeeze() | must return an array of integers of shape (3, 1), not an
sort_task | returned x -> x.tolist() | must return an array of integers of shape (20, 6), not list.
without | params["memory"][kept] -> np.delete(params["memory"], gone) | without tokens []: memory
without | params["memory"][kept] -> params["memory"][kept] * np.ones(1) | without tokens []: memory
without | kept = ... -> kept = [m for m in range(5) if m not in gone or gone != sorted(gone)] | \
without tokens [3, 1]: memory has shape (5, 12): must be (3, 12).
without | replace(...) -> type(config)(8, 12, 3, 10, 2, len(kept), "memctrl") | without tokens []
without | returned new, small -> {"memory": new["memory"]}, small | \
without tokens []: params ['embed', 'controller.wq'] and 34 others
without | returned new, small -> {**new, "embed": new["embed"].astype(float)}, small | \
without tokens []: params ['embed'] are wrong
without | len(kept) -> 5 | without tokens [1, 3]: config.memory is 5: must be 3.
without | returned new, small -> small, new | without tokens []: must return params, config, not
without | returned new, small -> new | without tokens []: must return params, config, not dict.
without | len(kept) -> len(kept) + 0 * len(str(gone.clear())) |
without | returned new, small -> {"memory": new["memory"]}, small | without tokens []: params ['emb
without | returned new, small -> {**new, "x": new["out_b"]}, small | without tokens []: params ['x']
without | returned new, small -> {**new, "memory": new["memory"][::-1]}, small | without tokens []
without | {**...} -> params.update(memory=params["memory"][kept]) or params | without tokens [1, 3]
"""


def changed(name, change):
    """A solution with other results."""

    def function(*args):
        out = solution(name)(*args)
        return change(*out) if isinstance(out, tuple) else change(out)

    return function


def edited(name, edits):
    """A solution with edits, "old -> new; old -> new", of its syntax tree."""
    return hints.edited(BASES.get(name) or solution(name), edits)


# the slips that the exercises list themselves must fit their solutions
TABLES = {"lay": checks.LAYERNORM, "soft": checks.SOFTMAX, "att": checks.ATTENTION,
          "upd": checks.UPDATE_SLIPS, "memb": checks.MEMBOTTLENECK, "emb": checks.EMBEDDING,
          "tied": checks.TIED}  # fmt: skip
LISTED = [
    f"{start} | {line}" for start, table in TABLES.items() for line in table.split("\n")[1:-1]
]
LISTED.remove(f"tied | {checks.TIED.splitlines()[1]}")  # not a wrong answer but none


@pytest.mark.parametrize("slip", SLIPS.strip().split("\n") + LISTED)
def test_slips_get_hints_that_fit(slip):
    start, edits, hint = (part.strip() for part in slip.split("|"))
    (name,) = grade.matching(start)
    if edits.startswith("returned "):
        results, others = edits.removeprefix("returned ").split(" -> ")
        answer = changed(name, eval(f"lambda {results}: ({others})"))
    else:
        answer = edited(name, edits)
    with np.errstate(invalid="ignore"):
        text = said(name, answer)
    assert text.startswith(hint) and bool(text) == bool(hint), text


def test_a_hint_says_where_and_is_none_that_would_spoil_what_is_right():
    slip = edited("attention_backward", "ds.swapaxes(2, 3) @ q -> ds.swapaxes(2, 3) @ q * D**-0.5")
    assert "twice. Look at the line that computes dk.\n" in said("attention_backward", slip)
    slip = edited("update_backward", "dx + dmh -> dx")
    assert "(`=` instead of `+=`). Look at what is returned.\n" in said("update_backward", slip)
    given = dict(zip("abc", np.eye(3), strict=True))
    spoils, fits = ("spoils c", {**given, "c": given["a"]}), ("fits", given)
    for candidates, hint in (([spoils], hints.UNKNOWN), ([spoils, fits], "fits")):
        assert hints.best_match(given, ["a", "b"], candidates)[0] == hint


@pytest.mark.parametrize("name, right, wrong", [
    ("tied_backward", "rows_of(dy).T @ rows_of(r)", "np.einsum('btc,btf->cf', dy, r)"),
    ("embedding_backward", "astype(dseq.dtype)", "astype((dseq + dmem).dtype)"),
])  # fmt: skip
def test_what_works_for_some_shapes_only_is_wrong(name, right, wrong):
    assert right in FULL
    assert grade.verdict(name, FULL.replace(right, wrong), "mine.py")[0] == "wrong"


def test_two_slips_are_planted_and_each_gets_its_hint():
    fixes = {"gate": ("dw = rows_of(x)", "dw += rows_of(x)"), "missing term": ("dr > 0", "r > 0")}
    for hint, fix in fixes.items():
        state, text = grade.verdict("tied_backward", BLANK.replace(*fix), "mine.py")
        assert state == "wrong" and text.startswith(hint)


def test_a_table_and_what_is_said_of_unknown_slips():
    dx_wrong = np.arange(40).reshape(2, 4, 5) == 33
    unknown = changed("layernorm_backward", lambda dx, dg, db: (dx - 40 * dx_wrong, dg, db))
    text = said("layernorm_backward", unknown)
    assert text.startswith("This is not one") and text.endswith("\ncorrect: dg, db")
    row = r"^dx           \(2, 4, 5\) .* \[1, 2, 3\]: -?\d\d\.\d+, -?\d\.\d+$"
    assert re.search(row, text, re.MULTILINE)
    two = changed("layernorm_backward", lambda dx, dg, db: (np.cos(dx), 3 * dg, db))
    assert re.match(r"factor.*\nThis explains dg\.\n\n", said("layernorm_backward", two))


@pytest.mark.parametrize("name", GRADIENTS)
def test_results_must_be_float64_arrays(name):
    def converted(convert):
        def change(*out):
            return tuple(map(convert, out)) if out[1:] else convert(*out)

        return said(name, changed(name, change))

    for convert in (np.complex128, np.float32, lambda a: a.astype(object), list, np.ma.array):
        assert "must be an array of float64" in converted(convert)
    assert not converted(lambda a: a * (1 + 1e-12))
    assert "error" in converted(lambda a: a * (1 + 1e-7))


def test_what_is_given_stays_as_it_is():
    def spoiled(name, spoil):
        answer = solution(name)
        return "needed again" in said(name, lambda *given: (answer(*given), spoil(*given))[0])

    def fill(*given):
        for array in given:
            if isinstance(array, np.ndarray):
                array.fill(0)

    for name in GRADIENTS:  # those that add to dparams get gradients that are not needed again
        adds = "dparams" in inspect.signature(solution(name)).parameters
        assert spoiled(name, fill) != adds
    assert spoiled("softmax_backward", lambda dp, p: p.fill(0))
    assert spoiled("update_backward", lambda dh, cache, _: cache.relu.fill(0))


def test_grading_follows_a_changed_model(monkeypatch):
    forward, backward = memt.update_forward, memt.update_backward

    def doubled(*args, **more):
        h, cache = forward(*args, **more)
        return 2 * h, cache

    monkeypatch.setattr(memt, "update_forward", doubled)
    assert said("update_backward", backward)
    assert not said("update_backward", lambda dh, *more: backward(2 * dh, *more))


# ---------------------------------------------------------------- predictions

REACH, READING = solutions.REACH, solutions.READING
PREDICTIONS = [  # exercise, answer, what is said
    ("REACH", {**REACH, "masked, 1 layer": [], "masked, 2 layers": [4]},
     "'masked, 1 layer': [] is not right.\nMemory is read as it was before this layer. What else "
     "is a row's new value computed from?\n'masked, 2 layers': [4] is not right.\nThe first layer"),
    ("REACH", {**REACH, "masked, 1 layer": 4}, "'masked, 1 layer': 4 must be of type list"),
    ("REACH", {**REACH, "masked, 1 layer": np.array([4]), "masked, 2 layers": range(9)}, ""),
    ("REACH", {question: tuple(answer) for question, answer in REACH.items()}, ""),
    ("EQUAL_ROWS", {question: np.int64(n) for question, n in solutions.EQUAL_ROWS.items()}, ""),
    ("REACH", {**REACH, "masked, 1 layer": [4, 4]}, "[4, 4] is not right"),
    ("REACH", {question: sorted(answer)[::-1] for question, answer in REACH.items()}, ""),
    ("READING", dict(zip("abcde", READING.values(), strict=True)),
     "must be a dict with the keys 'memory row with"),
    ("READING", dict(reversed(READING.items())), ""),
    ("READING", {q: bool(a) if a == 1 else a for q, a in READING.items()}, "must be of type int"),
    ("READING", {q: str(a) for q, a in READING.items()}, "'1' must be of type int"),
    ("ZERO_GRADIENTS", {**solutions.ZERO_GRADIENTS, "memctrl": ["layers.2.mem"]},
     "'memctrl': ['layers.2.mem'] is not right.\n'layers.2.mem' is none of ['layers.0.all', '"),
    ("REACH", {**REACH, "masked, 1 layer": [9]}, "1 layer': [9] is not right.\n9 is none of [0, 1"),
]  # fmt: skip


@pytest.mark.parametrize("name, answer, text", PREDICTIONS)
def test_wrong_predictions_are_named(name, answer, text):
    answered = said(name, answer)
    assert text in answered and bool(answered) == bool(text), answered


@pytest.mark.parametrize("name", [n for n in EXERCISES if isinstance(solution(n), dict)])
def test_each_wrong_prediction_gets_its_own_nudge(name):
    right = solution(name)
    nudges = []
    for question, answer in right.items():
        wrong = answer * 2 or ["controller"] if isinstance(answer, list) else answer + 99
        line, nudge, *note = said(name, {**right, question: wrong}).split("\n")
        assert line == f"{question!r}: {wrong!r} is not right."
        assert bool(note) == (name != "EQUAL_ROWS") and note[-1:] != [""]
        nudges.append(nudge)
    assert len(set(nudges)) >= len(nudges) - 1  # two questions have the same answer for one reason


def make_config(variant, **more):
    memory = 0 if variant == "transformer" else 5
    return memt.Config(**SIZES, variant=variant, memory=memory, **more)


@pytest.mark.parametrize("question", solutions.REACH)
def test_reach_is_what_a_model_does(question):
    layers, *window = map(int, re.findall(r"\d", question))
    config = make_config(question.split(",")[0], layers=layers, window=(window or [None])[0])
    case = random_case(config, np.random.default_rng(51))
    other = case.tokens.copy()
    other[:, 4] = (other[:, 4] + 1) % config.symbols
    a, b = (memt.model_forward(case.params, t, config)[0] for t in (case.tokens, other))
    assert solutions.REACH[question] == [j for j in range(9) if (a[:, j] != b[:, j]).any()]


def test_equal_rows_are_what_a_model_has():
    def different(rows):
        return len(np.unique(np.round(rows, 9), axis=0))

    found = []
    for variant in ("memtransformer", "membottleneck"):
        case = random_case(make_config(variant, layers=2), np.random.default_rng(50))
        memory = case.params["memory"]
        memory[:3] = memory[0]
        _, cache = memt.model_forward(case.params, case.tokens, case.config)
        found.append(different(memt.memory_states(cache)[-1][0]))
    grad = memt.loss_and_grads(*case)[1]["memory"]
    found += [different(grad), different(memory - 0.1 * grad)]
    memory[0, 0] += 0.1
    found.append(different(memt.loss_and_grads(*case)[1]["memory"]))
    assert list(solutions.EQUAL_ROWS.values()) == found


@pytest.mark.parametrize("question", solutions.ZERO_GRADIENTS)
def test_zero_gradients_are_what_a_model_has(question):
    config = make_config(question.split()[0], layers=2, share_controller="shared" in question)
    _, grads = memt.loss_and_grads(*random_case(config, np.random.default_rng(52)))
    groups = {name.rpartition(".")[0] for name in grads}
    alive = {name.rpartition(".")[0] for name, g in grads.items() if g.any()}
    assert solutions.ZERO_GRADIENTS[question] == sorted(groups - alive)


def test_the_readings_of_the_map():
    process, write, read = (solutions.MAP[i] for i in (np.s_[:3, :3], np.s_[:3, 3:], np.s_[3:, :3]))
    uniform, through = solutions.MAP[:3].min(axis=1), (read @ write)[0]
    found = [write.sum(axis=1), process.sum(axis=1), uniform, read.min(axis=0), through]
    assert list(READING.values()) == [np.argmax(x) for x in found]
    assert np.allclose(solutions.MAP.sum(axis=1), 1)


# ---------------------------------------------------------------- files, processes, the command

CANNOT_RUN = [
    ("import numpy\nx = (", 'File "mine.py", line 2'),
    ("x = 1\n1 / 0\n", 'File "mine.py", line 2, in <module>\nZeroDivisionError'),
    ("raise SystemExit(0)", "SystemExit"),
    ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    ("x = 1".encode("utf-16"), "SyntaxError"),
    ("def f(): raise NotImplementedError('unwritten')\nf()", "line 2, in <module>\n  File"),
    ("def f(): f()\nf()", "exceeded\nWhich function calls itself without end?"),
    ("class Odd(BaseException):\n    def __str__(self): 1 / 0\nraise Odd", "Odd"),
    ("x = 1", "the file does not define softmax_backward"),
    ("x = 'é'".encode("latin-1"), "SyntaxError"),
    ("def softmax_backward(dp, p):\n    a, b = 1, 2, 3", "How many values are on the right"),
    ("def softmax_backward(dp, p):\n    return dp @ p", "shape: check"),
    ("def softmax_backward(dp, p):\n    return dp + p[:, :3]", "shape: check"),
    ("def softmax_backward(dp, p):\n    return p, dp", "ds must be an array of float64, not tuple"),
]


@pytest.mark.parametrize("source, text", CANNOT_RUN)
def test_what_cannot_run_gets_one_message(source, text):
    state, said = grade.verdict("softmax_backward", source, "mine.py")
    states = {"SyntaxError": "syntax", "SystemExit": "exit"}
    runs = "def softmax_backward" in str(source)
    (expected,) = [states[e] for e in states if e in said] or ["wrong" if runs else "error"]
    expected = "missing" if source == "x = 1" else expected
    assert state == expected and text in said


def test_an_error_says_for_which_case_and_lines_are_short():
    source = "def without(params, config, gone):\n    return gone[0]"
    state, text = grade.verdict("without", source, "mine.py")
    assert state == "wrong" and text.endswith(" out of range\nwithout tokens []")
    one_wrong = FULL.replace("b2=db2", "b2=2 * db2")
    for name, source in (("update_backward", one_wrong), ("REACH", "REACH = {}")):
        _, text = grade.verdict(name, source, "mine.py")
        assert text and max(map(len, text.splitlines())) < 100


@pytest.fixture
def mine(tmp_path):
    """The path of a student's file, which does not exist yet."""
    return tmp_path / "mine.py"


LASTING = """
import atexit, threading, time
atexit.register(print, "bye")
threading.Thread(target=time.sleep, args=[100]).start()
"""
PROCESSES = [
    ("while True: pass", "time", "did not end within 1 seconds: is there an endless loop?"),
    (FULL + "import os; os.stat(os.path.dirname(__file__))", "solved", ""),
    ("open('verdict', 'w').write('solved')\nwhile True: pass", "time", "is there an endless loop?"),
    (FULL + "print('x' * 1_200_000)", "output", "more than 1 MB: is there an endless loop?"),
    ("while True: print('x' * 9999)", "output", "more than 1 MB: is there an endless loop?"),
    ("import os; os._exit(0)", "exit", "the code ended Python itself (exit status 0)."),
    ("x = bytes(3 * 2**30)", "memory", "MemoryError"),
    ("import tempfile; tempfile.TemporaryFile().truncate(2**29)", "error", "File too large"),
    ("import os; os.fork()", "error", "a graded file may not start another process"),
    ("print('hello')", "missing", "the file does not define softmax_backward.\nIt printed:\nhello"),
    ("raise ValueError('\\ud800')", "error", "ValueError: \\ud800"),
    ("input()", "error", "\nA graded file gets no input: write the value in its place."),
    (FULL + LASTING, "solved", ""),
    (FULL + "import atexit; atexit.register(print, 'bye')", "solved", ""),
    (FULL + "open('left.txt', 'w').close()", "solved", ""),
]


@pytest.mark.parametrize("source, state, text", PROCESSES)
def test_a_process_of_its_own(mine, source, state, text):
    mine.write_text(source, encoding="utf-8")
    found = grade.run_apart("softmax_backward", mine, 1 if "True" in source else 30)
    assert found[0] == state and found[1].endswith(text) and bool(found[1]) == bool(text)
    assert not any((folder / "left.txt").exists() for folder in (grade.ROOT, mine.parent))


FORKED = """
import ctypes, time
if not ctypes.CDLL(None).fork():  # one that Python does not know of
    while True:
        time.sleep(0.01)
        open({!r}, "a").write("x")
"""


@pytest.mark.skipif(os.name != "posix", reason="needs limits")
def test_an_endless_loop_ends_even_if_nobody_ends_it(mine, tmp_path):
    mine.write_text("while True: pass")
    run = [sys.executable, "-c", grade.CHILD, str(mine), "softmax_backward", str(tmp_path)]
    assert subprocess.run(run, env=os.environ | {"MEMT_LIMIT": "0.4"}, timeout=60).returncode < 0


@pytest.mark.skipif(os.name != "posix", reason="needs fork")
def test_what_a_file_starts_ends_with_it(mine):
    written = mine.with_name("written")
    mine.write_text(FORKED.format(str(written)) + FULL, encoding="utf-8")
    assert grade.run_apart("softmax_backward", mine, 30) == ("solved", "", True)
    time.sleep(0.1)
    size = written.exists() and written.stat().st_size
    time.sleep(0.3)
    assert size == (written.exists() and written.stat().st_size)


def command(*arguments, **more):
    """The command, without the packages for tests and pictures."""
    names = ("pytest", "matplotlib", "torch", "hypothesis")
    code = f"import sys, runpy; sys.modules.update(dict.fromkeys({names}));"
    code += "runpy.run_module('exercises.grade', run_name='__main__', alter_sys=True)"
    run = [sys.executable, "-c", code, *map(str, arguments)]
    more = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | more
    return subprocess.run(run, cwd=grade.ROOT, text=True, timeout=60, **more)


def test_the_command(mine):
    first, *_ = left = ["layernorm_backward", "REACH"]
    done = command("start", mine, first)
    assert done.stdout == f"{mine}: 1 exercise to solve: {first}\n"
    done = command("start", mine, NUMBER[first], "REACH", "--overwrite")
    assert done.stdout == f"{mine}: 2 exercises to solve: {', '.join(left)}\n"
    assert mine.read_text(encoding="utf-8") == starter(left)
    done, asked = command("check", mine, "REA", "softmax", NUMBER[first]), ("lay", "sof", "REA")
    names = [name for name in EXERCISES if name.startswith(asked)]
    states = {name: "not written yet" if name in left else "solved" for name in names}
    *lines, last = done.stdout.splitlines()
    assert lines == [f"{NUMBER[name]:>2} {name}: {state}" for name, state in states.items()]
    assert last == f"{len(names) - 2} of {len(names)} solved; not yet: {', '.join(left)}"
    assert done.returncode == 1
    done = command("check", mine, "softmax")
    assert done.returncode == 0 and done.stdout.endswith(
        "softmax_backward: solved\n1 of 1 solved\n"
    )
    mine.write_text("é = (")
    done = command("check", mine, "lay", "sof", env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 1 and re.search(r"\\xe9 = \((.|\n)*the same message", done.stdout)
    with open("/dev/full", "w") as full:
        done = command("check", mine, "1", stdout=full)
    assert (done.returncode, done.stderr) == (1, "")
    closed = ["sh", "-c", '"$@" >&-', "sh", sys.executable, "-m", "exercises.grade", "check", mine]
    done = subprocess.run([*closed, "1"], cwd=grade.ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "")


def test_refusals(mine, monkeypatch, capsys):
    mine.write_text("mine")

    def refused(*arguments, status=2):
        with pytest.raises(SystemExit) as end:
            sys.exit(grade.main([*map(str, arguments)]))
        out, said = capsys.readouterr()
        assert not out or status == 0
        assert end.value.code == status and said.count("\n") == (status == 2)
        return said

    assert "--overwrite replaces it" in refused("start", mine) and mine.read_text() == "mine"
    assert "No such file" in refused("start", mine.with_name("no") / "mine.py")
    assert "none.py is not a file" in refused("check", mine.with_name("none.py"))
    numbered = ", ".join(f"{number} {name}" for name, number in NUMBER.items())
    for word in (str(len(EXERCISES) + 1), "0", "tanh", "-1"):
        assert word in refused("check", mine, word)
    assert f"no exercise 'tanh': must be one of {numbered}" in refused("check", mine, "tanh")
    assert refused().endswith("required: command, path\n")
    assert "check does not use overwrite" in refused("check", mine, "--overwrite")
    assert "is not a folder with .py files" in refused("class", mine)
    mine.with_name("class.csv").write_text("kept")
    assert "class.csv exists: --overwrite" in refused("class", mine.parent)
    for out in (mine.parent, mine.with_name("no") / "x.csv", mine / "x.csv", mine):
        said = refused("class", mine.parent, "--out", out, "--overwrite")
        assert f"{out} can't be written: must be a file in a folder, not a .py" in said
    mine.with_name("new-messages.txt").mkdir()
    said = refused("class", mine.parent, "--out", mine.with_name("new.csv"), "--overwrite")
    assert "new-messages.txt can't be written" in said
    mine.with_name("checkpoint.npz").write_text("kept")
    said = refused("train", mine, "--out", mine.parent)
    assert "checkpoint.npz exists: --overwrite" in said and "resume" not in said
    for text in ("abc", "nan", "-1", "", "0", "0.0"):
        monkeypatch.setenv("MEMT_LIMIT", text)
        assert f"MEMT_LIMIT is {text!r}" in refused("check", mine)
    refused("start", mine, "--overwrite", "without", status=0)
    assert mine.read_text(encoding="utf-8") == starter(["without"])


def test_the_solution_sheet(mine):
    assert grade.main(["sheet", str(mine)]) == 0
    pattern = r"## Exercise (\d+): `(\w+)`\n\n(.+)\n\n```python\n((?:.*\n)+?)```\n"
    every = re.findall(pattern, mine.read_text(encoding="utf-8"))
    assert {name: int(number) for number, name, _, _ in every} == NUMBER
    for _, name, text, code in every:
        assert text == LAST_STEPS[name]
        assert grade.verdict(name, "from memt import *\n" + code, "mine.py")[0] == "solved"
    assert sheet(["REACH"]).count("##") == 1


@pytest.mark.parametrize("command", ["check", "class"])
def test_a_run_can_be_stopped(mine, monkeypatch, capsys, command):
    mine.write_text("while True: pass")
    monkeypatch.setenv("MEMT_LIMIT", "1000")
    once = iter([os.getpid()])
    monkeypatch.setattr(grade.time, "sleep", lambda _: [os.kill(i, signal.SIGINT) for i in once])
    path = mine.parent if command == "class" else mine
    assert grade.main([command, str(path)]) == 130 and capsys.readouterr().out == "stopped\n"


def test_a_stopped_class_keeps_what_is_graded(tmp_path, monkeypatch, capsys):
    def run_apart(name, path, limit):
        if path.name == "bob\n.py":
            return "solved", "", True
        if path.name == "cid.py":  # bob's is graded, ada's is not
            os.kill(os.getpid(), signal.SIGINT)
        assert grade.STOPPED.wait(30)
        raise KeyboardInterrupt

    for name in ("ada.py", "bob\n.py", "cid.py", "dan.py"):
        (tmp_path / name).touch()
    monkeypatch.setattr(grade, "run_apart", run_apart)
    monkeypatch.setattr(grade.os, "cpu_count", lambda: 2)
    assert grade.main(["class", str(tmp_path), "softmax"]) == 130
    assert (tmp_path / "class.csv").read_text().splitlines()[1:] == ["bob\\n.py,1,ok"]
    _, row, *_, last = capsys.readouterr().out.splitlines()
    assert (row, last) == ("bob\\n.py 1      ok", "stopped")


def test_a_browsers_python_grades_in_its_own_process(mine, monkeypatch, capsys):
    mine.write_text(starter(["REACH"]), encoding="utf-8")
    monkeypatch.setattr(grade, "ALONE", True)
    monkeypatch.delattr(subprocess, "Popen")
    assert grade.main(["check", str(mine), "softmax", "REACH"]) == 1
    first, *lines, _ = capsys.readouterr().out.splitlines()
    assert first == "graded in this process, without limits of time, memory and output"
    assert lines == [" 2 softmax_backward: solved", " 9 REACH: not written yet"]


CLASS = {  # file -> its text, its row, the end of its line in the table
    "ada.py": (FULL, "2,ok,ok", "ok   ok"),
    "bob.py": (starter(["REACH"]), "1,ok,-", "ok   -"),
    "cid.py": (FULL + "\ndef softmax_backward(dp, p):\n    while 1: 0", "1,time,ok", "time ok"),
    "dan.py": ("while True: pass", "0,time,time", 'time "'),
}


def test_every_wrong_answer_is_written_down_but_only_once_why_a_file_cannot_run(monkeypatch):
    found = [("softmax_backward", "wrong", "same"), ("REACH", "wrong", "same"),
             ("READING", "time", "endless"), ("sort_task", "time", "endless")]  # fmt: skip
    monkeypatch.setattr(grade, "graded", lambda *_: found)
    row, said = grade.row_of(grade.Path("x.py"), [], 1)
    assert row == ["x.py", "0", "no", "no", "time", "time"]
    assert (said.count("same"), said.count("endless")) == (2, 1)


def test_a_class_gets_a_table(tmp_path, monkeypatch, capsys):
    for name, (text, _, _) in CLASS.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "folder.py").mkdir()
    for name in (".py", "._ada.py"):
        (tmp_path / name).write_text(FULL, encoding="utf-8")
    grade.STOPPED.set()  # as a second Ctrl-C may leave it
    tried, apart = [], grade.run_apart
    monkeypatch.setattr(grade, "run_apart", lambda *it: tried.append(it[1].name) or apart(*it))
    monkeypatch.setenv("MEMT_LIMIT", "3")
    assert grade.main(["class", str(tmp_path), "softmax", "REACH"]) == 0
    assert [tried.count(name) for name in CLASS] == [2, 2, 2, 1]  # endless on its own: only once
    rows = [f"{name},{row}" for name, (_, row, _) in CLASS.items()]
    written = (tmp_path / "class.csv").read_text().splitlines()
    assert written == ["file,solved,softmax_backward,REACH", *rows]
    lines = [f"{name} {row[0]}      {line}" for name, (_, row, line) in CLASS.items()]
    assert capsys.readouterr().out.splitlines()[4:-3] == ["file   solved 2    9", *lines]
    messages = (tmp_path / "class-messages.txt").read_text().split("\n\n")
    endless = "the code did not end within 3 seconds: is there an endless loop?"
    cid, dan = (f"{name}.py, 2 softmax_backward: time\n{endless}" for name in ("cid", "dan"))
    assert messages == [cid, dan, ""]
    assert grade.main(["class", str(tmp_path), "lay", "--out", str(tmp_path / "2.csv")]) == 0
    assert "dan.py, 1 layernorm" in (tmp_path / "2-messages.txt").read_text()


@pytest.mark.parametrize("source, steps, text", [
    (FULL, 1000, "solved with your gradients. To look inside:\npython -m experiments.attention"),
    (BLANK, 1000, "solved; 0 of 6 backward functions were yours, the others memt's. To look"),
    (BLANK, 25, "not solved after 25 steps: loss"),
    (FULL.replace("return p * (dp", "return -p * (dp"), 300, "not solved after 300 steps: loss 2."),
    (FULL.replace("return p * (dp", "return p @ (dp"), 300, "shape: check"),
    ("import os; os._exit(3)", 300, "7 embedding_backward (exit)\n\nnot solved after 0 steps\nCor"),
])  # fmt: skip
def test_training_with_gradients_of_your_own(mine, monkeypatch, capsys, source, steps, text):
    mine.write_text(source, encoding="utf-8")
    monkeypatch.setattr(grade, "STEPS", steps)
    out, solved = mine.with_name("out"), steps == 1000
    out.mkdir()
    (out / "checkpoint.npz").write_text("old")
    assert grade.main(["train", str(mine), "--out", str(out), "--overwrite"]) == (not solved)
    said = capsys.readouterr().out
    assert text in said and said.count("experiments.page") == solved
    assert (out / "model.npz").exists() == (out / "log.csv").exists() == solved
    if solved:  # --resume finds the model
        _, state = train_toy.read_checkpoint(out)
        _, params = train_toy.read_model(out / "model.npz")
        assert all(np.array_equal(state.params[name], params[name]) for name in params)
    else:
        assert (out / "checkpoint.npz").read_text() == "old"
    assert train_toy.memt is memt


def test_the_starter_is_numbered_and_gives_nothing_away(monkeypatch):
    found = re.findall(r"# Exercise (\d+)\n(?:#.*\n)*(?:def )?(\w+)", BLANK)
    assert found == [(str(number), name) for name, number in NUMBER.items()]
    for name in ("init_params", "model_backward"):
        (node,) = (n for n in ast.parse(BLANK).body if getattr(n, "name", "") == name)
        function = ast.get_source_segment(BLANK, node)
        assert "#" not in function and "\n\n" not in function and "    return" in function
    monkeypatch.setitem(EXERCISES, "relu_backward", checks.Exercise(None))
    assert '"""dy -> dx."""\n    raise' in starter(["relu_backward"])
    assert '"""dp (..., K) -> ds (..., K)."""\n    raise' in BLANK
    assert EXERCISES["build_mask"].docstring in BLANK and memt.build_mask.__doc__ not in BLANK
