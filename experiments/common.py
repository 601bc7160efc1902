"""What the experiments share: runs in parallel, a CSV that survives, slides.

An experiment is three functions. `jobs(args)` lists runs as dicts whose values say all that a run
depends on, `seed` among them; `run(job)` does one and returns what it found; `draw(rows, out)`
draws the slide from the CSV. A job is also the key of its row: what the CSV has is not run again.
Machines that took a part of the seeds each join their CSVs by appending rows, without the head.
"""

import argparse
import csv
import io
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path

import matplotlib
import matplotlib.figure
import numpy as np

import memt
import train_toy
from train_toy import Settings, State, say, write_text

Job = dict[str, object]
Row = dict[str, str]

# Okabe and Ito's colours, which the colour-blind tell apart; a marker for each
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
MARKERS = "osD^vPX"
VARIANT_COLORS = {
    "membottleneck": "#d55e00",
    "masked": "#e69f00",
    "memctrl": "#009e73",
    "memtransformer": "#0072b2",
    "transformer": "#000000",
}
# 97.5 % quantiles of Student's t for 1 … 10 degrees of freedom
T_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)

# ---------------------------------------------------------------- one run on a toy task


def toy_job(variant: str, **given) -> Job:
    """Every setting of a toy run; what `given` leaves out is fixed here, not in train_toy."""
    own = {"memory": 0 if variant == "transformer" else 10}
    fixed = {"length": 10, "symbols": 10, "width": 32, "heads": 4, "hidden": 128, "layers": 2}
    return asdict(Settings(variant=variant, **fixed | {"batch": 32, "lr": 4e-3} | own | given))


def train(job: Job) -> tuple[Settings, State]:
    """Train until solved or out of steps."""
    s = Settings(**job)
    state = train_toy.start(s)
    for _ in train_toy.training(s, state):
        pass
    return s, state


def scores(s: Settings, state: State) -> dict[str, object]:
    """Steps taken, and symbol and exact accuracy (0 to 1) on the test stream."""
    batch = train_toy.make_batch(s, train_toy.TEST_ON, train_toy.TEST)
    _, symbol, exact, _ = train_toy.evaluate(state.params, s, *batch)
    return {"taken": state.step, "symbol": symbol, "exact": exact, "tested_on": train_toy.TEST_ON}


def flops(config: memt.Config, T: int, R: int) -> int:
    """Floating-point operations of one sequence going forward, R of its T positions read.

    For transformer, memtransformer and membottleneck. Counts the matrix products, two operations
    per multiply-add: an update of n rows that attend to k rows takes 4nC² for wq and wo, 4kC² for
    wkv, 4nkC for q kᵀ and p v, 4nCF for w1 and w2. A masked weight costs what any other does, as
    it does in memt. Training takes about three times that, for any config.
    """
    C, F, M, L = config.width, config.hidden, config.memory, config.layers
    if config.variant == "membottleneck":
        updates = [(M, M + T)] * L + [(T, M)] * (L - 1) + [(R, M)]
    else:
        updates = [(M + T, M + T)] * (L - 1) + [(R, M + T)]
    return sum(4 * C * (n * (C + k + F) + k * C) for n, k in updates) + 2 * R * C * config.symbols


def size(config: memt.Config) -> int:
    """Number of parameters."""
    return sum(map(math.prod, memt.param_shapes(config).values()))


# ---------------------------------------------------------------- the CSV


def cell(value: object) -> str:
    """A value as the CSV has it: None is empty, a float has six digits, a list has spaces."""
    if isinstance(value, (list, tuple)):
        return " ".join(map(cell, value))
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def key(job: Job, *without: str) -> tuple[str, ...]:
    """What identifies a run."""
    return tuple(cell(value) for name, value in job.items() if name not in without)


def read_rows(path: Path, columns: Iterable[str] = ()) -> list[Row]:
    """Rows of a CSV, none if there is no file. Raises ValueError if one lacks a column or cell."""
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if any(None in row or None in row.values() or not row.keys() >= set(columns) for row in rows):
        raise ValueError(f"{str(path)!r} is not a CSV of this experiment: give another --out")
    return rows


