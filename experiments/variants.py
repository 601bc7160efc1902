"""Do all variants learn, and how fast? Steps to 99% exact match on copy and reverse.

The architectures are the paper's (masked: ours). A plain transformer solves both tasks, so this
does not show that memory helps: it shows how many steps a path through memory costs.
"""

import numpy as np

import memt
import train_toy
from experiments import common

# the masked variant reads one layer after it writes, so it gets one more layer, and more memory
OWN = {"masked": {"layers": 3, "memory": 16}}
GOAL = 0.99  # exact match
FOUND = ("goal", "curve", *common.SCORES)


def jobs(args):
    steps = 50 if args.quick else 3000
    return [
        common.toy_job(v, task=task, steps=steps, seed=seed, **OWN.get(v, {}))
        for seed in args.seeds
        for task in ("copy", "reverse")
        for v in memt.VARIANTS
    ]


def run(job):
    """Train and test; `goal` is the first step validated with exact match GOAL, empty if none.

    `curve`: the exact match of every validation, one per train_toy.VALIDATE_EVERY steps.
    """
    s, state = common.train(job)
    goal = next((step for step, _, _, exact in state.log if exact >= GOAL), None)
    return {"goal": goal, "curve": [row[3] for row in state.log], **common.scores(s, state)}


def finding(rows):
    reached = [row | {"goal": row["goal"] or row["steps"]} for row in rows]
    slow, fast = (
        common.by_seed(reached, "goal", variant=v) for v in ("membottleneck", "memtransformer")
    )
    learned = all(row["goal"] for row in rows)
    claim = "All variants learn copy and reverse; a bottleneck needs more steps"
    measured = f"MemBottleneck {common.spread(slow, 0)} steps, MemTransformer {fast.mean():.0f}"
    verdict = common.shown(learned and common.clear(slow - fast) > 0)
    return [(claim, "variants: paper (masked: ours); steps: ours", measured, verdict)]


def curves(rows):
    """Exact match in %, (rows, validations); a run that has stopped keeps its last value."""
    found = [np.array(row["curve"].split(), float) for row in rows]
    longest = max(map(len, found))
    return 100 * np.array([np.pad(c, (0, longest - len(c)), "edge") for c in found])


def goal_text(rows):
    """Mean number of steps to GOAL, and how many runs reached it if not all did."""
    goals = [int(row["goal"]) for row in rows if row["goal"]]
    mean = f"{np.mean(goals):.0f}" if goals else "never"
    return mean if len(goals) == len(rows) else f"{mean} ({len(goals)} of {len(rows)})"


def draw(rows, out):
    """A panel per task."""
    note = "width 32, M = 10 (masked 16), 2 layers (masked 3); "
    note += f"numbers: mean steps to {100 * GOAL:.0f}% exact match"
    figure, grid = common.slide(finding(rows), note, rows, columns=2, sharey=True)
    for axes, ((task,), of_task) in zip(grid[0], common.group(rows, "task").items(), strict=True):
        for i, ((v,), own) in enumerate(common.group(of_task, "variant").items()):
            values = curves(own)
            step = train_toy.VALIDATE_EVERY * np.arange(1, values.shape[1] + 1)
            style = {"label": f"{v}: {goal_text(own)}", "color": common.VARIANT_COLORS[v]}
            common.line(axes, step, values, i, markersize=8, markevery=(1 + i, 6), **style)
        axes.set(xlabel="training step", ylim=(0, 103), title=task)
        axes.legend(loc="lower right", fontsize=14)
    grid[0, 0].set_ylabel("exact match (%)")
    common.save(figure, out / "variants.png")


if __name__ == "__main__":
    common.main("variants")
