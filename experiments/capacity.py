"""How much fits through M memory vectors? Accuracy after a fixed budget, against M and length.

Ours. Reversing n symbols moves n·log2(symbols) bits through the memory. A run stops early only
when it has solved its task; what it reaches says what training found, not what is possible.
"""

import math
import sys

from experiments import common

MEMORY, LENGTHS = (1, 2, 4, 8, 16), (4, 8, 16)
LAYERS = {"membottleneck": 2, "masked": 3}
PASS = 0.95  # symbols right


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


def least_memory(rows: list[common.Row], variant: str, n: str) -> str:
    """The least M whose mean symbol accuracy is at least PASS, as text."""
    own = [row for row in rows if (row["variant"], row["length"]) == (variant, n)]
    by_memory = {int(M): r for (M,), r in common.group(own, "memory").items()}
    enough = [M for M, r in by_memory.items() if common.numbers(r, "symbol").mean() >= PASS]
    return f"M = {min(enough)}" if enough else f"M > {max(by_memory)}"


def draw(rows: list[common.Row], out) -> None:
    """Accuracy against M, a line for each n."""
    most = max((row["length"] for row in rows), key=int)
    needs = {v: least_memory(rows, v, most) for v in LAYERS}
    figure, grid = common.slide(
        f"To get {100 * PASS:.0f} % of {most} symbols right, a membottleneck needs\n"
        f"{needs['membottleneck']} memory tokens, a masked model {needs['masked']}",
        f"reverse, 10 symbols, width 32, at most {rows[0]['steps']} steps; mean and range of "
        f"{len(common.group(rows, 'seed'))} seeds;\n"
        "needs: the least M tried; bits: n·log2(10), which must pass through the M vectors",
        columns=2,
        sharey=True,
    )
    for axes, (variant, layers) in zip(grid[0], LAYERS.items(), strict=True):
        own = [row for row in rows if row["variant"] == variant]
        for i, ((n,), of_length) in enumerate(common.group(own, "length").items()):
            by_memory = sorted(
                common.group(of_length, "memory").items(), key=lambda g: int(g[0][0])
            )
            values = common.np.array([100 * common.numbers(r, "symbol") for _, r in by_memory]).T
            label = f"n = {n}: {bits(int(n)):.0f} bits"
            common.line(axes, [int(M) for (M,), _ in by_memory], values, i, label=label)
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
