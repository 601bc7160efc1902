"""How much fits through M memory vectors? Accuracy after a fixed budget, against M and length.

Ours. Reversing n symbols moves n·log2(symbols) bits through the memory. A run stops early only
when it has solved its task; what it reaches says what training found, not what is possible.
"""

import math
import sys

from experiments import common

MEMORY, LENGTHS = (1, 2, 4, 8, 16), (4, 8, 16)
LAYERS = {"membottleneck": 2, "masked": 3}


def jobs(args) -> list[common.Job]:
    """Variants × lengths × M."""
    steps, memory, lengths = (30, (1, 4), (4,)) if args.quick else (1000, MEMORY, LENGTHS)
    return [
        common.toy_job(variant, layers=layers, memory=M, length=n, steps=steps, seed=seed)
        for seed in args.seeds
        for variant, layers in LAYERS.items()
        for n in lengths
        for M in memory
    ]


def run(job: common.Job) -> common.Job:
    """Train and test."""
    return common.scores(*common.train(job))


def bits(n: int) -> float:
    """Bits in n of 10 symbols."""
    return n * math.log2(10)


def level(rows: list[common.Row], variant: str, n: str, M: str) -> float:
    """Mean symbol accuracy in %."""
    own = [r for r in rows if (r["variant"], r["length"], r["memory"]) == (variant, n, M)]
    return 100 * common.numbers(own, "symbol").mean()


def draw(rows: list[common.Row], out) -> None:
    """Accuracy against M, a line for each n."""
    n = max((row["length"] for row in rows), key=int)
    tried = sorted({row["memory"] for row in rows}, key=int)
    some, most = tried[len(tried) // 2], tried[-1]
    low, high = ([level(rows, v, n, M) for v in LAYERS] for M in (some, most))
    figure, grid = common.slide(
        f"{n} symbols through {some} memory vectors: {low[0]:.0f} % right "
        f"(masked {low[1]:.0f} %);\n"
        f"through {most} vectors: {high[0]:.0f} % (masked {high[1]:.0f} %)",
        f"reverse, 10 symbols, width 32, at most {rows[0]['steps']} steps; mean and range of "
        f"{len(common.group(rows, 'seed'))} seeds;\n"
        "bits: n·log2(10), all of which must pass through the M vectors",
        columns=2,
        sharey=True,
    )
    for axes, (variant, layers) in zip(grid[0], LAYERS.items(), strict=True):
        own = [row for row in rows if row["variant"] == variant]
        for i, ((length,), of_length) in enumerate(common.group(own, "length").items()):
            by_memory = common.group(of_length, "memory")
            values = common.np.array([common.numbers(r, "symbol") for r in by_memory.values()])
            label = f"n = {length}: {bits(int(length)):.0f} bits"
            common.line(axes, [int(M) for (M,) in by_memory], 100 * values.T, i, label=label)
        axes.axhline(10, color="0.4", linestyle=":", lw=2)
        axes.text(1, 2, "chance", color="0.3")
        axes.set_xscale("log", base=2)
        axes.set(xticks=MEMORY, xticklabels=MEMORY, xlabel="memory tokens M", ylim=(0, 103))
        axes.set_title(f"{variant}, {layers} layers")
    grid[0, 0].set_ylabel("symbols right (%)")
    grid[0, 1].legend(loc="lower right")
    common.save(figure, out / "capacity.png")


if __name__ == "__main__":
    sys.exit(common.main("capacity", common.make_parser(__doc__), jobs, run, draw))
