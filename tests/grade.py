"""The exercises of lesson.md, which grade themselves.

    python -m tests.grade start mine.py                    write the file to fill in
    python -m tests.grade check mine.py                    grade every exercise
    python -m tests.grade check mine.py softmax_backward   grade one
    python -m tests.grade check mine.py --junitxml=mine.xml    further options are pytest's

Each exercise runs in a process of its own with a time limit. There the student's file takes the
place of memt, and the project's own tests run on it; the finished memt.py is not needed.
"""

import argparse
import ast
import contextlib
import copy
import importlib
import os
import pickle
import subprocess
import sys
import traceback
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from .slips import WORDS, explain

ROOT = Path(__file__).parent.parent
LIMIT = 60.0  # seconds for one exercise
PIECES = ("softmax_backward", "layernorm_backward", "attention_backward")
CALLS = {  # exercise -> earlier ones that its solution calls
    "attention_backward": ["softmax_backward"],
    "update_backward": [*PIECES],
    "membottleneck_backward": [*PIECES, "update_backward"],
}
FOLLOW = ("memt", "train_toy", "tests.support", "tests.test_pairs", "tests.test_model")


class Wrong(Exception):  # noqa: N818
    """An answer that is wrong, in words for whoever gave it."""


# ---------------------------------------------------------------- the starter file


def blank(source: str, names, empty: dict[str, str]) -> str:
    """Source in which the named functions are not written, and the named dicts hold None.

    `empty` turns a function's right lines into wrong ones instead: right -> wrong.
    """
    lines = source.splitlines()
    for node in reversed(ast.parse(source).body):
        if isinstance(node, ast.FunctionDef) and node.name in names:
            first, last = node.body[0].end_lineno, node.end_lineno
            rest = "\n".join(lines[first:last])
            wrong = [(a, b) for a, b in empty.items() if a in rest]
            for a, b in wrong:
                rest = rest.replace(a, b)
            if not wrong:
                rest = f'    raise NotImplementedError("{node.name} is not written yet")'
            lines[first:last] = rest.splitlines()
            number(lines, node.lineno - 1, node.name)
        elif isinstance(node, ast.Assign) and node.targets[0].id in names:
            for value in node.value.values:
                i = value.lineno - 1
                lines[i] = f"{lines[i][: value.col_offset]}None,"
            number(lines, node.lineno - 1, node.targets[0].id)
    return "\n".join(lines) + "\n"


def number(lines: list[str], line: int, name: str) -> None:
    """Write the exercise's number above a line and the comments on it."""
    while lines[line - 1].startswith("#"):
        line -= 1
    lines.insert(line, f"# Exercise {list(EXERCISES).index(name) + 1}")


def starter(names=None) -> str:
    """memt.py and, below it, tests/solutions.py without its imports; the named exercises blank."""
    from .solutions import PLANTED, SPOILERS

    names = EXERCISES if names is None else names
    text = (ROOT / "tests/solutions.py").read_text(encoding="utf-8")
    model = (ROOT / "memt.py").read_text(encoding="utf-8")
    for spoiler in SPOILERS:
        model = model.replace(spoiler, "")
    sources = model, text[text.index("\n# -----") :]
    return "\n".join(blank(source, names, PLANTED) for source in sources)


# ---------------------------------------------------------------- the student's file as memt


def load(source: str, path: str) -> types.ModuleType:
    """Run the student's source as the module memt. Raises Wrong for what cannot be run."""
    module = types.ModuleType("memt")
    module.__file__, module.__source__ = path, source
    sys.modules["memt"] = module
    try:
        exec(compile(source, path, "exec"), module.__dict__)
    except SyntaxError as error:
        raise Wrong(f"{path}, line {error.lineno}: {error.msg}: {error.text or ''}") from None
    except (Exception, SystemExit) as error:
        raise Wrong(f"{path} cannot be imported:\n{where(error, path)}") from None
    return module


def where(error: BaseException, path: str) -> str:
    """The lines of the student's file that an error came through, and what it says."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
    lines = "".join(traceback.format_list(frames[-3:]))
    return f"{lines}{type(error).__name__}: {error}"


def project(name: str) -> types.ModuleType:
    """A module of the project that uses the student's memt; fresh in this process."""
    return importlib.import_module(name)


