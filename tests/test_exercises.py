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
from exercises import checks, grade, hints, solutions
from exercises.checks import EXERCISES, Wrong, solution
from exercises.starter import starter

from .support import SIZES, random_case

BLANK, FULL = starter(), starter(())
GRADIENTS = [name for name in EXERCISES if name.endswith("_backward")]


def said(name, answer):
    """What is said about an answer to an exercise; empty if it is right."""
    try:
        EXERCISES[name].check(answer)
    except Wrong as wrong:
        return str(wrong)
    return ""


@pytest.mark.parametrize("name", EXERCISES)
def test_a_solution_passes_alone_and_what_is_left_open_does_not(name):
    state, text = grade.verdict(name, BLANK, "mine.py")
    assert state == ("wrong" if name == "tied_backward" else "not written yet")
    assert "both wrong lines are still unchanged" in text or not text
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


# ---------------------------------------------------------------- hints

BASES = {"layernorm_backward": checks.plain_layernorm, "softmax_backward": checks.plain_softmax}


def edited(name, old, new):
    """A solution in whose tree an expression or statement is replaced."""
    function = BASES.get(name) or solution(name)
    tree = ast.parse(inspect.getsource(function))
    old, new = (ast.parse(text).body[0] for text in (old, new))
    if isinstance(old, ast.Expr):
        old, new = old.value, new.value
    found = [n for n in ast.walk(tree) if ast.unparse(n) == ast.unparse(old)]
    assert found, f"{name} has no {ast.unparse(old)}"
    namespace = dict(function.__globals__)
    tree = ast.fix_missing_locations(hints.rebuilt(tree, {id(found[0]): new}))
    exec(compile(tree, "mine.py", "exec"), namespace)
    return namespace[function.__name__]


