"""What the experiments share: parallel runs, a CSV that survives interruptions, slides.

experiments/README.md says what an experiment must define. A job, a dict of everything a run depends
on, `seed` included, is also the key of its row: a run whose row is in the CSV is not repeated.
"""

import argparse
import csv
import importlib
import io
import itertools
import math
import multiprocessing
import os
import signal
import textwrap
import threading
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np

import memt
import train_toy

# Okabe and Ito's colours, which colour-blind readers can tell apart; a marker for each
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
MARKERS = "osD^vPX"
VARIANT_COLORS = dict(zip(memt.VARIANTS, itertools.cycle(COLORS[i] for i in (6, 0, 4, 2, 1, 3, 5))))
# 97.5% quantiles of Student's t for 1 … 10 degrees of freedom
T_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)

# ---------------------------------------------------------------- one run on a toy task
# every setting of a toy run is fixed here, not in train_toy
TOY = {"task": "reverse", "variant": "", "length": 10, "symbols": 10, "memory": 10, "width": 32}
TOY |= {"heads": 4, "hidden": 128, "layers": 2, "share_controller": False, "window": None}
TOY |= {"steps": 3000, "batch": 32, "lr": 4e-3, "optimizer": "muon", "seed": 0}
SCORES = ("taken", "symbol", "exact", "tested_on")


def toy_job(variant, **given):
    """A toy run: the fixed settings, overridden by `given`."""
    memory = 0 if variant == "transformer" else TOY["memory"]
    return TOY | {"variant": variant, "memory": memory} | given


def train(job):
    """Train until solved or out of steps -> settings, state."""
    s = train_toy.default_settings(**job)
    return s, trained(s)


def trained(s, batches=None):
    """The state after training, from the start to the end; batches as in train_toy.training."""
    state = train_toy.start(s)
    for _ in train_toy.training(s, state, batches):
        pass
    return state


def scores(s, state):
    """Steps taken, and symbol accuracy and exact match (0 to 1) on the test stream."""
    batch = train_toy.make_batch(s, train_toy.TEST_ON, train_toy.TEST)
    _, symbol, exact, outputs = train_toy.evaluate(state.params, s.config, batch)
    return {"taken": state.step, "symbol": symbol, "exact": exact, "tested_on": len(outputs)}


def flops(config, T, R):
    """Floating-point operations of a forward pass over one sequence, with logits at R positions.

    For transformer, memtransformer and membottleneck. Counts the matrix products, two operations
    per multiply-add: an update of n rows that attend to k rows takes 4nC² for wq and wo, 4kC² for
    wkv, 4nkC for q kᵀ and p v, 4nCF for w1 and w2. Training takes about three times as many.
    """
    C, F, M, L = config.width, config.hidden, config.memory, config.layers
    if config.variant == "membottleneck":
        updates = [(M, M + T)] * L + [(T, M)] * (L - 1) + [(R, M)]
    else:
        updates = [(M + T, M + T)] * (L - 1) + [(R, M + T)]
    return sum(4 * C * (n * (C + k + F) + k * C) for n, k in updates) + 2 * R * C * config.symbols


# ---------------------------------------------------------------- the CSV
def cell(value):
    """A value as text in the CSV: None is empty, a float has six digits, spaces separate a list."""
    if isinstance(value, list | tuple):
        return " ".join(map(cell, value))
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def key(row, names):
    """The cells of some columns of a job or of a row of the CSV."""
    return tuple(cell(row[name]) for name in names)