@contextlib.contextmanager
def student(source: str, path: str):
    """The student's module stands in for memt, also in the project's tests; put back at the end."""
    kept = {name: sys.modules.pop(name) for name in FOLLOW if name in sys.modules}
    try:
        yield load(source, path)
    finally:
        for name in FOLLOW:
            sys.modules.pop(name, None)
        sys.modules.update(kept)


def grade(name: str, source: str, path: str) -> None:
    """Raises Wrong, with what to say, unless the exercise is solved."""
    with student(source, path) as memt:
        if not hasattr(memt, name):
            raise Wrong(f"{path} has no {name}")
        if name.endswith("_backward"):
            setattr(memt, name, on_copies(getattr(memt, name), name))
        if name.isupper():
            memt.build_mask = right_mask  # a prediction does not wait for another exercise
        said = complaint(name, memt, path)
        for called in CALLS.get(name, []) if said else []:
            if "not written yet" not in said and complaint(called, memt, path):
                raise Wrong(f"{called} is still wrong, and {name} calls it: mend that one first")
        if said:
            raise Wrong(said)


def complaint(name: str, memt: types.ModuleType, path: str) -> str:
    """What is wrong with an exercise in the student's module; empty if it is solved."""
    try:
        EXERCISES[name](memt, getattr(memt, name))
    except KeyboardInterrupt:
        raise
    except (Wrong, NotImplementedError) as error:
        return str(error)
    except AssertionError as error:
        return f"{name} fails a test of the project: {error}"
    except BaseException as error:  # SystemExit in it too
        return f"{where(error, path)}\n{hint_at(error)}".rstrip()
    return ""


def on_copies(function: Callable, name: str) -> Callable:
    """The function on copies of its arguments, but dp: it may change them, and nobody else sees.

    Raises Wrong if it changes them and belongs to the pieces, whose callers use them again.
    """

    def run(*args):
        copies = [a if isinstance(a, dict) else copy.deepcopy(a) for a in args]
        before = pickle.dumps(copies) if name in PIECES else None
        out = function(*copies)
        if name in PIECES and pickle.dumps(copies) != before:
            raise Wrong(f"{name} changes an array that it is given; its caller still needs it")
        return out

    return run


def hint_at(error: BaseException) -> str:
    """What an exception may mean."""
    text = str(error)
    if any(word in text for word in ("zip()", "unpack", "NoneType", "tuple")):
        return "Does it return all that its docstring says, in that order?"
    if "matmul" in text:
        return WORDS["transposed"]
    return WORDS["shapes"] if "broadcast" in text else ""


# ---------------------------------------------------------------- the exercises
#
# Each takes the student's module and the object that the exercise is named after.

EXERCISES: dict[str, Callable] = {}


def exercise(name: str):
    """Decorator: this function grades that exercise."""
    return lambda check: EXERCISES.setdefault(name, check)


def pairs_explained() -> types.ModuleType:
    """tests/test_pairs.py on the student's module, but it compares by `explain`."""
    pairs, drawn = project("tests.test_pairs"), []
    draw = pairs.draw

    def compare(f, params, grads):
        text = explain(f, params, grads, drawn[1] if len(drawn) > 1 else {})
        drawn.clear()
        if text:
            raise Wrong(text)

    def recorded(rng, shapes):
        drawn.append(draw(rng, shapes))  # the inputs, and then what dp holds before
        return drawn[-1]

    pairs.compare, pairs.draw = compare, recorded
    return pairs


def compare_answers(given: dict, measured: dict) -> None:
    """Raises Wrong for predictions that are missing or not what was measured."""
    if not isinstance(given, dict) or given.keys() != measured.keys():
        raise Wrong(f"it must be a dict with the keys {', '.join(measured)}")
    for question, answer in measured.items():
        if given[question] is None:
            raise NotImplementedError(f"{question!r} is not answered yet")
        if isinstance(answer, list) and not isinstance(given[question], list):
            raise Wrong(f"{question!r}: give a list")
        if given[question] != answer:
            raise Wrong(f"{question!r}: you say {given[question]}, the machine says otherwise")


