"""What a training step costs as the length T grows: time and peak RAM.

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
LENGTHS = (64, 128, 256, 512, 1024, 2048, 4096)
FOUND = ("ms", "MB")


def config_of(job):
    """10 symbols, 2 heads, hidden layer of 4 C."""
    memory = 0 if job["variant"] == "transformer" else job["memory"]
    C = job["width"]
    return memt.Config(10, C, 2, 4 * C, job["layers"], memory, job["variant"])


def jobs(args):
    size = {"memory": 8, "width": 32, "layers": 2}
    return [
        {"variant": variant, "T": T, **size, "seed": seed}
        for seed in args.seeds
        for T in (LENGTHS[:2] if args.quick else LENGTHS)
        for variant in VARIANTS
    ]


def run(job):
    """Median milliseconds of a step, and peak RAM of its arrays in MB."""
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
    return {"ms": 1e3 * float(np.median(times)), "MB": peak / 1e6}


def curve(rows, variant, column):
    """-> T (n,), values (seeds, n)."""
    own = [row for row in rows if row["variant"] == variant]
    x = sorted({int(row["T"]) for row in own})
    return np.array(x), np.array([common.by_seed(own, column, T=T) for T in x]).T


def exponent(rows, variant, column):
    """Exponent of the growth with T ≥ 256 (or the last two): the log-log slope for each seed."""
    x, values = curve(rows, variant, column)
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
    """Time and peak RAM against T; a memtransformer costs what a transformer costs."""
    note = "one sequence per step; width 32, M = 8, 2 layers; both axes logarithmic"
    figure, ((*grid,),) = common.slide(finding(rows), note, rows, columns=2)
    for axes, column, title in zip(grid, FOUND, ("ms per step", "peak RAM (MB)"), strict=True):
        for variant, width in zip(VARIANTS, (9, 3, 4), strict=True):
            x, values = curve(rows, variant, column)
            color = common.VARIANT_COLORS[variant] if width < 9 else "0.75"
            axes.plot(x, values.mean(axis=0), color=color, lw=width, marker="o", label=variant)
        axes.set(xscale="log", yscale="log", xlabel="length T", title=title)
        axes.set_xticks(x, map(str, x), fontsize=14)
        axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
    grid[0].legend(loc="upper left")
    common.save(figure, out / "cost.png")


if __name__ == "__main__":
    one_process = common.make_parser(__doc__)
    one_process.set_defaults(jobs=1)
    common.main("cost", one_process)
