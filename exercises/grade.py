"""The exercises of lesson.md, graded.

    python -m exercises.grade start mine.py              write the file to fill in
    python -m exercises.grade start mine.py softmax      blank only this exercise, the others solved
    python -m exercises.grade check mine.py              grade every exercise
    python -m exercises.grade check mine.py 1 attention  grade some, by number, name or prefix
    python -m exercises.grade train mine.py              train a model with your gradients
    python -m exercises.grade class handed_in            grade every .py of a folder: a table, a CSV
    python -m exercises.grade sheet solutions.md         write the solutions and their last steps
    python -m exercises.grade notebook lesson.ipynb      write the lesson as a Jupyter notebook

Exit status: 0 all are solved (class: graded), 1 not all, 2 nothing was done, 130 interrupted. Each
exercise runs in its own process, for at most 60 seconds (or the number in the environment variable
MEMT_LIMIT) and in at most 2 GiB. Meanwhile, the others are replaced with their solutions: no
exercise depends on another.
"""

import argparse
import contextlib
import csv
import io
import math
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import traceback
import types
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import memt
import train_toy
from train_toy import Parser, say

from . import solutions
from .checks import EXERCISES, Wrong, solution
from .hints import SHAPE
from .notebook import notebook
from .sheet import sheet
from .starter import starter

ROOT = Path(__file__).parent.parent
PRINTED = 1e6  # bytes that a file may print while it is graded
MEMORY, FILE = 2**31, 2**28  # bytes that it may allocate, and write to one file
STEPS = 1000  # of training; correct gradients need about 200
ALONE = sys.platform in ("emscripten", "wasi")  # a browser's Python can start no other process
CHILD = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
CHILD += "from exercises.grade import child; child(*sys.argv[1:])"
SOLVED, WRONG, UNWRITTEN = "solved", "wrong", "not written yet"
USES = {"start": "exercises overwrite", "check": "exercises", "train": "out overwrite",
        "class": "exercises out overwrite", "sheet": "exercises overwrite",
        "notebook": "exercises overwrite"}  # fmt: skip
CELLS = {SOLVED: "ok", WRONG: "no", UNWRITTEN: "-"}  # other states say why there is no verdict
HINTS = {  # word of an error message -> what is said of it
    "unpack": "How many values are on the right, and how many names on the left?",
    "matmul": SHAPE,
    "broadcast": SHAPE,
    "RecursionError": "Which function calls itself without end?",
    "EOFError": "A graded file gets no input: write the value in its place.",
}
STOPPED = threading.Event()  # set when what is still being graded must end


def verdict(name, source, path, loaded=lambda: None):
    """Grade one exercise in this process -> its state (a word or two) and a message.

    Calls `loaded` when the student's file has been run, before what it defines is checked.
    """
    module = None
    try:
        module = load(source, path)
        loaded()
        if name not in vars(module):
            return "missing", f"the file does not define {name}."
        EXERCISES[name].check(students(name, module))
    except Wrong as wrong:
        lines = str(wrong)[:4000].splitlines()
        return WRONG, "\n".join(textwrap.fill(line, 96) for line in lines)
    except NotImplementedError as error:  # of the exercise, not of what the file itself calls
        return (UNWRITTEN, "") if module else ("error", where(error, path))
    except SyntaxError as error:
        return "syntax", where(error, path)
    except MemoryError as error:
        return "memory", where(error, path)
    except SystemExit as error:
        return "exit", where(error, path)
    except BaseException as error:  # a student's file may raise anything
        return WRONG if module else "error", where(error, path)
    return SOLVED, ""


def load(source, path):
    """The student's file as a module, without its changes to memt. Raises whatever it raises."""
    module = types.ModuleType("students")
    module.__file__ = path
    sys.modules["students"] = module  # dataclasses look up their module
    with contextlib.ExitStack() as after:
        for names in (vars(memt), vars(solutions)):
            after.callback(names.update, dict(names))
        exec(compile(source, path, "exec"), module.__dict__)
    return module


def students(name, module):
    """What the student's file defines under this name, with the other exercises solved."""
    for other in EXERCISES.keys() - {name}:
        setattr(module, other, solution(other))
    return getattr(module, name)


