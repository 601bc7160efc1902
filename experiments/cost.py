"""What a training step costs as T, M, width and layers grow: time, peak RAM, operations.

    python -m experiments.cost

Full attention computes (M+T)² weights; the bottleneck computes M·(M+2T), linear in T. Each
seed repeats the timing. Run nothing else at the same time; one process, unless --jobs is given.
"""

import time
import tracemalloc

import numpy as np

import memt
from experiments import common

VARIANTS = ("transformer", "memtransformer", "membottleneck")
BASE = {"T": 1024, "memory": 8, "width": 32, "layers": 2}
SWEEPS = {
    "T": (64, 128, 256, 512, 1024, 2048, 4096),
    "memory": (4, 16, 64, 256),
    "width": (16, 32, 64, 128, 256),
    "layers": (1, 2, 4, 8),
}
PANELS = (("T", "ms"), ("T", "MB"), ("T", "mflop"))
PANELS += (("memory", "ms"), ("width", "ms"), ("layers", "ms"))
NAMES = {"ms": "ms per step", "MB": "peak RAM (MB)", "mflop": "counted Mflop", "memory": "M"}
FOUND = ("ms", "MB", "mflop")


def config_of(job):
    """10 symbols, 2 heads, hidden layer of 4 C."""
    memory = 0 if job["variant"] == "transformer" else job["memory"]
    C = job["width"]
    return memt.Config(10, C, 2, 4 * C, job["layers"], memory, job["variant"])


def jobs(args):
    """Every value of every sweep, with the other settings from BASE."""
    return [
        {"sweep": sweep, "variant": variant, **BASE, sweep: value, "seed": seed}
        for seed in args.seeds
        for sweep, values in SWEEPS.items()
        for value in (values[:2] if args.quick else values)
        for variant in VARIANTS
        if (sweep, variant) != ("memory", "transformer")
    ]


def run(job):
    """Median milliseconds of a step, peak RAM of its arrays in MB, millions of operations."""
    config, T, rng = config_of(job), job["T"], np.random.default_rng(job["seed"])
    params = memt.init_params(config, rng)
    tokens, at = rng.integers(config.symbols + 1, size=(1, T)), slice(T // 2, T)
    targets = rng.integers(config.symbols, size=(1, T - T // 2))
    times = []
    while len(times) < 5 or sum(times) < 0.3:
        began = time.perf_counter()
        memt.loss_and_grads(params, tokens, targets, config, at)
        times.append(time.perf_counter() - began)
    tracemalloc.start()
    memt.loss_and_grads(params, tokens, targets, config, at)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    mflop = 3 * common.flops(config, T, T - T // 2) / 1e6
    return {"ms": 1e3 * float(np.median(times)), "MB": peak / 1e6, "mflop": mflop}


def curve(rows, sweep, variant, column):
    """-> x (n,), values (seeds, n) of one line."""
    own = [row for row in rows if (row["sweep"], row["variant"]) == (sweep, variant)]
    x = sorted({int(row[sweep]) for row in own})
    return np.array(x), np.array([common.by_seed(own, column, **{sweep: v}) for v in x]).T


def exponent(rows, variant, column):
    """Exponent of the growth with T ≥ 256 (or the last two): the log-log slope for each seed."""
    x, values = curve(rows, "T", variant, column)
    large = x >= min(256, x[-2])
    return np.polyfit(np.log(x[large]), np.log(values[:, large]).T, 1)[0]


def finding(rows):
    ours, plain = ([exponent(rows, v, column) for column in ("ms", "MB")]
                   for v in ("membottleneck", "transformer"))  # fmt: skip
    claim = "The cost of a MemBottleneck step grows at most linearly with length T; "
    claim += "that of a Transformer step grows faster"
    measured = f"Time ~ T^({common.spread(ours[0], 2)}) (transformer: T^{plain[0].mean():.2f}); "
    measured += f"peak RAM ~ T^{ours[1].mean():.2f} (transformer: T^{plain[1].mean():.2f}), T ≥ 256"
    linear = [common.clear(b - a) > 0 and a.mean() < 1.1 for a, b in zip(ours, plain, strict=True)]
    return [(claim, "ours", measured, common.shown(all(linear)))]


def draw(rows, out):
    """Above: time, peak RAM and operations against T; below: time against M, width and layers."""
    note = "one sequence per step; width 32, M = 8, 2 layers, T = 1024 unless varied; dotted: "
    note += "counted operations, scaled to the last point"
    figure, grid = common.slide(finding(rows), note, rows, columns=3, lines=2)
    for axes, (sweep, column) in zip(grid.flat, PANELS, strict=True):
        draw_panel(axes, rows, sweep, column)
    legend = grid[0, 0].get_legend_handles_labels()
    grid[1, 0].legend(*legend, fontsize=12, loc=(0.03, 0.25), frameon=False)
    common.save(figure, out / "cost.png")


def draw_panel(axes, rows, sweep, column):
    """One sweep, a line for each variant."""
    from matplotlib.ticker import LogLocator

    for variant in VARIANTS[sweep == "memory" :]:
        x, values = curve(rows, sweep, variant, column)
        mean, color = values.mean(axis=0), common.VARIANT_COLORS[variant]
        axes.plot(x, mean, color=color, marker="o", markersize=6, label=variant)
        if column == "ms":
            counted = curve(rows, sweep, variant, "mflop")[1][0]
            axes.plot(x, counted / counted[-1] * mean[-1], color=color, linestyle=":", lw=1.5)
    axes.set(xscale="log", yscale="log", xlabel=NAMES.get(sweep, sweep))
    axes.set_ylabel(NAMES[column], fontsize=14)
    ticks = x[:: 2 if len(x) > 5 else 1]
    axes.set_xticks(ticks, map(str, ticks))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.tick_params(labelsize=13)


if __name__ == "__main__":
    one_process = common.make_parser(__doc__)
    one_process.set_defaults(jobs=1)
    common.main("cost", one_process)
