"""Do all five wirings learn, and how fast? Steps to 99 % exact on copy and reverse.

[paper] for the wirings. A plain transformer solves both tasks, so none of this shows that memory
helps: it shows what a road through memory costs in steps.
"""

import sys

from experiments import common
from experiments.common import VARIANT_COLORS, np

# the masked variant reads one layer after it writes, so it gets one more layer, and more memory
OWN = {"masked": {"layers": 3, "memory": 16}}
GOAL = 0.99  # exact


def jobs(args) -> list[common.Job]:
    """Variants × tasks."""
    return [
        common.toy_job(v, task=task, steps=50 if args.quick else 3000, seed=seed, **OWN.get(v, {}))
        for seed in args.seeds
        for task in ("copy", "reverse")
        for v in VARIANT_COLORS
    ]


def run(job: common.Job) -> common.Job:
    """Train and test; `goal` is the first validated step with GOAL exact, empty if none.

    `curve` is the exact accuracy of every validation, one per train_toy.VALIDATE_EVERY steps.
    """
    s, state = common.train(job)
    goal = next((step for step, _, _, exact in state.log if exact >= GOAL), None)
    return {"goal": goal, "curve": [row[3] for row in state.log], **common.scores(s, state)}


def mean_curve(rows: list[common.Row]) -> np.ndarray:
    """Exact accuracy in %, (rows, validations); a run that was solved stays where it stopped."""
    curves = [np.array(row["curve"].split(), float) for row in rows]
    longest = max(map(len, curves))
    return 100 * np.array([np.pad(c, (0, longest - len(c)), "edge") for c in curves])


def goal_text(rows: list[common.Row]) -> str:
    """Mean steps to GOAL and how many runs got there."""
    goals = [int(row["goal"]) for row in rows if row["goal"]]
    mean = f"{np.mean(goals):.0f}" if goals else "never"
    return mean if len(goals) == len(rows) else f"{mean} ({len(goals)} of {len(rows)})"


def title_of(rows: list[common.Row]) -> str:
    """The finding, in words that the rows decide."""
    reached = sum(bool(row["goal"]) for row in rows)
    goals = {v: np.mean([int(r["goal"] or r["steps"]) for r in rows if r["variant"] == v])
             for v in VARIANT_COLORS}  # fmt: skip
    factors = sorted(goals[v] / goals["memtransformer"] for v in ("membottleneck", "masked"))
    return (
        f"{reached} of {len(rows)} runs learn it. Memory as the only road takes "
        f"{factors[0]:.1f} to\n"
        f"{factors[1]:.1f} times the steps of memory beside full attention"
    )


def draw(rows: list[common.Row], out) -> None:
    """Learning curves, a panel per task."""
    seeds = len(common.group(rows, "seed"))
    figure, grid = common.slide(
        title_of(rows),
        f"n = 10, 10 symbols, width 32, M = 10 (masked 16), 2 layers (masked 3), batch 32; mean "
        f"and range of {seeds} seeds;\nnumbers: mean steps to {100 * GOAL:.0f} % exact",
        columns=2,
        sharey=True,
    )
    every = common.train_toy.VALIDATE_EVERY
    for axes, ((task,), of_task) in zip(grid[0], common.group(rows, "task").items(), strict=True):
        for i, (v, color) in enumerate(VARIANT_COLORS.items()):
            own = [row for row in of_task if row["variant"] == v]
            values = mean_curve(own)
            step = every * np.arange(1, values.shape[1] + 1)
            low, high = values.min(axis=0), values.max(axis=0)
            axes.fill_between(step, low, high, color=color, alpha=0.2, lw=0)
            axes.plot(step, values.mean(axis=0), color=color, label=f"{v}: {goal_text(own)}",
                      marker=common.MARKERS[i], markersize=8, markevery=(1 + i, 6))  # fmt: skip
        axes.set(xlabel="training step", ylim=(0, 103))
        axes.set_title(task)
        axes.legend(loc="lower right", fontsize=14)
    grid[0, 0].set_ylabel("sequences right (%)")
    common.save(figure, out / "variants.png")


if __name__ == "__main__":
    sys.exit(common.main("variants", common.make_parser(__doc__), jobs, run, draw))