LN = "rstd * (dxhat - mean - xhat * along)"
LN_OUT = "(dx, (dy * xhat).sum(axis=(0, 1)), dy.sum(axis=(0, 1)))"
OUT, OUT_Q = "(dx, dcontext, dwq, dwkv, dwo)", "(dx, dcontext, dwkv, dwq, dwo)"
READ = "update_backward(dmem + dmem_read, updates['mem'][1], dparams['mem'])"
PAST = "map(np.add, update_backward(dmem, updates['mem'][1], dparams['mem']), [dmem_read, 0])"
LAST = "np.zeros((7, 12)) + [dseq[tokens == i][-1:].sum(axis=0) for i in range(7)]"
SLIPS = {  # exercise -> what is replaced -> by what, the start of the hint, and again
    "softmax": {
        "p * (dp - total)": ["p * dp", "missing term", "p * (total - dp)", "sign",
            "p * (dp + total)", "sign", "2 * p * (dp - total)", "factor", "dp - total", "factor",
            "p * dp - total", "factor", "p * (1 - p) * dp", "diagonal"],
        "dp * p": ["dp", "factor", "p", "factor"],
        "(dp * p).sum(axis=-1, keepdims=True)": ["dp.mean(axis=-1, keepdims=True)", "mean",
            "(dp * p).sum(axis=1, keepdims=True)", "axis", "(dp * p).sum()", "axis",
            "(dp * p).sum(axis=(0, 2), keepdims=True)", "This slip is not"]},
    "layernorm": {
        LN: ["rstd * (dxhat - xhat * along)", "missing term", "rstd * dxhat", "missing term",
            "rstd * (dxhat - mean)", "missing term",
            "rstd * (dxhat + mean + xhat * along)", "sign",
            "rstd * (dxhat + mean - xhat * along)", "sign", "dxhat - mean - xhat * along", "factor",
            "(dxhat - mean - xhat * along) / rstd", "factor"],
        "dy * g": ["dy", "factor", "dy / g", "factor"],
        "(dxhat * xhat).mean(axis=-1, keepdims=True)": ["(dxhat * xhat).mean(axis=0)", "axis",
            "(dxhat * xhat).sum(axis=-1, keepdims=True)", "factor"],
        "dxhat.mean(axis=-1, keepdims=True)": ["dxhat.mean()", "axis",
            "dy.mean(axis=-1, keepdims=True)", "wrong array"],
        "dy * xhat": ["dy", "factor", "dy * g", "wrong array"],
        LN_OUT: ["(dx, dy * xhat, dy.sum(axis=(0, 1)))", "missing sum",
            "(dx[0], dy * xhat, dy.sum(axis=(0, 1)))", "shape",
            "(dx, dy.sum(axis=(0, 1)), (dy * xhat).sum(axis=(0, 1)))", "order"],
        "xhat, rstd, g = cache": ["g, rstd, xhat = cache", "order"]},
    "attention": {
        "ds @ k * D**-0.5": ["ds @ k", "factor", "ds * p / p @ k * D**-0.5", "This slip is not"],
        "ds.swapaxes(2, 3) @ q": ["ds.swapaxes(2, 3) @ q * D**-0.5", "factor"],
        "np.concatenate((dk, dv), axis=1)": ["np.concatenate((dv, dk), axis=1)", "order",
            "np.concatenate((dk, dv), axis=3)", "axis"],
        "softmax_backward(do @ v.swapaxes(2, 3), p)": ["do @ v.swapaxes(2, 3)", "wrong array",
            "softmax_backward(do @ v.swapaxes(2, 3), q @ k.swapaxes(2, 3))", "scores"],
        OUT: [OUT_Q, "order", "(dx, dcontext, dwq.T, dwkv, dwo)", "transposed"],
        "merge_heads(dq)": ["dq.reshape(len(dq), dq.shape[2], -1)", "heads"],
        "split_heads(do, heads)": ["do.reshape(len(do), heads, -1, D)", "heads"]},
    "tied": {
        "dr * (r > 0)": ["dr * (dr > 0)", "gate", "dr", "gate"],
        "dw += rows_of(x).T @ rows_of(du)": ["dw = rows_of(x).T @ rows_of(du)", "missing term"],
        "dy + du @ w.T": ["du @ w.T", "missing term"]},
    "update": {
        "(dx + dmh, dcontext)": ["(dx, dcontext)", "missing term", "(dcontext, dx + dmh)", "order",
            "(dx + dh, dcontext)", "wrong array"],
        "da + dff": ["da", "missing term", "da + dh", "wrong array"],
        "relu_backward(dr, c_relu)": ["dr", "gate"],
        "linear_backward(dff, c_w2)": ["linear_backward(dh, c_w2)", "wrong array"],
        "dff, dln2_g, dln2_b = layernorm_backward(dh, c_ln2)": [
            "dff, dln2_b, dln2_g = layernorm_backward(dh, c_ln2)", "order"],
        "add_into": ["dict.update", "left out"]},
    "embedding": {
        "dmem.sum(axis=0)": ["dmem", "missing sum", "dmem[0]", "missing sum",
            "dmem.mean(axis=0)", "factor", "dmem.sum(axis=1)", "shape"],
        "(dembed, dmem.sum(axis=0))": ["(dembed.T, dmem.sum(axis=0))", "transposed",
            "(dmem.sum(axis=0), dembed)", "order"],
        "one_hot.astype(dseq.dtype).T @ rows_of(dseq)": [LAST, "missing sum: for repeated"],
        "np.arange(vocabulary)": ["np.arange(tokens.max() + 1)", "shape"]},
    "membottleneck": {
        "dmem + dmem_read": ["dmem", "missing term"],
        READ: [PAST, "past"],
        "dboth[:, rows] += dx_seq": ["pass", "missing term",
            "dboth[:, rows] = dx_seq", "missing term"],
        "dboth[:, :M] += dx_mem": ["dboth[:, :M] += dx_mem + dmem_read", "counted twice"],
        "(dboth[:, :M], dboth[:, M:])": ["(-dboth[:, :M], dboth[:, M:])", "sign"]},
}  # fmt: skip


