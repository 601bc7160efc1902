"""What a training step costs as T, M, width and layers grow: time, memory, counted operations.

    python -m experiments.cost

A full attention forms (M+T)² weights, the bottleneck M·(M+2T): a line in T. The seeds repeat the
timing. Let nothing else run beside it; it uses one process unless --jobs says more.
"""

import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
from matplotlib.ticker import LogLocator

import memt

from . import common

VARIANTS = ("transformer", "memtransformer", "membottleneck")
BASE = {"T": 1024, "memory": 8, "width": 32, "layers": 2}
SWEEPS = {
    "T": (64, 128, 256, 512, 1024, 2048, 4096),
    "memory": (4, 16, 64, 256),
    "width": (16, 32, 64, 128, 256),
    "layers": (1, 2, 4, 8),
}
QUICK = {name: values[:3] for name, values in SWEEPS.items()}


def config_of(job: common.Job) -> memt.Config:
    """10 symbols, 2 heads, hidden 4 C, one sequence per step."""
    memory = 0 if job["variant"] == "transformer" else job["memory"]
    C = job["width"]
    return memt.Config(10, C, 2, 4 * C, job["layers"], memory, job["variant"])


def jobs(args) -> list[common.Job]:
    """Every value of every sweep, the others at BASE."""
    sweeps = QUICK if args.quick else SWEEPS
    return [
        {"sweep": sweep, "variant": variant, **BASE, sweep: value, "seed": seed}
        for seed in args.seeds for sweep, values in sweeps.items() for value in values
        for variant in VARIANTS if (sweep, variant) != ("memory", "transformer")
    ]  # fmt: skip


def run(job: common.Job) -> common.Job:
    """Median milliseconds of a step, peak megabytes of its arrays, millions of operations."""
    config, T, rng = config_of(job), job["T"], np.random.default_rng(job["seed"])
    params = memt.init_params(config, rng)
    tokens, read = rng.integers(config.symbols + 1, size=(1, T)), slice(T // 2, T)
    targets = rng.integers(config.symbols, size=(1, T - T // 2))

    def step():
        logits, cache = memt.model_forward(params, tokens, config, read)
        _, loss_cache = memt.cross_entropy_forward(logits, targets)
        memt.model_backward(memt.cross_entropy_backward(1.0, loss_cache), cache)

    times = []
    while len(times) < 5 or sum(times) < 0.3:
        began = time.perf_counter()
        step()
        times.append(time.perf_counter() - began)
    tracemalloc.start()
    step()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    found = {"ms": 1e3 * float(np.median(times)), "MB": peak / 1e6}
    return found | {"mflop": 3 * common.flops(config, T, T - T // 2) / 1e6}


def curve(rows, sweep: str, variant: str, column: str) -> tuple[np.ndarray, np.ndarray]:
    """x (n,), values (seeds, n) of one line."""
    own = [row for row in rows if (row["sweep"], row["variant"]) == (sweep, variant)]
    points = sorted(common.group(own, sweep).items(), key=lambda point: int(point[0][0]))
    seeds = min(len(rows) for _, rows in points)
    values = np.array([common.numbers(rows, column)[:seeds] for _, rows in points])
    return np.array([int(x) for (x,), _ in points]), values.T


def slope(x: np.ndarray, values: np.ndarray, least: int = 256) -> float:
    """Of log(mean) against log(x), from x = `least` on."""
    kept = x >= least if (x >= least).sum() > 1 else x > 0
    return float(np.polyfit(np.log(x[kept]), np.log(values.mean(axis=0)[kept]), 1)[0])


def misfit(x: np.ndarray, values: np.ndarray, least: int = 256) -> float:
    """Largest relative distance of the mean from the best line a + b x, from x = `least` on."""
    kept = x >= least if (x >= least).sum() > 1 else x > 0
    x, y = x[kept], values.mean(axis=0)[kept]
    b, a = np.polyfit(x, y, 1, w=1 / y)
    return float(abs((a + b * x) / y - 1).max())


def draw(rows, out: Path) -> None:
    """Time and memory against T above; time against the rest below, counted operations dotted."""
    slopes = {v: slope(*curve(rows, "T", v, "ms")) for v in VARIANTS}
    figure, grid = common.slide(
        f"Twice the length costs a MemBottleneck {2 ** slopes['membottleneck']:.1f} times\n"
        f"the time, a Transformer {2 ** slopes['transformer']:.1f} times (T from 256 on)",
        f"one sequence per step, width 32, M = 8, 2 layers, T = 1024 where not swept; "
        f"{len(common.group(rows, 'seed'))} repeats;\nthin dotted: counted operations, "
        "scaled to the last point",
        columns=3, rows=2,
    )  # fmt: skip
    panels = [("T", "ms"), ("T", "MB"), ("T", "mflop"), ("memory", "ms"), ("width", "ms"),
              ("layers", "ms")]  # fmt: skip
    for axes, (sweep, column) in zip(grid.flat, panels, strict=True):
        draw_panel(axes, rows, sweep, column)
    lines, names = grid[0, 0].get_legend_handles_labels()
    grid[1, 0].legend(lines, names, fontsize=12, loc=(0.03, 0.25), frameon=False)
    common.save(figure, out / "cost.png")
    fit = misfit(*curve(rows, "T", "membottleneck", "MB"))
    print("slope of time against T:", {v: round(x, 2) for v, x in slopes.items()})
    print(f"memory of membottleneck: within {fit:.1%} of a line in T")


def draw_panel(axes, rows, sweep: str, column: str) -> None:
    """One sweep, a line for each variant."""
    for variant in VARIANTS:
        if (sweep, variant) == ("memory", "transformer"):
            continue
        x, values = curve(rows, sweep, variant, column)
        color = common.VARIANT_COLORS[variant]
        axes.plot(x, values.mean(axis=0), color=color, marker="o", markersize=6, label=variant)
        if column == "ms":
            _, counted = curve(rows, sweep, variant, "mflop")
            scaled = counted[0] / counted[0, -1] * values.mean(axis=0)[-1]
            axes.plot(x, scaled, color=color, linestyle=":", lw=1.5)
    names = {"ms": "ms per step", "MB": "peak MB", "mflop": "counted Mflop"}
    axes.set(xscale="log", yscale="log", xlabel={"memory": "M"}.get(sweep, sweep))
    axes.set_ylabel(names[column], fontsize=14)
    axes.set_xticks(x[:: 2 if len(x) > 5 else 1], map(str, x[:: 2 if len(x) > 5 else 1]))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.tick_params(labelsize=13)


if __name__ == "__main__":
    parser = common.make_parser(__doc__)
    parser.set_defaults(jobs=1)
    sys.exit(common.main("cost", parser, jobs, run, draw))
