"""When does memory make a model better?

Ours, in two parts. With local attention (`window`) memory is the only global road: reverse, by
window and M, against a transformer. Then a search for a gain where attention is global: six tasks
in which every output needs the whole sequence, against a transformer of the same shape, one with
as many parameters and one with as much compute (its hidden layer is widened to the first that has
at least as much). Part one is read from `window`, part two has none.
"""

import itertools
import sys

import memt
from experiments import common
from experiments.common import np

S = 10  # symbols, and the length


def occurrences(x: memt.Array) -> memt.Array:
    """How often each symbol occurs: x (B, n) -> (B, S)."""
    return memt.one_hot(x, S, int).sum(axis=1)


TASKS = {
    "sort": lambda x: np.sort(x, axis=1),
    "rank": lambda x: (x[:, None, :] < x[:, :, None]).sum(axis=2),
    "occurs": lambda x: np.take_along_axis(occurrences(x), x, axis=1) - 1,
    "add mode": lambda x: (x + occurrences(x).argmax(axis=1)[:, None]) % S,
    "add kinds": lambda x: (x + (occurrences(x) > 0).sum(axis=1)[:, None]) % S,
    "add sum": lambda x: (x + x.sum(axis=1)[:, None]) % S,
}
common.train_toy.TASKS.update(TASKS)

BASELINES = {
    "transformer": "shape",
    "parameters": "parameters",
    "compute": "compute",
}


def first_wide(enough) -> int:
    """The least hidden size, from 64, that is enough."""
    return next(F for F in itertools.count(64) if enough(F))


def matched() -> dict[str, dict]:
    """Model -> its settings: the memtransformer and its three baselines, at width 16."""
    config = memt.Config(variant="memtransformer", width=16, hidden=64, memory=10)

    def plain(F):
        return memt.Config(variant="transformer", width=16, hidden=F, memory=0)

    parameters, compute = common.size(config), common.flops(config, 2 * S, S)
    return {
        "memtransformer": {"variant": "memtransformer", "hidden": 64},
        "transformer": {"variant": "transformer", "hidden": 64},
        "parameters": {
            "variant": "transformer",
            "hidden": first_wide(lambda F: common.size(plain(F)) >= parameters),
        },
        "compute": {
            "variant": "transformer",
            "hidden": first_wide(lambda F: common.flops(plain(F), 2 * S, S) >= compute),
        },
    }


def jobs(args) -> list[common.Job]:
    """Windows × M × layers on reverse, then tasks × models."""
    steps, all_jobs = 30 if args.quick else 1000, []
    cells = [(w, M, 2) for w in (1, 3, 5) for M in (0, 1, 4, 10)] + [(3, 0, 3), (3, 10, 3)]
    for seed in args.seeds:
        for window, M, layers in cells[:2] if args.quick else cells:
            variant = "memtransformer" if M else "transformer"
            own = {"memory": M, "window": window, "layers": layers, "steps": steps, "seed": seed}
            all_jobs.append({"model": variant, **common.toy_job(variant, **own)})
        for task, (model, own) in itertools.product(TASKS, matched().items()):
            own = own | {"task": task, "width": 16, "steps": steps, "seed": seed}
            all_jobs.append({"model": model, **common.toy_job(**own)})
    return all_jobs


def run(job: common.Job) -> common.Job:
    """Train and test; also the size and the compute of the model."""
    s, state = common.train({name: value for name, value in job.items() if name != "model"})
    counts = {"parameters": common.size(s.config())}
    counts["flops"] = common.flops(s.config(), 2 * s.length, s.length)
    return counts | common.scores(s, state)