@pytest.mark.parametrize("name", SLIPS)
def test_slips_get_hints_that_fit(name):
    for old, pairs in SLIPS[name].items():
        for new, hint in zip(pairs[::2], pairs[1::2], strict=True):
            with np.errstate(invalid="ignore"):
                text = said(f"{name}_backward", edited(f"{name}_backward", old, new))
            assert text.startswith(hint), f"{old} -> {new}\n{text}"
            assert "wrong        shape" in text or "must be (" in text


def test_two_slips_are_planted_and_each_gets_its_hint():
    for wrong, right, hint in [("dw = rows_of(x)", "dw += rows_of(x)", "gate"),
                               ("dr > 0", "r > 0", "missing term")]:  # fmt: skip
        _, text = grade.verdict("tied_backward", BLANK.replace(wrong, right), "mine.py")
        assert text.startswith(hint)


def changed(name, change):
    """The solution of a gradient exercise, with other results."""

    def function(*args):
        out = solution(name)(*args)
        return tuple(change(*out)) if isinstance(out, tuple) else change(out)

    return function


def test_a_table_and_what_is_said_of_unknown_slips():
    text = said("layernorm_backward", changed("layernorm_backward", lambda dx, dg, db: (
        dx - 40 * (np.arange(40).reshape(2, 4, 5) == 33), dg, db)))  # fmt: skip
    assert text.startswith("This slip is not") and text.endswith("right: dg, db")
    assert re.search(
        r"^dx           \(2, 4, 5\) .* \[1, 2, 3\]: -?\d\d\.\d+, -?\d\.\d+$", text, re.M
    )
    two = changed("layernorm_backward", lambda dx, dg, db: (np.cos(dx), 3 * dg, db))
    assert said("layernorm_backward", two).startswith("In dg: factor")


@pytest.mark.parametrize("name", GRADIENTS)
def test_results_must_be_float64_arrays(name):
    def converted(convert):
        return said(
            name, changed(name, lambda *out: list(map(convert, out)) if out[1:] else convert(*out))
        )

    wrong = [np.complex128, np.float32, object]
    for convert in [*(lambda a, t=t: a.astype(t) for t in wrong), list, np.ma.array]:
        assert "must be an array of float64" in converted(convert)
    assert not converted(lambda a: a * (1 + 1e-12))
    assert "error" in converted(lambda a: a * (1 + 1e-7))


def test_what_is_given_stays_as_it_is():
    def spoiled(name, spoil):
        return said(name, lambda *given: (solution(name)(*given), spoil(*given))[0])

    def fill(*given):
        [array.fill(0) for array in given if isinstance(array, np.ndarray)]

    for name in GRADIENTS:  # two are called with gradients that nobody needs again
        free = name in ("update_backward", "membottleneck_backward")
        assert ("that is needed again" in spoiled(name, fill)) != free
    assert "needed again" in spoiled("softmax_backward", lambda dp, p: p.fill(0))
    assert "needed again" in spoiled("update_backward", lambda dh, cache, _: cache.relu.fill(0))


def test_grading_follows_a_changed_model(monkeypatch):
    forward, backward = memt.update_forward, memt.update_backward

    def doubled(*args, **more):
        h, cache = forward(*args, **more)
        return 2 * h, cache

    monkeypatch.setattr(memt, "update_forward", doubled)
    assert said("update_backward", backward)
    assert not said("update_backward", lambda dh, *more: backward(2 * dh, *more))


# ---------------------------------------------------------------- masks, predictions, functions


def masker(radius=-1, more=0, value=-np.inf, dtype=None, first=None):
    """A build_mask; right as it is."""

    def build_mask(config, T, given, mask):
        M, position = config.memory, np.arange(T)
        reach = radius if config.variant == "masked" else config.window
        full = np.zeros((M + T, M + T), dtype or given)
        if reach is not None:
            block = full[M:, M:] if first is None else full[:T, :T]
            block[np.abs(position[:, None] - position) > reach + more] = value
        return full

    return build_mask


