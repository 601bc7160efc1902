"""Does the training recipe serve other tasks, lengths, alphabets and sizes too? Ours.

membottleneck with train_toy's recipes: Muon (the default) and Adam. Muon's schedule was chosen
on the default run and, with other seeds, on sort, reverse 20 symbols and width 16.
"""

import numpy as np

import train_toy
from experiments import common

train_toy.TASKS.update(
    {
        "sort": lambda x: np.sort(x, axis=1),
        "shift": lambda x: np.roll(x, 1, axis=1),
        "deal": lambda x: np.hstack((x[:, ::2], x[:, 1::2])),  # as cards, to two players
    }
)
CASES = {  # name -> what differs from reverse of 10 symbols, width 32
    "sort": {"task": "sort"},
    "shift by one": {"task": "shift"},
    "deal to two": {"task": "deal"},
    "copy 20 symbols": {"task": "copy", "length": 20},
    "reverse 20 symbols": {"length": 20},
    "alphabet of 30": {"symbols": 30},
    "one head": {"heads": 1},
    "width 16": {"width": 16},
}
CHOSEN_ON = ("sort", "reverse 20 symbols", "width 16")  # drawn, but not counted
FOUND = common.SCORES


def jobs(args):
    steps = 30 if args.quick else 3000
    return [
        common.toy_job("membottleneck", **case, optimizer=optimizer, steps=steps, seed=seed)
        for seed in args.seeds
        for case in CASES.values()
        for optimizer in train_toy.OPTIMIZERS
    ]


def run(job):
    return common.scores(*common.train(job))


def of_case(rows, column, optimizer, case):
    """A column of the runs of one case, one number for each seed."""
    job = common.toy_job("membottleneck", **CASES[case])
    cells = {name: job[name] for name in ("task", "length", "symbols", "heads", "width")}
    return common.by_seed(rows, column, optimizer=optimizer, **cells)


def finding(rows):
    cases = [case for case in CASES if case not in CHOSEN_ON]
    muon, adam = (
        np.array([of_case(rows, "taken", optimizer, case) for case in cases])
        for optimizer in train_toy.OPTIMIZERS
    )
    logs, most = np.log(muon / adam).mean(axis=0), int(rows[0]["steps"])
    measured = f"Steps {common.times(logs)} compared with the Adam recipe; "
    measured += f"{(muon < most).sum()} of {muon.size} runs solved, with Adam {(adam < most).sum()}"
    lost = ((muon >= most).sum(axis=1) > (adam >= most).sum(axis=1)).any()
    yes = common.shown(common.clear(logs) < 0 and not lost)
    claim = "The Muon recipe also works on tasks and sizes that it was not chosen on"
    return [(claim, "ours", measured, yes)]


def details(rows):
    """Median steps (unsolved: all) and solved runs: a Markdown table for experiments/README.md."""
    table = [("case", "Muon: steps", "solved", "Adam: steps", "solved")]
    most = int(rows[0]["steps"])
    for case in CASES:
        table.append([case])
        for optimizer in train_toy.OPTIMIZERS:
            taken = of_case(rows, "taken", optimizer, case)
            table[-1] += [f"{np.median(taken):,.0f}", f"{(taken < most).sum()} of {len(taken)}"]
    return common.markdown(*table)


def draw(rows, out):
    """A dot for each run, a bar for the geometric mean."""
    note = f"membottleneck, otherwise as in the default run; at most {rows[0]['steps']} steps; "
    note += "bar: geometric mean; sort, reverse 20, width 16 served to choose the recipe: not "
    note += "counted"
    figure, ((axes,),) = common.slide(finding(rows), note, rows)
    for i, optimizer in enumerate(train_toy.OPTIMIZERS):
        for y, case in enumerate(CASES):
            taken = of_case(rows, "taken", optimizer, case)
            label = "" if y else f"{optimizer.title()} recipe"
            common.dots(axes, y + 0.3 * i - 0.15, taken, i, label)
    axes.set_yticks(range(len(CASES)), CASES)
    axes.legend(loc="center left")
    common.save(figure, out / "recipes.png")


if __name__ == "__main__":
    common.main("recipes")