def append_row(path: Path, row: Job) -> None:
    """One more row. The file is written beside and renamed, so a kill never tears it."""
    rows, text = [*read_rows(path, row), {name: cell(x) for name, x in row.items()}], io.StringIO()
    writer = csv.DictWriter(text, row, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def numbers(rows: Iterable[Row], column: str) -> np.ndarray:
    """A column of numbers, (rows,); of lists of equal lengths, (rows, length)."""
    cells = [np.array(row[column].split(), float) for row in rows]
    return np.array([x[0] if len(x) == 1 else x for x in cells])


def group(rows: Iterable[Row], *names: str) -> dict[tuple[str, ...], list[Row]]:
    """Rows by the values of some columns, in order of appearance."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    return groups


def interval(values: np.ndarray) -> float:
    """Half the 95 % interval of the mean by Student's t; NaN for one value.

    More than 11 values take the quantile of 11, which is a little wide.
    """
    n = len(values)
    return T_QUANTILES[min(n, 11) - 2] * values.std(ddof=1) / n**0.5 if n > 1 else float("nan")


def complete(rows: list[Row], jobs: list[Job]) -> list[Row]:
    """The rows of these jobs with any seed, in their order, by seed.

    Without the seeds for which some are missing.
    """
    names = [name for name in jobs[0] if name != "seed"]
    kinds = list(dict.fromkeys(key(job, "seed") for job in jobs))
    known = {(int(r["seed"]), kinds.index(k)): r for r in rows
             if (k := tuple(r[n] for n in names)) in kinds}  # fmt: skip
    rows = [row for _, row in sorted(known.items(), key=lambda item: item[0])]
    return [row for own in group(rows, "seed").values() if len(own) == len(kinds) for row in own]


# ---------------------------------------------------------------- running


def start_worker() -> None:
    """Leave Ctrl-C to the parent, and end when the parent is gone, however it went."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    train_toy.keep_heap()

    def wait():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def timed(run: Callable[[Job], Job], job: Job) -> Job:
    """The row of a job."""
    began = time.perf_counter()
    return job | run(job) | {"seconds": round(time.perf_counter() - began, 2)}


def run_all(path: Path, jobs: list[Job], run: Callable[[Job], Job], processes: int) -> None:
    """Run jobs, append each row as it ends, say how long it will take."""
    began, context = time.perf_counter(), multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, start_worker) as pool:
        futures = [pool.submit(timed, run, job) for job in jobs]
        try:
            for done, future in enumerate(as_completed(futures), 1):
                append_row(path, future.result())
                left = (time.perf_counter() - began) / done * (len(jobs) - done)
                say(f"run {done}/{len(jobs)}  about {left // 60:.0f}:{left % 60:02.0f} left")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            raise


# ---------------------------------------------------------------- command line


def seed_range(text: str) -> range:
    """'0-4' or '3' -> range. Raises ArgumentTypeError."""
    first, _, last = text.partition("-")
    if not first.isdecimal() or not (last or first).isdecimal() or int(last or first) < int(first):
        raise argparse.ArgumentTypeError(f"{text!r}: must be a range such as 0-4")
    return range(int(first), int(last or first) + 1)


def count(text: str) -> int:
    """'2' -> 2. Raises ArgumentTypeError."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a whole number, at least 1")
    return int(text)


def make_parser(doc: str) -> argparse.ArgumentParser:
    """The options that all experiments have."""
    parser = train_toy.Parser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    known = parser.add_argument
    known("--seeds", type=seed_range, help="such as 0-4, the default (--quick: 0-1)")
    known("--jobs", type=count, default=os.cpu_count(), help="processes (one per core)")
    known("--quick", action="store_true", help="tiny budgets: only to see it work")
    known("--out", type=Path, help="where to write (figures; --quick: runs/quick)")
    return parser


def main(name: str, parser: argparse.ArgumentParser, jobs, run, draw) -> int:
    """A whole experiment: 0 done, 1 a run failed, 2 bad arguments, 130 interrupted.

    Draws every seed that has all its rows, so that joined CSVs count in full.
    """
    args = parser.parse_args()
    args.seeds = args.seeds or range(2 if args.quick else 5)
    try:
        wanted = jobs(args)
        out = args.out or Path("runs/quick" if args.quick else "figures")
        path = out / f"{name}.csv"
        out.mkdir(parents=True, exist_ok=True)
        rows = read_rows(path, wanted[0])
    except (ValueError, OSError) as error:
        parser.error(str(error))
    have = {tuple(row[n] for n in wanted[0]) for row in rows}
    try:
        run_all(path, [job for job in wanted if key(job) not in have], run, args.jobs)
        draw(complete(read_rows(path), wanted), out)
    except KeyboardInterrupt:
        say(f"stopped; the same command goes on from {path}")
        return 130
    except (FloatingPointError, OSError, MemoryError, BrokenProcessPool) as error:
        print(f"{parser.prog}: stopped: {error}; {path} is kept", file=sys.stderr)
        return 1
    say(f"files: {path}, {out / name}.png")
    return 0


# ---------------------------------------------------------------- slides


def slide(title: str, note: str, columns: int = 1, rows: int = 1, **options):
    """-> figure, grid (rows, columns) of axes: 1200 x 675 pixels, the finding on top, a note below.

    Options are those of matplotlib's `subplots`.
    """
    matplotlib.rcParams.update({"font.size": 17, "axes.titlesize": 18, "lines.linewidth": 3})
    matplotlib.rcParams.update({"axes.spines.top": False, "axes.spines.right": False})
    figure = matplotlib.figure.Figure(figsize=(12, 6.75), layout="constrained")
    figure.suptitle(title, fontsize=22, weight="bold", x=0.01, ha="left")
    figure.supxlabel(note, fontsize=14, color="0.3", x=0.01, ha="left")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def save(figure, path: Path, dpi: int = 100) -> None:
    """Write a PNG whole."""
    memt.write_whole(path, lambda file: figure.savefig(file, format="png", dpi=dpi))


def line(axes, x, values: np.ndarray, i: int, **options) -> None:
    """Mean over rows of values (rows, x) as a line, all rows' range as a band."""
    axes.fill_between(x, values.min(axis=0), values.max(axis=0), color=COLORS[i], alpha=0.2, lw=0)
    style = {"color": COLORS[i], "marker": MARKERS[i], "markersize": 10} | options
    axes.plot(x, values.mean(axis=0), **style)
