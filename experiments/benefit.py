"""When does memory make a model better? experiments.counting has the case where it is needed.

Ours. With local attention (`window`), memory is the only global path: reverse, for several windows
and M, against a transformer. With global attention, a search for a gain: six tasks in which every
output needs the whole sequence, against a transformer with as much compute (the narrowest hidden
layer that gives at least as much). Rows of the search have no window.
"""

import itertools

import numpy as np

import train_toy
from experiments import common

S = 10  # symbols, and the length
WINDOWS, MEMORY = (1, 3, 5), (0, 1, 4, 10)
FOUND = ("flops", *common.SCORES)


def occurrences(x):
    """How often each symbol occurs: x (B, n) -> (B, S)."""
    return (x[:, :, None] == np.arange(S)).sum(axis=1)


TASKS = {  # "add …": to the slot's own symbol, modulo S
    "sort": lambda x: np.sort(x, axis=1),
    "rank": lambda x: (x[:, None, :] < x[:, :, None]).sum(axis=2),  # how many are smaller
    "repeats": lambda x: np.take_along_axis(occurrences(x), x, axis=1) - 1,  # how many equal others
    "add mode": lambda x: (x + occurrences(x).argmax(axis=1)[:, None]) % S,  # the most frequent one
    "add kinds": lambda x: (x + (occurrences(x) > 0).sum(axis=1)[:, None]) % S,  # count of distinct
    "add sum": lambda x: (x + x.sum(axis=1)[:, None]) % S,
}
train_toy.TASKS.update(TASKS)
HIDDEN = {"memtransformer": 64, "transformer": 122}  # of the search, at width 16


def jobs(args):
    """Windows × M on reverse, then tasks × models."""
    steps, found = 30 if args.quick else 1000, []
    for seed in args.seeds:
        for window, M in itertools.product(WINDOWS, MEMORY[::3] if args.quick else MEMORY):
            own = {"memory": M, "window": window, "steps": steps, "seed": seed}
            found.append(common.toy_job("memtransformer" if M else "transformer", **own))
        for task, (variant, hidden) in itertools.product(TASKS, HIDDEN.items()):
            own = {"task": task, "width": 16, "hidden": hidden, "steps": steps, "seed": seed}
            found.append(common.toy_job(variant, **own))
    return found


def run(job):
    """Train and test; `flops`: operations of a forward pass."""
    s, state = common.train(job)
    flops = common.flops(s.config, 2 * s.length, s.length)
    return {"flops": flops} | common.scores(s, state)


def level(rows, **what):
    """Symbol accuracy in %, one per seed."""
    return 100 * common.by_seed(rows, "symbol", **what)


def gains(rows):
    """Windows: M = 10 minus M = 0; tasks of the search: with memory minus without. In points."""
    local = {
        f"window {w}": level(rows, window=w, memory=10) - level(rows, window=w, memory=0)
        for w in WINDOWS
    }
    search = {
        task: np.subtract(*(level(rows, task=task, window=None, variant=v) for v in HIDDEN))
        for task in TASKS
    }
    return local, search


def finding(rows):
    claims = (
        ("On reverse with two layers, memory helps where other attention is local",
         "ours", "M = 0"),
        ("Memory also helps with global attention, on six tasks with blank slots",
         "paper, for translation and language models; tasks: ours", "M = 0, as much compute"),
    )  # fmt: skip
    found = []
    for (claim, who, plain), gain in zip(claims, gains(rows), strict=True):
        measured, verdict = common.least(gain)
        found.append((claim, who, f"M = 10 minus {plain}: {measured}", verdict))
    return found


def details(rows):
    """The search, as a Markdown table for experiments/README.md."""
    table = [("accuracy (%)", "M = 10", "M = 0, as much compute", "gain")]
    for task, gain in gains(rows)[1].items():
        levels = (level(rows, task=task, window=None, variant=variant) for variant in HIDDEN)
        table.append((task, *map(common.spread, (*levels, gain))))
    return common.markdown(*table)


def in_reach(window, layers):
    """Symbol accuracy in % of a model that guesses what its windows do not reach.

    Slot j outputs the symbol 2j + 1 positions to its left; a layer carries it `window` positions.
    """
    seen = min((window * layers + 1) // 2, S)
    return 100 * (seen + (S - seen) / S) / S


def draw(rows, out):
    """Accuracy against M, a line per window."""
    note = f"reverse, two layers, at most {rows[0]['steps']} steps; black: accuracy if symbols out "
    note += "of reach are guessed; window: how far a position attends, to either side"
    figure, ((axes,),) = common.slide(finding(rows)[:1], note, rows)
    for i, window in enumerate(WINDOWS):
        memory = [M for M in MEMORY if len(level(rows, window=window, memory=M))]
        values = np.array([level(rows, window=window, memory=M) for M in memory]).T
        common.line(axes, range(len(memory)), values, i, label=f"window {window}")
        axes.set_xticks(range(len(memory)), memory)
    reached = [in_reach(window, 2) for window in WINDOWS]
    axes.hlines(reached, -0.2, 0.2, color="black", lw=2, zorder=3, label="in reach without memory")
    axes.set(ylim=(0, 103), xlabel="memory tokens M", ylabel="symbol accuracy (%)")
    axes.legend(loc="lower right", fontsize=16)
    common.save(figure, out / "benefit.png")


if __name__ == "__main__":
    common.main("benefit")