@exercise("softmax_backward")
def _softmax(memt, function):
    pairs_explained().test_pair("softmax")


@exercise("layernorm_backward")
def _layernorm(memt, function):
    pairs_explained().test_pair("layernorm")


@exercise("attention_backward")
def _attention(memt, function):
    pairs = pairs_explained()
    pairs.test_pair("attention")
    pairs.test_pair("attention under a mask")


GIVEN = ("du = dr * (dr > 0)", "dw = rows_of(x).T")  # the two lines to mend, as they start


@exercise("tied_backward")
def _tied(memt, function):
    own = memt.__source__.partition("def tied_backward")[2].partition("\n\n\n")[0]
    lines = [line.strip() for line in own.splitlines()]
    if all(any(line.startswith(wrong) for line in lines) for wrong in GIVEN):
        raise Wrong("the two lines are still as they were given.")
    pairs = pairs_explained()
    shapes = {"x": (2, 4, 5), "w": (5, 3)}
    pairs.PAIRS["tied"] = shapes, lambda p: memt.tied_forward(**p), function
    pairs.test_pair("tied")


@exercise("update_backward")
def _update(memt, function):
    pairs_explained().test_update()


@exercise("embedding_backward")
def _embedding(memt, function):
    pairs_explained().test_embedding()


def tape_grads(support, params, config, tokens, targets):
    """Gradients by the tape: the student's backward is not needed."""
    from autograd import value_and_grad

    return value_and_grad(support.loss_function(tokens, targets, config))(params)[1]


def different(rows) -> int:
    """How many different rows, up to rounding."""
    return len(np.unique(np.round(rows, 9), axis=0))


@exercise("build_mask")
def _build_mask(memt, function):
    support, model = project("tests.support"), project("tests.test_model")
    for config in support.configs(layers=(1,)):
        mask, right = (f(config, support.T, np.float64) for f in (function, right_mask))
        if mask is None and right is not None:
            raise Wrong(f"{config}: None is for models without a limit")
        if mask is not None:
            check_mask(mask, config, support.T, right)
            if function(config, support.T, np.float32).dtype != np.float32:
                raise Wrong("asked for float32 it gives another type: use dtype")
        model.test_attention_maps(config, None)


def right_mask(config, T: int, dtype):
    """What the student's mask must be, pair by pair; also for those who have none yet."""
    reach = -1 if config.variant == "masked" else config.window
    if reach is None:
        return None
    mask = np.zeros((config.memory + T,) * 2, dtype)
    for target, source in np.ndindex(mask.shape):
        if min(target, source) >= config.memory and abs(target - source) > reach:
            mask[target, source] = -np.inf
    return mask


def check_mask(mask, config, T: int, right) -> None:
    """Raises Wrong for the first pair of rows that may see when it must not, or the reverse."""
    M = config.memory
    if mask.shape != (M + T, M + T) or mask.dtype != np.float64:
        raise Wrong(f"{mask.dtype} of shape {mask.shape}: must be float64, {(M + T, M + T)}")
    if not np.isin(mask, (0, -np.inf)).all():
        raise Wrong(f"it holds {mask[~np.isin(mask, (0, -np.inf))][0]}: must be 0 or -inf")
    for target, source in np.argwhere(mask != (0 if right is None else right)):
        raise Wrong(
            f"variant {config.variant}, window {config.window}, M = {M}: row {target}, "
            f"column {source} is {mask[target, source]}; may that target see that source?"
        )


@exercise("REACH")
def _reach(memt, given):
    support, found = project("tests.support"), {}
    cases = [("transformer", 1, 2), ("masked", 1, None), ("masked", 2, None)]
    for variant, layers, window in [*cases, ("membottleneck", 1, None), ("memtransformer", 1, 0)]:
        text = f"{variant}, {layers} layer{'s' * (layers > 1)}"
        text += "" if window is None else f", window {window}"
        memory, rng = 0 if variant == "transformer" else 5, np.random.default_rng(51)
        sizes = {**support.SIZES, "memory": memory, "layers": layers, "window": window}
        found[text] = changed(memt, support, memt.Config(**sizes, variant=variant), rng)
    compare_answers(given, found)