def lesion(change):
    """A `without` in which what it returns is changed."""

    def without(params, config, gone):
        hurt, smaller = solutions.without(params, config, gone)
        return change(hurt, smaller, params, config, gone)

    return without


REACH, READING = solutions.REACH, solutions.READING
OTHERS = [  # exercise, answer, what is said
    ("REACH", {**REACH, "masked, 1 layer": [], "masked, 2 layers": [4]},
     "'masked, 1 layer': [] is not right\n'masked, 2 layers': [4] is not right\nEach"),
    ("REACH", {**REACH, "masked, 1 layer": (4,)}, "(4,) is not right\nEach answer is of type list"),
    ("REACH", {**REACH, "masked, 1 layer": [4, 4]}, "[4, 4] is not right"),
    ("REACH", {**REACH, "masked, 1 layer": None}, "None is not right"),
    ("REACH", {question: sorted(answer)[::-1] for question, answer in REACH.items()}, ""),
    ("READING", {}, "must be a dict with the keys 'memory row with"),
    ("READING", dict(zip("abcde", READING.values(), strict=True)), "must be a dict with the keys"),
    ("READING", dict(reversed(READING.items())), ""),
    ("READING", {q: bool(a) if a == 1 else a for q, a in READING.items()}, "True is not right"),
    ("READING", {q: str(a) for q, a in READING.items()}, "Each answer is of type int"),
    ("EQUAL_ROWS", dict.fromkeys(solutions.EQUAL_ROWS, 5), "5 is not right"),
    ("ZERO_GRADIENTS", {q: [] for q in solutions.ZERO_GRADIENTS}, "'memctrl': [] is not right"),
    ("build_mask", masker(), ""),
    ("build_mask", masker(radius=0), "variant masked, M = 5, window None: row 5, column 5 is 0.0"),
    ("build_mask", masker(more=-1), "M = 0, window 2: row 0, column 2 is -inf"),
    ("build_mask", masker(value=-1e9), "must contain only 0 and -inf"),
    ("build_mask", masker(dtype=np.float64), "must be an array of float32"),
    ("build_mask", masker(first=0), "may that target attend to that source?"),
    ("build_mask", lambda *_: None, "must be an array of float64"),
    ("build_mask", lambda config, T, dtype, mask: np.zeros(T, dtype), "of shape (9, 9)"),
    ("sort_task", lambda x: np.sort(x, axis=0), ": must be ["),
    ("sort_task", lambda x: x.sort(axis=1) or x, "input was changed"),
    ("sort_task", lambda x: np.sort(x, axis=1).astype(float), "must return an array of integers"),
    ("sort_task", lambda x: np.sort(x, axis=1).tolist(), "must return an array of integers"),
    ("sort_task", lambda x: None, "of integers of shape (20, 6), not None"),
    ("sort_task", lambda x: np.sort(x, axis=1)[:, 1:], "of shape (20, 6), not array"),
    ("without", lesion(lambda hurt, smaller, *_: (hurt, smaller)), ""),
    ("without", lesion(lambda hurt, smaller, params, config, gone: (hurt, config)), "memory=3"),
    ("without", lesion(lambda hurt, small, *_: ({"memory": hurt["memory"]}, small)), "'embed'"),
    ("without", lesion(lambda hurt, small, *_: (hurt | {"x": hurt["out_b"]}, small)), "['x'] are"),
    ("without", lesion(lambda hurt, small, *_: (hurt | {"memory": hurt["memory"][::-1]}, small)),
     "params ['memory'] are wrong"),
    ("without", lesion(lambda hurt, small, given, *_: (given.update(hurt) or hurt, small)),
     "must stay unchanged"),
    ("without", lesion(lambda hurt, small, given, *_: (given.clear() or hurt, small)), "unchanged"),
]  # fmt: skip