def read_rows(path, found, job=()):
    """Rows of a CSV with the columns of a job, then `found` and seconds; none if there is no file.

    Raises ValueError for other columns, an incomplete row, a second header, or two different
    results for one run.
    """
    if not path.exists():
        return []
    try:
        with open(path, newline="", encoding="utf-8") as file:
            head, *lines = csv.reader(file)
    except (ValueError, csv.Error):
        head, lines = [], []
    names, rows = head[: -len(found) - 1], {}
    if not names or head[len(names) :] != [*found, "seconds"] or (job and names != list(job)):
        raise ValueError(f"{str(path)!r} is not a CSV of this experiment: choose another --out")
    for number, line in enumerate(lines, 2):
        if not line:  # two processes may end an unfinished line at once
            continue
        if len(line) != len(head) or line == head:
            what = "a second header" if line == head else "incomplete"
            raise ValueError(f"{str(path)!r}: row {number} is {what}: remove it")
        first, other = rows.setdefault(tuple(line[: len(names)]), (number, line))
        if other[:-1] != line[:-1]:  # all but the seconds
            both = f"rows {first} and {number} give different results for the same run"
            raise ValueError(f"{str(path)!r}: {both}: keep only one")
    return [dict(zip(head, line, strict=True)) for _, line in rows.values()]


def append_row(path, row):
    """Append a row in a single write: two processes may write to one CSV."""
    with open(path, "ab+") as file:
        text, size = io.StringIO(), file.seek(0, io.SEEK_END)
        if size and file.seek(size - 1) and file.read(1) != b"\n":  # an editor may remove it
            text.write("\n")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows([key(row, row)] if size else [row, key(row, row)])
        file.write(text.getvalue().encode())


def numbers(rows, column):
    """A column of numbers, (rows,), or of equally long lists, (rows, length), else ValueError."""
    try:
        cells = np.array([row[column].split() or ["nothing"] for row in rows], float)
    except ValueError:
        raise ValueError(f"column {column!r}: must be numbers, equally many per row") from None
    memt.must(np.isfinite(cells).all(), f"column {column!r} has NaN or infinity")
    return cells[:, 0] if cells.shape[1:] == (1,) else cells


def group(rows, *names):
    """Rows grouped by the cells of some columns, in order of appearance."""
    groups = {}
    for row in rows:
        groups.setdefault(key(row, names), []).append(row)
    return groups


def by_seed(rows, column, **cells):
    """The mean of a column over the rows with these cells, for each seed in ascending order."""
    own = [row for row in rows if all(row[name] == cell(x) for name, x in cells.items())]
    seeds = sorted(group(own, "seed").items(), key=lambda item: int(item[0][0]))
    return np.array([numbers(rows, column).mean(axis=0) for _, rows in seeds])


def complete(rows, jobs):
    """The rows of these jobs for every seed that has all of them, sorted by seed, then job."""
    names = [name for name in jobs[0] if name != "seed"]
    kinds = list(dict.fromkeys(key(job, names) for job in jobs))
    own = [row for row in rows if key(row, names) in kinds]
    own.sort(key=lambda row: (int(row["seed"]), kinds.index(key(row, names))))
    return [row for rows in group(own, "seed").values() if len(rows) == len(kinds) for row in rows]


# ---------------------------------------------------------------- means over seeds
def interval(values):
    """Half-width of the mean's 95% confidence interval; NaN if n = 1, a bit wide if n > 11."""
    n = len(values)
    return T_QUANTILES[min(n, 11) - 2] * values.std(ddof=1) / n**0.5 if n > 1 else math.nan


def spread(values, digits=1):
    """'mean ± half-width of its 95% confidence interval'."""
    return f"{values.mean():.{digits}f} ± {interval(values):.{digits}f}"


def times(logs):
    """Logarithms of ratios as '× geometric mean (its 95% confidence interval)'."""
    values = np.exp(logs.mean() + interval(logs) * np.array((0, -1, 1)))
    return "× {:.2f} ({:.2f} to {:.2f})".format(*values)


def clear(gains):
    """1 if the mean is clearly above 0 (confidence interval excludes 0), -1 if below, else 0."""
    return int(np.sign(gains.mean())) if abs(gains.mean()) > interval(gains) else 0


def shown(yes):
    return "shown" if yes else "not shown"


def least(gains, unit="points", digits=1):
    """Case -> gains, one per seed -> the weakest case as text, and a verdict on all.

    The weakest: the smallest mean among the cases that are not clear, if there are any.
    """
    where = [name for name, gain in gains.items() if clear(gain) > 0]
    failed = [name for name in gains if name not in where]
    case = min(failed or gains, key=lambda name: gains[name].mean())
    verdict = shown(where) if not (where and failed) else f"shown for {', '.join(where)}"
    worse = ", clearly worse" if clear(gains[case]) < 0 else ""
    text = f"{spread(gains[case], digits)} {unit} in the weakest case ({case}{worse})"
    return text, verdict