def changed(memt, support, config, rng) -> list[int]:
    """Positions whose logits change when the symbol at position 4 does."""
    params, (tokens, _) = support.random_params(config, rng), support.random_batch(config, rng)
    other = tokens.copy()
    other[:, 4] = (tokens[:, 4] + 1) % config.symbols
    a, b = (memt.model_forward(params, t, config)[0] for t in (tokens, other))
    return [j for j in range(support.T) if not np.array_equal(a[:, j], b[:, j])]


@exercise("membottleneck_backward")
def _membottleneck(memt, function):
    pairs = pairs_explained()
    pairs.test_wiring("membottleneck", None)
    pairs.test_wiring("membottleneck", np.array([7, 0, 4]))


@exercise("EQUAL_ROWS")
def _equal_rows(memt, given):
    support, rng, found = project("tests.support"), np.random.default_rng(50), {}
    for variant in ("memtransformer", "membottleneck"):
        config = memt.Config(**support.SIZES, layers=2, memory=5, variant=variant)
        params = support.random_params(config, rng)
        params["memory"][:3] = params["memory"][0]
        batch = support.random_batch(config, rng)
        _, cache = memt.model_forward(params, batch[0], config)
        found[f"in the final memory of a {variant}"] = different(memt.final_memory(cache)[0])
    grad = tape_grads(support, params, config, *batch)["memory"]
    found["in the gradient of memory"] = different(grad)
    stepped = different(params["memory"] - 0.1 * grad)
    found["in memory after one step of gradient descent"] = stepped
    params["memory"][0] += 0.1
    grad = tape_grads(support, params, config, *batch)["memory"]
    moved = "in the gradient of memory, once one of the three has been moved a little"
    compare_answers(given, {**found, moved: different(grad)})


@exercise("ZERO_GRADIENTS")
def _zero_gradients(memt, given):
    support, found = project("tests.support"), {}
    for name, share in [
        ("memtransformer", 0),
        ("memctrl", 0),
        ("memctrl", 1),
        ("membottleneck", 0),
    ]:
        sizes = {**support.SIZES, "layers": 2, "memory": 5, "share_controller": bool(share)}
        config, rng = memt.Config(**sizes, variant=name), np.random.default_rng(52)
        params, batch = support.random_params(config, rng), support.random_batch(config, rng)
        groups: dict[str, bool] = {}
        for n, g in tape_grads(support, params, config, *batch).items():
            prefix = n.rpartition(".")[0] or n
            groups[prefix] = groups.get(prefix, False) or g.any()
        zero = [prefix for prefix, some in groups.items() if not some]
        found[name + " with a shared controller" * share] = zero
    compare_answers(given, found)


@exercise("READING")
def _reading(memt, given):
    M = 3
    process, write, read = memt.MAP[:M, :M], memt.MAP[:M, M:], memt.MAP[M:, :M]
    found = [write.sum(1), process.sum(1), memt.MAP[:M].min(1), read.min(0), (read @ write)[0]]
    questions = given if isinstance(given, dict) else ()
    compare_answers(given, {q: int(np.argmax(x)) for q, x in zip(questions, found, strict=False)})


@exercise("sort_task")
def _sort_task(memt, function):
    train_toy = project("train_toy")
    train_toy.TASKS["sort"] = function
    s = train_toy.default_settings("transformer", task="sort", length=6, symbols=5)
    tokens, targets = train_toy.make_batch(s, 50, train_toy.TRAINING)
    x = tokens[:, :6]
    if np.shape(targets) != x.shape:
        raise Wrong(f"targets have shape {np.shape(targets)}: must be {x.shape}")
    function(x)
    if not np.array_equal(x, train_toy.make_batch(s, 50, train_toy.TRAINING)[0][:, :6]):
        raise Wrong("the input was changed: a task must leave it as it is")
    for row, answer in zip(x, targets, strict=True):
        if sorted(row.tolist()) != answer.tolist():
            raise Wrong(f"for {row} your task gives {answer}; right is {np.sort(row)}")