@pytest.mark.parametrize("name, answer, text", OTHERS)
def test_other_answers(name, answer, text):
    answered = said(name, answer)
    assert text in answered and bool(answered) == bool(text), answered


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
        found.append(different(memt.final_memory(cache)[0]))
    grad = memt.loss_and_grads(*case)[1]["memory"]
    found += [different(grad), different(memory - 0.1 * grad)]
    memory[0] += 0.1
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
    even, through = solutions.MAP[:3].min(axis=1), (read @ write)[0]
    found = [write.sum(axis=1), process.sum(axis=1), even, read.min(axis=0), through]
    assert list(READING.values()) == [np.argmax(x) for x in found]
    assert np.allclose(solutions.MAP.sum(axis=1), 1)


# ---------------------------------------------------------------- files, processes, the command


CANNOT_RUN = [
    ("import numpy\nx = (", 'File "mine.py", line 2'),
    ("x = 1\n1 / 0\n", 'File "mine.py", line 2, in <module>\nZeroDivisionError'),
    ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    ("raise SystemExit(0)", "SystemExit"),
    ("class Odd(BaseException):\n    def __str__(self): 1 / 0\nraise Odd", "Odd"),
    ("x = 1", "the file does not define softmax_backward"),
    ("x = 'é'".encode("latin-1"), "SyntaxError"),
    ("x = 1".encode("utf-16"), "null"),
    ("def softmax_backward(dp, p):\n    a, b = 1, 2, 3", "How many values are on the right"),
    ("def softmax_backward(dp, p):\n    return dp @ p", "shape: check"),
    ("def softmax_backward(dp, p):\n    return dp + p[:, :3]", "shape: check"),
    ("def softmax_backward(dp, p):\n    return p, dp", "ds must be an array of float64, not tuple"),
]


@pytest.mark.parametrize("source, text", CANNOT_RUN)
def test_what_cannot_run_gets_one_message(source, text):
    state, said = grade.verdict("softmax_backward", source, "mine.py")
    assert state == "wrong" and text in said


FORKED = """
import os, time
if not os.fork():
    while True:
        time.sleep(0.01)
        open({!r}, "a").write("x")
"""
LASTING = """
import atexit, threading, time
atexit.register(print, "bye")
threading.Thread(target=time.sleep, args=[100]).start()
"""


PROCESSES = [
    ("while True: pass", "wrong", "did not end within 1 seconds: is there an endless loop?"),
    ("while True: print('x' * 9999)", "wrong", "printed more than 1 MB: is there an endless loop?"),
    ("import os; os._exit(0)", "wrong", "the code ended Python itself (exit status 0)."),
    ("print('hello')", "wrong", "the file does not define softmax_backward.\nIt printed:\nhello"),
    ("raise ValueError('\\ud800')", "wrong", "ValueError: \\ud800"),
    (FULL + LASTING, "solved", ""),
]


@pytest.mark.parametrize("source, state, text", PROCESSES)
def test_a_process_of_its_own(tmp_path, source, state, text):
    mine = tmp_path / "mine.py"
    mine.write_text(source, encoding="utf-8")
    found = grade.run_apart("softmax_backward", mine, 1 if "True" in source else 30)
    assert found[0] == state and found[1].endswith(text) and bool(found[1]) == bool(text)


@pytest.mark.skipif(os.name != "posix", reason="needs fork")
def test_what_a_file_starts_ends_with_it(tmp_path):
    mine, written = tmp_path / "mine.py", tmp_path / "written"
    mine.write_text(FORKED.format(str(written)) + FULL, encoding="utf-8")
    assert grade.run_apart("softmax_backward", mine, 30) == ("solved", "")
    time.sleep(0.1)
    size = written.exists() and written.stat().st_size
    time.sleep(0.3)
    assert size == (written.exists() and written.stat().st_size)