def where(error, path):
    """The lines of the student's file in a traceback, the error message, and a hint."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
    said = "".join(traceback.format_exception_only(error))[:2000].rstrip()
    hint = next((hint for word, hint in HINTS.items() if word in said), "")
    more = [f"\n{line}" for line in (getattr(error, "case", ""), hint) if line]
    return "".join([*traceback.format_list(frames[-3:]), said, *more])


# ---------------------------------------------------------------- in its own process


def child(path, name, folder):
    """Grade one exercise, write the verdict into the folder, and end this process."""
    with contextlib.suppress(ImportError, ValueError, OSError):  # not on Windows, not all on macOS
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (FILE, FILE))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        cpu = math.ceil(2 * limit()) + 1  # it must end even if the grader was killed
        resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu))
    sys.addaudithook(refuse_processes)
    text = "\n".join(verdict(name, Path(path).read_bytes(), path, Path(folder, "loaded").touch))
    Path(folder, "verdict").write_text(text, encoding="utf-8", errors="backslashreplace")
    with contextlib.suppress(BaseException):
        sys.stdout.flush()
    os._exit(0)


def refuse_processes(event, _arguments):
    """An audit hook. Raises PermissionError when Python is about to start another process."""
    if event.startswith(("os.fork", "os.posix_spawn", "os.exec", "os.system", "subprocess.")):
        raise PermissionError("a graded file may not start another process")


def run_apart(name, path, limit):
    """`verdict` in another process, killed after `limit` seconds with every process it started.

    It runs in a temporary folder. The third result: whether the student's file was run to its end.
    """
    temporary = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    with temporary as folder, tempfile.TemporaryFile() as printed:
        work = Path(folder, "work")
        work.mkdir()
        process = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(path.resolve()), name, folder],
            cwd=work,
            env=os.environ | {"PYTHONUTF8": "1", "OPENBLAS_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            reason = wait(process, printed, limit)
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL) if os.name == "posix" else process.kill()
            process.wait()
        answer, loaded = Path(folder, "verdict"), Path(folder, "loaded").exists()
        if not answer.exists() or reason[0] == "output":
            return *reason, loaded
        state, _, text = answer.read_text(encoding="utf-8").partition("\n")
        printed.seek(0)
        output = printed.read(2000).decode("utf-8", "replace").rstrip()
        text += f"\nIt printed:\n{output}" * (output > "" and state != SOLVED)
        return state, text, loaded


def wait(process, printed, limit):
    """Wait until a process ends or must be ended -> why there is no verdict, and a message."""
    stop = time.monotonic() + limit
    while process.poll() is None and os.fstat(printed.fileno()).st_size <= PRINTED:
        if STOPPED.is_set():
            raise KeyboardInterrupt
        if time.monotonic() > stop:
            text = f"the code did not end within {limit:g} seconds: is there an endless loop?"
            return "time", text
        time.sleep(0.02)
    if os.fstat(printed.fileno()).st_size > PRINTED:
        text = f"the code printed more than {PRINTED / 1e6:g} MB: is there an endless loop?"
        return "output", text
    return "exit", f"the code ended Python itself (exit status {process.returncode})."


def graded(path, names, seconds):
    """Yield name, state and message; a file that does not run to its end is tried only once."""
    loaded = True
    for name in names:
        if ALONE:
            state, text = verdict(name, path.read_bytes(), str(path))
        elif loaded:
            state, text, loaded = run_apart(name, path, seconds)
        yield name, state, text


# ---------------------------------------------------------------- the command


def matching(word):
    """The exercises with this number, this name, or names that start with this word."""
    names = list(EXERCISES)
    found = [name for i, name in enumerate(names, 1) if word in (str(i), name)]
    found = found or [name for name in names if name.lower().startswith(word.lower())]
    if not found:
        numbered = ", ".join(f"{i} {name}" for i, name in enumerate(names, 1))
        raise argparse.ArgumentTypeError(f"no exercise {word!r}: must be one of {numbered}")
    return found


def limit():
    """Seconds for one exercise. Raises ValueError."""
    text = os.environ.get("MEMT_LIMIT", "60")
    if not text.replace(".", "", 1).isdecimal() or float(text) == 0:
        raise ValueError(f"MEMT_LIMIT is {text!r}: must be a positive number of seconds")
    return float(text)


def number(name):
    """The number of an exercise."""
    return list(EXERCISES).index(name) + 1


def must_be_writable(path, overwrite):
    """Raises ValueError, or FileExistsError if the file exists and must stay."""
    can = (path.is_file() or not path.exists()) and os.access(path.parent, os.W_OK | os.X_OK)
    right = "must be a file in a folder, not a .py"
    memt.must(can and path.suffix != ".py", f"{path} can't be written: {right}")
    must_be_new(path, overwrite)


def must_be_new(path, overwrite):
    """Raises FileExistsError if the file exists and must stay."""
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists: --overwrite replaces it, and its content is lost")


def write(path, make, names, overwrite):
    """Write a starter file, a solution sheet or a notebook, as `make` does. Raises OSError."""
    must_be_new(path, overwrite)
    write_text(path, make(names))
    to_solve = f"exercise{'s' * (len(names) > 1)}{' to solve' * (make is starter)}"
    say(f"{path}: {len(names)} {to_solve}: {', '.join(names)}")
    return 0


def check(path, names):
    """Grade; 0 if all are solved, else 1. Raises OSError or ValueError."""
    if ALONE:
        say("graded in this process, without limits of time, memory and output")
    left, before = [], ""
    for name, state, text in graded(path, names, limit()):
        say(f"{number(name):>2} {name}: {state}")
        if text:
            say("    the same message" if text == before else textwrap.indent(text, "    "))
        left, before = left + [name] * (state != SOLVED), text
    done = f"{len(names) - len(left)} of {len(names)} solved"
    say(f"{done}; not yet: {', '.join(left)}" if left else done)
    return 1 if left else 0


def train(path, out, overwrite):
    """Train with the student's gradients; 0 if that solves the task. Raises OSError, ValueError."""
    must_be_new(out / "checkpoint.npz", overwrite)  # train_toy would advise --resume
    _, s, state = train_toy.prepare({"out": out, "steps": STEPS, "overwrite": overwrite})
    names = [name for name in EXERCISES if hasattr(memt, name)]
    states = {name: found for name, found, _ in graded(path, names, limit())}
    unsolved = [f"{number(n)} {n} ({found})" for n, found in states.items() if found != SOLVED]
    if unsolved:
        used = "; for what is not written, memt's own is used" * (UNWRITTEN in states.values())
        say(f"not solved yet: {', '.join(unsolved)}{used}")
    try:
        if {*states.values()} <= {*CELLS}:  # else it may not end, or end Python
            train_toy.memt = completed(path, states)
            show = train_toy.show_progress(s, 0, time.perf_counter())
            for _ in train_toy.training(s, state):
                show(state)
        if train_toy.solved(state):
            train_toy.write_checkpoint(out, s, state)
            train_toy.report(out, s, state)
    except (Exception, SystemExit) as error:  # a student's file may raise anything
        say(f"\n{where(error, str(path))}")
    finally:
        train_toy.memt = memt
    say(outcome(path, out, state, states))
    return 0 if train_toy.solved(state) else 1


