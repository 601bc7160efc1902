"""Do all variants learn, and how fast? Steps to 99% exact match on copy and reverse.

The architectures are the paper's (masked: ours). A plain transformer solves both tasks, so this
does not show that memory helps: it shows how many steps a path through memory costs.
"""

import numpy as np

import memt
from experiments import common

# the masked variant reads one layer after it writes, so it gets one more layer, and more memory
OWN = {"masked": {"layers": 3, "memory": 16}}
GOAL = 0.99  # exact match
FOUND = ("goal", *common.SCORES)


def jobs(args):
    steps = 50 if args.quick else 3000
    return [
        common.toy_job(v, task=task, steps=steps, seed=seed, **OWN.get(v, {}))
        for seed in args.seeds
        for task in ("copy", "reverse")
        for v in memt.VARIANTS
    ]


def run(job):
    """Train and test; `goal` is the first step validated with exact match GOAL, empty if none."""
    s, state = common.train(job)
    goal = next((step for step, _, _, exact in state.log if exact >= GOAL), None)
    return {"goal": goal, **common.scores(s, state)}


def reached(rows):
    """The same rows; for a run that did not reach GOAL, with all its steps."""
    return [row | {"goal": row["goal"] or row["steps"]} for row in rows]


def finding(rows):
    slow, fast = (
        common.by_seed(reached(rows), "goal", variant=v)
        for v in ("membottleneck", "memtransformer")
    )
    learned = all(row["goal"] for row in rows)
    claim = "All variants learn copy and reverse; a bottleneck needs more steps"
    measured = f"MemBottleneck {common.spread(slow, 0)} steps, MemTransformer {fast.mean():.0f}"
    verdict = common.shown(learned and common.clear(slow - fast) > 0)
    return [(claim, "variants: paper (masked: ours); steps: ours", measured, verdict)]


def draw(rows, out):
    """A panel per task: a bar for the mean of a variant, a dot for each seed."""
    note = "width 32, M = 10 (masked 16), 2 layers (masked 3); a dot for each seed"
    figure, grid = common.slide(finding(rows), note, rows, columns=2, sharex=True, sharey=True)
    for axes, task in zip(grid[0], ("copy", "reverse"), strict=True):
        for y, v in enumerate(memt.VARIANTS):
            steps = common.by_seed(reached(rows), "goal", task=task, variant=v)
            axes.barh(y, steps.mean(), 0.7, color=common.VARIANT_COLORS[v], alpha=0.6)
            axes.plot(steps, y + np.linspace(-0.2, 0.2, len(steps)), "ko", markersize=7)
        axes.set(xlabel=f"steps to {100 * GOAL:.0f}% exact match", title=task)
        axes.set_yticks(range(len(memt.VARIANTS)), memt.VARIANTS)
    grid[0, 0].yaxis.set_inverted(True)
    common.save(figure, out / "variants.png")


if __name__ == "__main__":
    common.main("variants")
