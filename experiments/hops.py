"""How many layers does a road through memory need? Masked against membottleneck, 1 to 3 layers.

Ours. Under the bottleneck mask a sequence row reads the memory as it was before the layer: a write
takes one layer and a read the next. MemBottleneck reads the memory that the layer has just written.
"""

import sys

import memt
from experiments import common
from experiments.common import np

LAYERS = (1, 2, 3)


def jobs(args) -> list[common.Job]:
    """Variants × layers."""
    return [
        common.toy_job(v, layers=L, memory=16, steps=30 if args.quick else 1500, seed=seed)
        for seed in args.seeds
        for L in LAYERS
        for v in ("masked", "membottleneck")
    ]


def reach(params: memt.Params, s: common.Settings) -> float:
    """Share of pairs (input position, slot) in which another symbol at the input moves the logits.

    0: no input is seen from any slot; 1: each is seen from all. One random sequence, every change.
    """
    tokens, _ = common.train_toy.make_batch(s, 1, common.train_toy.TEST)
    changed = np.repeat(tokens, s.length, axis=0)
    changed[np.arange(s.length), np.arange(s.length)] += 1
    changed[:, : s.length] %= s.symbols
    both = np.concatenate((np.repeat(tokens, s.length, axis=0), changed))
    logits, _ = memt.model_forward(params, both, s.config(), common.train_toy.slots(s))
    before, after = np.split(logits, 2)
    return float((abs(after - before).max(axis=2) > 1e-5).mean())


def run(job: common.Job) -> common.Job:
    """Train, test, measure the reach."""
    s, state = common.train(job)
    return {"reach": reach(state.params, s), **common.scores(s, state)}


def draw(rows: list[common.Row], out) -> None:
    """A bar for the mean, a dot per seed, the reach inside or above."""
    rows = sorted(rows, key=lambda row: int(row["layers"]))
    groups = common.group(rows, "variant", "layers")
    means = {g: 100 * common.numbers(r, "symbol").mean() for g, r in groups.items()}
    figure, grid = common.slide(
        f"A masked layer reads memory before it is written: one gets\n{means['masked', '1']:.0f} % "
        f"of symbols (chance), one membottleneck layer {means['membottleneck', '1']:.1f} %",
        f"reverse, n = 10, 10 symbols, M = 16, width 32, at most {rows[0]['steps']} steps; "
        f"bars: mean of {len(common.group(rows, 'seed'))} seeds, dots: each seed;\n"
        "reach: pairs of input and slot in which a change of the input moves the slot's output",
    )
    axes = grid[0, 0]
    for (variant, layers), own in groups.items():
        i = ("masked", "membottleneck").index(variant)
        x, values = int(layers) + 0.4 * i - 0.2, 100 * common.numbers(own, "symbol")
        axes.bar(x, values.mean(), 0.38, color=common.VARIANT_COLORS[variant])
        spread = x + np.linspace(-0.08, 0.08, len(values))
        axes.plot(spread, values, "o", color="black", markersize=6, clip_on=False)
        text = f"{variant}\nreach {100 * common.numbers(own, 'reach').mean():.0f} %"
        axes.text(x, 18, text, ha="center", va="bottom", rotation=90, weight="bold")
    axes.axhline(10, color="black", linestyle=":", lw=2)
    axes.text(3.42, 11.5, "chance", ha="left")
    axes.set(xticks=LAYERS, xlabel="layers", ylabel="symbols right (%)")
    axes.set(ylim=(0, 103), xlim=(0.5, 3.7))
    common.save(figure, out / "hops.png")


if __name__ == "__main__":
    sys.exit(common.main("hops", common.make_parser(__doc__), jobs, run, draw))
