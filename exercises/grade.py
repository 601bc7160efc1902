"""The exercises of lesson.md, graded.

    python -m exercises.grade start mine.py              write the file to fill in
    python -m exercises.grade start mine.py softmax      blank only this exercise, the others solved
    python -m exercises.grade check mine.py              grade every exercise
    python -m exercises.grade check mine.py 1 attention  grade some, by number, name or prefix

Exit status: 0 all are solved, 1 not all, 2 nothing was graded, 130 interrupted. Each exercise runs
in its own process, for at most 60 seconds (or the number in the environment variable MEMT_LIMIT).
Meanwhile, the others are replaced with their solutions: no exercise depends on another.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
import traceback
import types
from pathlib import Path

import memt
from train_toy import Parser, say

from .checks import EXERCISES, Wrong, solution
from .hints import SHAPE
from .starter import starter

ROOT = Path(__file__).parent.parent
PRINTED = 1e6  # bytes that a file may print while it is graded
CHILD = "import sys; from exercises.grade import child; child(*sys.argv[1:])"
SOLVED, WRONG, UNWRITTEN = "solved", "wrong", "not written yet"


def verdict(name, source, path):
    """Grade one exercise in this process -> SOLVED, WRONG or UNWRITTEN, and a message."""
    try:
        EXERCISES[name].check(students(name, source, path))
    except Wrong as wrong:
        return WRONG, str(wrong)[:4000]
    except NotImplementedError:
        return UNWRITTEN, ""
    except BaseException as error:  # a student's file may raise anything
        return WRONG, where(error, path)
    return SOLVED, ""


def students(name, source, path):
    """What the student's file defines under this name, with the other exercises solved."""
    module = types.ModuleType("students")
    sys.modules["students"] = module  # dataclasses look up their module
    exec(compile(source, path, "exec"), module.__dict__)
    if name not in vars(module):
        raise Wrong(f"the file does not define {name}.")
    for other in EXERCISES.keys() - {name}:
        setattr(module, other, solution(other))
    return getattr(module, name)


def where(error, path):
    """The lines of the student's file in a traceback, the error message, and a hint."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
    said = "".join(traceback.format_exception_only(error))[:2000].rstrip()
    hint = "How many values are on the right, and how many names on the left?" * ("unpack" in said)
    hint = SHAPE if "matmul" in said or "broadcast" in said else hint
    return "".join([*traceback.format_list(frames[-3:]), said, f"\n{hint}" * bool(hint)])


# ---------------------------------------------------------------- in its own process


def child(path, name, answer):
    """Grade one exercise, write the verdict to the file `answer`, and end this process."""
    text = "\n".join(verdict(name, Path(path).read_bytes(), path))
    Path(answer).write_text(text, encoding="utf-8", errors="backslashreplace")
    with contextlib.suppress(BaseException):
        sys.stdout.flush()
    os._exit(0)


def run_apart(name, path, limit):
    """`verdict` in another process, killed after `limit` seconds with every process it started."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as printed:
        answer = Path(folder, "verdict")
        process = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(path.resolve()), name, str(answer)],
            cwd=ROOT,
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
        if not answer.exists():
            return WRONG, reason
        state, _, text = answer.read_text(encoding="utf-8").partition("\n")
        printed.seek(0)
        output = printed.read(2000).decode("utf-8", "replace").rstrip()
        return state, text + f"\nIt printed:\n{output}" * (output > "" and state != SOLVED)


def wait(process, printed, limit):
    """Wait until a process ends or must be ended -> the reason why there is no verdict."""
    stop = time.monotonic() + limit
    while process.poll() is None:
        if time.monotonic() > stop:
            return f"the code did not end within {limit:g} seconds: is there an endless loop?"
        if os.fstat(printed.fileno()).st_size > PRINTED:
            return f"the code printed more than {PRINTED / 1e6:g} MB: is there an endless loop?"
        time.sleep(0.02)
    return f"the code ended Python itself (exit status {process.returncode})."


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
    if not text.replace(".", "", 1).isdecimal():
        raise ValueError(f"MEMT_LIMIT is {text!r}: must be a number of seconds")
    return float(text)


def start(path, names, overwrite):
    """Write the starter file. Raises OSError."""
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists: --overwrite replaces it, and its content is lost")
    text = starter(names).encode()
    memt.atomic_write(path, lambda file: file.write(text))
    say(f"{path}: {len(names)} exercises to solve: {', '.join(names)}")
    return 0


def check(path, names):
    """Grade; 0 if all are solved, else 1. Raises OSError or ValueError."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file")
    left, before, seconds = [], "", limit()
    for name in names:
        state, text = run_apart(name, path, seconds)
        say(f"{list(EXERCISES).index(name) + 1:>2} {name}: {state}")
        if text:
            say("    the same message" if text == before else textwrap.indent(text, "    "))
        left, before = left + [name] * (state != SOLVED), text
    done = f"{len(names) - len(left)} of {len(names)} solved"
    say(f"{done}; not yet: {', '.join(left)}" if left else done)
    return 1 if left else 0


def make_parser():
    """The command line."""
    parser = Parser(
        prog="exercises.grade",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("command", choices=["start", "check"])
    parser.add_argument("file", type=Path)
    parser.add_argument("exercises", nargs="*", type=matching, help="which ones (all)")
    parser.add_argument("--overwrite", action="store_true", help="start: replace the file")
    return parser


def main():
    """Run the command -> its exit status."""
    with contextlib.suppress(AttributeError):  # if there is no stdout
        sys.stdout.reconfigure(errors="backslashreplace")
    parser = make_parser()
    args = parser.parse_intermixed_args()
    wanted = {name for names in args.exercises for name in names}
    names = [name for name in EXERCISES if name in wanted or not wanted]
    try:
        if args.command == "start":
            return start(args.file, names, args.overwrite)
        return check(args.file, names)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        say("stopped")
        return 130


if __name__ == "__main__":
    sys.exit(main())