@exercise("without")
def _without(memt, function):
    support = project("tests.support")
    config = memt.Config(**support.SIZES, layers=2, memory=5, variant="membottleneck")
    rng = np.random.default_rng(53)
    params, (tokens, _) = support.random_params(config, rng), support.random_batch(config, rng)
    kept = {n: p.copy() for n, p in params.items()}
    for gone in ([], [1, 3], [3, 1], [0]):
        left = [m for m in range(config.memory) if m not in gone]
        hurt, smaller = function(params, config, gone)
        if smaller.memory != len(left):
            raise Wrong(f"without tokens {gone} the config must say memory={len(left)}")
        if not np.array_equal(hurt["memory"], kept["memory"][left]):
            raise Wrong(f"without tokens {gone} rows {left} must be left, in this order")
        if any(not np.array_equal(p, kept[n]) for n, p in params.items()) or config.memory != 5:
            raise Wrong("params and config that are given must stay as they are")
        a, b = (
            memt.model_forward(hurt, tokens, smaller)[0],
            memt.model_forward(kept, tokens, config)[0],
        )
        if np.array_equal(a, b) != (not gone):
            raise Wrong("a lesion of nothing changes nothing; one of something changes the logits")


# ---------------------------------------------------------------- running


@pytest.mark.parametrize("name", EXERCISES)
def test_exercise(name):
    """Collected when pytest is given this file: MEMT_FILE is graded, each exercise in a process."""
    said = run_apart(name, os.environ["MEMT_FILE"], float(os.environ.get("MEMT_LIMIT", LIMIT)))
    if said:
        pytest.fail(said, pytrace=False)


def run_apart(name: str, path: str, limit: float) -> str:
    """Grade one exercise in another process -> what to say about it; empty if it is solved."""
    command = [sys.executable, "-m", "tests.grade", "one", path, name]
    env = os.environ | {"PYTHONUTF8": "1"}
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=env, capture_output=True, stdin=subprocess.DEVNULL, timeout=limit
        )
    except subprocess.TimeoutExpired:
        return f"{name} did not end within {limit:g} seconds: is there an endless loop in {path}?"
    said = done.stdout.decode("utf-8", "replace").rstrip()
    if not done.returncode and said.endswith(f"{name}: passed"):
        return ""
    return said or done.stderr.decode("utf-8", "replace") or f"{path} ended Python before its end"


def one(path: str, name: str) -> int:
    """Grade one exercise here; 0 if it is solved."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            grade(name, file.read(), path)
    except Wrong as wrong:
        print(wrong)
        return 1
    print(f"{name}: passed")
    return 0


def start(path: Path, overwrite: bool) -> int:
    """Write the starter file; 2 if there is one already."""
    try:
        text = starter()
        with open(path, "w" if overwrite else "x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        exists = isinstance(error, FileExistsError)
        print(f"{path} exists: give --overwrite to lose it" if exists else error, file=sys.stderr)
        return 2
    print(f"{path}: {len(EXERCISES)} exercises: {', '.join(EXERCISES)}")
    return 0


def check(path: Path, name: str | None, options: list[str]) -> int:
    """Grade by pytest; its exit status: 0 all solved, 1 not all."""
    known = {n.lower(): n for n in EXERCISES}
    if not path.is_file() or (name and name.lower() not in known):
        what = (
            f"no file {path}"
            if not path.is_file()
            else f"no exercise {name!r}: {', '.join(EXERCISES)}"
        )
        print(what, file=sys.stderr)
        return 2
    os.environ["MEMT_FILE"] = str(path.resolve())
    target = __file__ if name is None else f"{__file__}::test_exercise[{known[name.lower()]}]"
    quiet = ["-q", "--no-header", "-rN", "-p", "no:cacheprovider", f"--rootdir={ROOT}"]
    return int(pytest.main([target, *quiet, *options]))


def main() -> int:
    """The command; 2 for bad arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("command", choices=["start", "check", "one"])
    parser.add_argument("file", type=Path)
    parser.add_argument("exercise", nargs="?", help="its name; none: all")
    parser.add_argument("--overwrite", action="store_true", help="start: replace the file")
    args, options = parser.parse_known_args()
    if args.command == "one":
        return one(str(args.file), args.exercise)
    if args.command == "start":
        return start(args.file, args.overwrite)
    return check(args.file, args.exercise, options)


if __name__ == "__main__":
    sys.exit(main())