def completed(path, states):
    """The student's file as a module in which memt's own functions do what is not written."""
    module = load(path.read_bytes(), str(path))
    for name, state in states.items():
        if state == UNWRITTEN:  # in place, because WIRINGS refers to the function
            getattr(module, name).__code__ = getattr(memt, name).__code__
    return module


def outcome(path, out, state, states):
    """What training came to, and what to do next; states: exercise -> its state."""
    if train_toy.solved(state):
        own = [found != UNWRITTEN for name, found in states.items() if name.endswith("_backward")]
        few = f"; {sum(own)} of {len(own)} backward functions were yours, the others memt's"
        whose = " with your gradients" if all(own) else few
        command = "python -m experiments.attention"
        return f"\nsolved{whose}. To look inside:\n{command} {out / 'model.npz'}"
    scores = ""
    if state.log:
        _, loss, symbol, _ = state.log[-1]
        guessing = math.log(state.config.symbols)
        scores = f": loss {loss:.2f} (guessing: {guessing:.2f}), symbol accuracy {symbol:.1%}"
    return f"""
not solved after {state.step} steps{scores}
Correct gradients solve it in about 200 steps. To see which are wrong:
python -m exercises.grade check {path}"""


def grade_class(folder, names, out, overwrite):
    """Grade every .py of a folder -> a table, a CSV, all messages. Raises OSError, ValueError."""
    files, out = sorted(filter(Path.is_file, folder.glob("[!.]*.py"))), out or folder / "class.csv"
    messages = out.with_name(f"{out.stem}-messages.txt")
    if not files:
        raise FileNotFoundError(f"{str(folder)!r} is not a folder with .py files")
    for path in (out, messages):
        must_be_writable(path, overwrite)
    seconds, found, pool = limit(), {}, ThreadPoolExecutor(os.cpu_count())

    def grade(path):
        found[path] = row_of(path, names, seconds)

    try:
        for i, _ in enumerate(pool.map(grade, files)):
            say(f"{i + 1} of {len(files)} files graded: {found[files[i]][0][0]}")
    finally:  # also after Ctrl-C, when some are still being graded
        STOPPED.set()
        if done := [found[path] for path in files if path in found]:
            write_class(out, names, [row for row, _ in done])
            write_text(messages, "".join(said for _, said in done))
            say(f"what is said of each wrong answer: {messages}")
        pool.shutdown(cancel_futures=True)
        STOPPED.clear()
    return 0