def in_reach(window: int, layers: int) -> float:
    """Symbols right, in %, of a model that guesses what its windows do not reach.

    Slot j answers the symbol 2j + 1 positions to its left; a layer carries it `window` positions.
    """
    seen = min((window * layers + 1) // 2, S)
    return 100 * (seen + (S - seen) / S) / S


def draw_local(axes, rows: list[common.Row]) -> None:
    """Part one: accuracy against M, a line per window, 2 layers."""
    rows = [row for row in rows if row["window"] and row["layers"] == "2"]
    for i, ((window,), own) in enumerate(common.group(rows, "window").items()):
        by_memory = common.group(own, "memory")
        values = np.array([100 * common.numbers(r, "symbol") for r in by_memory.values()]).T
        common.line(axes, range(len(by_memory)), values, i, label=f"window {window}")
    levels = [in_reach(int(window), 2) for (window,) in common.group(rows, "window")]
    axes.hlines(levels, -0.3, 0.3, color="black", lw=2, zorder=3, label="in reach")
    axes.set(xticks=range(len(by_memory)), xticklabels=[M for (M,) in by_memory], ylim=(0, 103))
    axes.set(xlabel="memory tokens M", ylabel="symbols right (%)")
    axes.set_title("reverse, local attention, 2 layers")
    axes.legend(loc="lower right", fontsize=14)


def gains(rows: list[common.Row]) -> dict[tuple[str, str], np.ndarray]:
    """(task, baseline) -> memtransformer minus baseline in percentage points, one per seed."""
    by = {k: r[0] for k, r in common.group(rows, "task", "model", "seed").items()}
    seeds = [seed for (seed,) in common.group(rows, "seed")]

    def symbol(task, model):
        return np.array([100 * float(by[task, model, seed]["symbol"]) for seed in seeds])

    return {
        (task, base): symbol(task, "memtransformer") - symbol(task, base)
        for task, base in itertools.product(TASKS, BASELINES)
    }


def draw_search(axes, rows: list[common.Row]) -> None:
    """Part two: mean gain and its 95 % interval over seeds."""
    rows = [row for row in rows if not row["window"]]
    for (task, base), gain in gains(rows).items():
        i, at = list(BASELINES).index(base), list(TASKS).index(task)
        label = BASELINES[base] if not at else None
        axes.errorbar(gain.mean(), at + 0.22 * (i - 1), xerr=common.interval(gain), lw=3, capsize=5,
                      fmt=common.MARKERS[i], ms=9, color=common.COLORS[i], label=label)  # fmt: skip
    reached = [f"{task}\n({level(rows, task):.0f} %)" for task in TASKS]
    axes.axvline(0, color="0.4", linestyle=":", lw=2)
    axes.set(yticks=range(len(TASKS)), yticklabels=reached, xlabel="gain (percentage points)")
    axes.set_ylim(len(TASKS) + 0.9, -0.5)  # downwards, with room for the legend
    axes.set_title("six global tasks, global attention")
    title = "gain over a transformer with the same …"
    axes.legend(fontsize=14, title=title, title_fontsize=14, ncols=3, loc="lower center")


def level(rows: list[common.Row], task: str) -> float:
    """Mean symbol accuracy of the memtransformer in %."""
    own = [r for r in rows if (r["task"], r["model"]) == (task, "memtransformer")]
    return 100 * common.numbers(own, "symbol").mean()


def local_level(rows: list[common.Row], window: str, memory: str, layers: str = "2") -> float:
    """Mean symbol accuracy in %."""
    own = [r for r in rows if (r["window"], r["memory"], r["layers"]) == (window, memory, layers)]
    return 100 * common.numbers(own, "symbol").mean()


def draw(rows: list[common.Row], out) -> None:
    """Both parts."""
    found = gains([row for row in rows if not row["window"]]).values()
    better = sum(gain.mean() > common.interval(gain) for gain in found)
    worse = sum(-gain.mean() > common.interval(gain) for gain in found)
    window, least, most = "1", "0", max((r["memory"] for r in rows if r["window"]), key=int)
    low, high = (local_level(rows, window, M) for M in (least, most))
    figure, grid = common.slide(
        f"Local (window {window}): {low:.0f} % right, with {most} memory tokens {high:.0f} %.\n"
        f"Global: {better} of {len(found)} comparisons gain clearly, {worse} lose",
        f"n = 10, 10 symbols, {rows[0]['steps']} steps, {len(common.group(rows, 'seed'))} seeds; "
        "left: width 32, mean and range; black: what two windows reach, the\nrest guessed; right: "
        "width 16, M = 10, mean and 95 % interval (clear: without 0); brackets: right with memory",
        columns=2,
        width_ratios=(5, 6),
    )
    draw_local(grid[0, 0], rows)
    draw_search(grid[0, 1], rows)
    common.save(figure, out / "benefit.png")


if __name__ == "__main__":
    sys.exit(common.main("benefit", common.make_parser(__doc__), jobs, run, draw))
