"""How much can pass through M memory vectors? Accuracy within a budget, against M and length.

Ours. To reverse n symbols, n·log2(symbols) bits must pass through memory. A run stops early only
when it has solved its task; its accuracy says what training found, not what is possible.
"""

import math

import numpy as np

from experiments import common

MEMORY, LENGTHS = (1, 2, 4, 8, 16), (4, 8, 16)
LAYERS = {"membottleneck": 2, "masked": 3}
FOUND = common.SCORES


def jobs(args):
    steps, memory, lengths = (30, (1, 4), (4,)) if args.quick else (1000, MEMORY, LENGTHS)
    return [
        common.toy_job(variant, layers=layers, memory=M, length=n, steps=steps, seed=seed)
        for seed in args.seeds
        for variant, layers in LAYERS.items()
        for n in lengths
        for M in memory
    ]


def run(job):
    return common.scores(*common.train(job))


def levels(rows, n, variant):
    """M -> symbol accuracy in % for n symbols, one per seed."""
    own = {"length": n, "variant": variant}
    tried = sorted({int(row["memory"]) for row in rows})
    return {M: 100 * common.by_seed(rows, "symbol", memory=M, **own) for M in tried}


def finding(rows):
    n = max(int(row["length"]) for row in rows)
    found = [list(levels(rows, n, variant).items()) for variant in LAYERS]
    (least, few), *_, (most, many) = found[0]
    claim = "In 1,000 steps, a bottleneck does not learn to pass 16 symbols through one vector"
    measured = f"{n} symbols: symbol accuracy {common.spread(few)}% with M = {least}, "
    measured += f"{many.mean():.1f}% with M = {most}"
    lost = all(common.clear(level[-1][1] - level[0][1]) > 0 for level in found)
    return [(claim, "ours", measured, common.shown(lost))]


def draw(rows, out):
    """A panel per variant, a line per n."""
    note = (
        f"reverse, width 32, at most {rows[0]['steps']} steps; bits: n·log2(10), all through memory"
    )
    figure, grid = common.slide(finding(rows), note, rows, columns=2, sharey=True)
    for axes, (variant, layers) in zip(grid[0], LAYERS.items(), strict=True):
        for i, n in enumerate(sorted({int(row["length"]) for row in rows})):
            level, bits = levels(rows, n, variant), n * math.log2(10)
            values = np.array([*level.values()]).T
            common.line(axes, list(level), values, i, label=f"n = {n}: {bits:.0f} bits")
        common.chance(axes)
        axes.set_xscale("log", base=2)
        axes.set(xticks=MEMORY, xticklabels=MEMORY, xlabel="memory tokens M", ylim=(0, 103))
        axes.set_title(f"{variant}, {layers} layers")
    grid[0, 0].set_ylabel("symbol accuracy (%)")
    grid[0, 1].legend(loc="lower right")
    common.save(figure, out / "capacity.png")


if __name__ == "__main__":
    common.main("capacity")