def command(*arguments, **more):
    """The command, where none of the packages for tests and pictures can be imported."""
    names = ("pytest", "matplotlib", "torch", "hypothesis")
    code = f"import sys, runpy; sys.modules.update(dict.fromkeys({names}));"
    code += "runpy.run_module('exercises.grade', run_name='__main__', alter_sys=True)"
    run = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(run, cwd=grade.ROOT, text=True, timeout=60, **more)


def test_the_command(tmp_path):
    mine, kept = tmp_path / "mine.py", {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    assert command("start", mine, "1", "REACH", **kept).returncode == 0
    assert mine.read_text(encoding="utf-8") == starter(["layernorm_backward", "REACH"])
    done = command("check", mine, "REA", "softmax", "1", **kept)
    assert done.returncode == 1 and done.stdout.splitlines() == [
        " 1 layernorm_backward: not written yet",
        " 2 softmax_backward: solved",
        " 9 REACH: not written yet",
        "12 READING: solved",
        "2 of 4 solved; not yet: layernorm_backward, REACH",
    ]
    done = command("check", mine, "2", **kept)
    assert (done.returncode, done.stdout) == (0, " 2 softmax_backward: solved\n1 of 1 solved\n")
    mine.write_text("é = (")
    done = command("check", mine, "1", "2", env={**os.environ, "PYTHONIOENCODING": "ascii"}, **kept)
    assert done.returncode == 1 and "\\xe9 = (" in done.stdout and "the same mess" in done.stdout
    with open("/dev/full", "w") as full:
        done = command("check", mine, "1", stdout=full, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (1, "")


def test_refusals(tmp_path, monkeypatch, capsys):
    mine = tmp_path / "mine.py"
    mine.write_text("mine")

    def refused(*arguments, status=2):
        monkeypatch.setattr(sys, "argv", ["grade", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            sys.exit(grade.main())
        said = capsys.readouterr().err
        assert end.value.code == status and said.count("\n") == (status == 2)
        return said

    assert "--overwrite replaces it" in refused("start", mine) and mine.read_text() == "mine"
    assert "No such file" in refused("start", tmp_path / "no" / "mine.py")
    assert "none.py is not a file" in refused("check", tmp_path / "none.py")
    for word in ("15", "0", "tanh", "-1"):
        assert f"{word}" in refused("check", mine, word)
    assert "1 layernorm_backward, 2 softmax_backward" in refused("check", mine, "tanh")
    for text in ("abc", "nan", "-1", ""):
        monkeypatch.setenv("MEMT_LIMIT", text)
        assert f"MEMT_LIMIT is {text!r}" in refused("check", mine)
    refused("start", mine, "--overwrite", "without", status=0)
    assert mine.read_text(encoding="utf-8") == starter(["without"])


def test_a_run_can_be_stopped(tmp_path, monkeypatch, capsys):
    mine = tmp_path / "mine.py"
    mine.write_text("while True: pass")
    monkeypatch.setattr(grade.time, "sleep", lambda seconds: signal.raise_signal(signal.SIGINT))
    monkeypatch.setattr(sys, "argv", ["grade", "check", str(mine)])
    assert grade.main() == 130 and capsys.readouterr().out == "stopped\n"


def test_the_starter_is_numbered_and_gives_nothing_away():
    found = re.findall(r"# Exercise (\d+)\n(?:#.*\n)*(?:def )?(\w+)", BLANK)
    assert found == [(str(i), name) for i, name in enumerate(EXERCISES, 1)]
    for name in ("init_params", "model_backward"):
        (node,) = (n for n in ast.parse(BLANK).body if getattr(n, "name", "") == name)
        function = ast.get_source_segment(BLANK, node)
        assert "#" not in function and "\n\n" not in function and "    return" in function
    for name in ("softmax_backward", "membottleneck_backward", "build_mask"):
        assert EXERCISES[name].docstring in BLANK and memt.__dict__[name].__doc__ not in BLANK