def markdown(*rows):
    """Rows of cells -> a Markdown table; the first row is its head."""
    head, *rest = (f"| {' | '.join(cells)} |\n" for cells in rows)
    return "".join((head, "|", "---|" * len(rows[0]), "\n", *rest))


# ---------------------------------------------------------------- running
def start_worker():
    """Leave Ctrl-C to the parent, and exit when the parent has ended, however it ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    train_toy.keep_heap()

    def wait():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def timed(run, job):
    """Run a job -> its row."""
    began = time.perf_counter()
    return job | run(job) | {"seconds": round(time.perf_counter() - began, 2)}


def run_all(path, jobs, run, processes):
    """Run the jobs, append the row of each as it ends, print an estimate of the time left."""
    began, context = time.perf_counter(), multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(processes, os.cpu_count()), context, start_worker) as pool:
        futures = [pool.submit(timed, run, job) for job in jobs]
        try:
            for done, future in enumerate(as_completed(futures), 1):
                append_row(path, future.result())
                left = round((time.perf_counter() - began) / done * (len(jobs) - done))
                train_toy.say(f"run {done}/{len(jobs)}  about {left // 60}:{left % 60:02} left")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            raise


def guarded(parser, work, kept=""):
    """Do the work of a command and exit: 0 done; 1 failed or 130 interrupted, with one line."""
    try:
        work()
    except KeyboardInterrupt:
        parser.exit(130, f"stopped{kept and f'; the same command continues from {kept}'}\n")
    except (ArithmeticError, ValueError, OSError, MemoryError, BrokenProcessPool) as error:
        why = train_toy.reason(error)
        parser.exit(1, f"{parser.prog}: stopped: {why}{kept and f'; {kept} is kept'}\n")
    parser.exit(0)


# ---------------------------------------------------------------- command line
def seed_range(text):
    """'0-4' or '3' -> range. Raises ArgumentTypeError."""
    first, _, last = text.partition("-")
    last = last or first
    if not (first.isdecimal() and last.isdecimal() and 0 <= int(last) - int(first) < 1000):
        right = "must be a range such as 0-4, of at most 1000 seeds"
        raise argparse.ArgumentTypeError(f"{text!r}: {right}")
    return range(int(first), int(last) + 1)


def count(text):
    """'2' -> 2. Raises ArgumentTypeError."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a whole number, at least 1")
    return int(text)