def row_of(path, names, seconds):
    """Grade one file of a class -> its row of the table, and what is said of each wrong answer."""
    name, cells, said, before = repr(path.name)[1:-1], [], "", ""  # a name in one line
    for exercise, state, text in graded(path, names, seconds):
        cells.append(CELLS.get(state, state))
        if text and (state in CELLS or text != before):  # of a file that can't run: once
            said += f"{name}, {number(exercise)} {exercise}: {state}\n{text}\n\n"
        before = text
    return [name, str(cells.count(CELLS[SOLVED])), *cells], said


def write_class(out, names, rows):
    """Print the table of a class, and write its CSV. Raises OSError."""
    say(table([["file", "solved", *(str(number(name)) for name in names)], *rows]))
    text = io.StringIO()
    csv.writer(text).writerows([["file", "solved", *names], *rows])
    write_text(out, text.getvalue())
    say(f"ok: solved, no: wrong, -: not written yet, else: why there is no verdict\n{out}")


def write_text(path, text):
    """Replace a file by this text. Raises OSError."""
    data = text.encode("utf-8", "backslashreplace")
    memt.atomic_write(path, lambda file: file.write(data))


def table(rows):
    """Lines in columns; a reason is not repeated along its line."""

    def brief(row):
        return ['"' if a == b and len(a) > 2 else b for a, b in pairwise(["", *row])]

    rows = [*map(brief, rows)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(" ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def make_parser():
    """The command line."""
    parser = Parser(
        prog="exercises.grade",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("command", choices=USES)
    parser.add_argument("path", type=Path, help="the file; for class, a folder")
    parser.add_argument("exercises", nargs="*", default=[], type=matching, help="which (all)")
    parser.add_argument("--overwrite", action="store_true", help="replace what was written before")
    parser.add_argument("--out", type=Path, help="train: directory (runs/mine); class: CSV")
    return parser


def run(args):
    """Run the command -> its exit status. Raises OSError or ValueError."""
    for name in ("exercises", "out", "overwrite"):
        used = name in USES[args.command] or not getattr(args, name)
        memt.must(used, f"{args.command} does not use {name}")
    wanted = {name for names in args.exercises for name in names}
    names = [name for name in EXERCISES if name in wanted or not wanted]
    if args.command == "class":
        return grade_class(args.path, names, args.out, args.overwrite)
    if make := {"start": starter, "sheet": sheet, "notebook": notebook}.get(args.command):
        return write(args.path, make, names, args.overwrite)
    if not args.path.is_file():
        raise FileNotFoundError(f"{args.path} is not a file")
    if args.command == "check":
        return check(args.path, names)
    return train(args.path, args.out or Path("runs/mine"), args.overwrite)


def main(arguments=None):
    """Run the command (by default, of the command line) -> its exit status."""
    with contextlib.suppress(AttributeError):  # if there is no stdout
        sys.stdout.reconfigure(errors="backslashreplace")
    parser = make_parser()
    STOPPED.clear()  # a second Ctrl-C may have left it set
    try:
        return run(parser.parse_intermixed_args(arguments))
    except (OSError, ValueError) as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        say("stopped")
        return 130


if __name__ == "__main__":
    sys.exit(main())