def make_parser(doc):
    """The options that all experiments have. Exits with status 2 if matplotlib is missing."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = train_toy.Parser(description=doc, formatter_class=raw, allow_abbrev=False)
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        parser.error("matplotlib is not installed: pip install matplotlib")
    known = parser.add_argument
    known("--seeds", type=seed_range, help="a range (0-4; with --quick: 0-1)")
    known("--jobs", type=count, default=os.cpu_count(), help="processes, at most one per core")
    known("--quick", action="store_true", help="tiny budgets, only to see that it works")
    known("--out", type=Path, help="where to write (figures; with --quick: runs/quick)")
    return parser


def place(args, name):
    """The file to write. Warns if this overwrites a file in the default directory."""
    path = (args.out or Path("runs/quick" if args.quick else "figures")) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if not args.out and path.exists():
        train_toy.say(f"{path} will be overwritten; use --out FOLDER to write elsewhere")
    return path


def main(name, parser=None):
    """The command of experiments/NAME.py: exits as `guarded` does, or with 2 for bad arguments."""
    experiment = importlib.import_module(f"experiments.{name}")
    parser = parser or make_parser(experiment.__doc__)
    args = parser.parse_args()
    args.seeds = args.seeds or range(2 if args.quick else 5)
    try:
        jobs, picture = experiment.jobs(args), place(args, f"{name}.png")
        path, names = picture.with_suffix(".csv"), list(jobs[0])
        have = {key(row, names) for row in read_rows(path, experiment.FOUND, names)}
    except (ValueError, OSError) as error:
        parser.error(str(error))

    def work():
        run_all(path, [j for j in jobs if key(j, names) not in have], experiment.run, args.jobs)
        rows = complete(read_rows(path, experiment.FOUND), jobs)
        memt.must(rows, f"{path} has no complete seed")
        experiment.draw(rows, path.parent)
        train_toy.say(f"files: {path}, {picture}")

    guarded(parser, work, path)


# ---------------------------------------------------------------- slides
def wrap(text, width=76):
    """In as few lines as fit, of about equal length; what is too long breaks at semicolons."""
    if len(text) > width and "; " in text:
        return ";\n".join(wrap(part) for part in text.split("; "))
    fewest = len(textwrap.wrap(text, width))
    while len(textwrap.wrap(text, width - 1)) == fewest:
        width -= 1
    return textwrap.fill(text, width)


def slide(found, note, rows, columns=1, lines=1, **options):
    """-> figure, axes (lines, columns): 1200 x 675 pixels; options as in matplotlib's subplots."""
    import matplotlib.figure

    matplotlib.rcParams.update({"font.size": 17, "axes.titlesize": 18, "lines.linewidth": 3})
    matplotlib.rcParams.update({"axes.spines.top": False, "axes.spines.right": False})
    figure = matplotlib.figure.Figure(figsize=(12, 6.75), layout="constrained")
    title = [f"{verdict[0].upper()}{verdict[1:]}: {claim}" for claim, _, _, verdict in found]
    title += [found[0][2]] if len(found) == 1 else []
    title = "\n".join(wrap(text) for text in title)
    note = textwrap.fill(f"{note}; {len(group(rows, 'seed'))} seeds" if rows else note, 112)
    style = {"x": 0.01, "ha": "left", "parse_math": False}
    figure.suptitle(title, fontsize=18, weight="bold", **style)
    figure.supxlabel(note, fontsize=14, color="0.3", **style)
    return figure, figure.subplots(lines, columns, squeeze=False, **options)


def save(figure, path):
    memt.atomic_write(path, lambda file: figure.savefig(file, format="png", dpi=100))


def line(axes, x, values, i, **options):
    """The mean over rows of values (rows, x) as a line, and their range as a band."""
    i %= len(COLORS)
    style = {"color": COLORS[i], "marker": MARKERS[i], "markersize": 10} | options
    band = values.min(axis=0), values.max(axis=0)
    axes.fill_between(x, *band, color=style["color"], alpha=0.2, lw=0)
    axes.plot(x, values.mean(axis=0), **style)


def dots(axes, y, steps, i, label=""):
    """Steps of runs (seeds,) as dots at height y, and their geometric mean as a bar."""
    axes.plot(steps, np.full(len(steps), y), "o", color=COLORS[i], alpha=0.5, label=label)
    axes.plot(np.exp(np.log(steps).mean()), y, "|", color=COLORS[i], markersize=18, mew=4)
    ticks = (100, 200, 400, 800, 1600, 3000)
    axes.set(xscale="log", xlabel="steps to solve")
    axes.set_xticks(ticks, ticks, minor=False)
    axes.minorticks_off()
    axes.yaxis.set_inverted(True)


def gains(axes, values):
    """The mean with its 95% confidence interval, a dot per seed beside it: name -> (seeds,)."""
    for x, own in enumerate(values.values()):
        color, marker = COLORS[x % len(COLORS)], MARKERS[x % len(MARKERS)]
        axes.errorbar(x, own.mean(), interval(own), color=color, marker=marker, capsize=6, ms=10)
        axes.plot(np.full(len(own), x + 0.2), own, "o", color="black", markersize=5)
    axes.axhline(0, color="0.4", linestyle=":", lw=2)
    axes.set_xticks(range(len(values)), values, fontsize=14)
    axes.set_xlim(-0.5, len(values) - 0.2)


def chance(axes):
    axes.axhline(10, color="0.4", linestyle=":", lw=2)
    axes.text(0.01, 4, "chance", transform=axes.get_yaxis_transform(), color="0.3")
