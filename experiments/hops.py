"""How many layers does a path through memory need? Masked against membottleneck, 1 to 3 layers.

Ours. In the masked variant, a sequence row reads the memory as it was before the layer: a write
takes one layer and a read the next. MemBottleneck reads the memory that the layer has just written.
"""

import numpy as np

import memt
import train_toy
from experiments import common

LAYERS, VARIANTS = (1, 2, 3), ("masked", "membottleneck")
FOUND = ("reach", *common.SCORES)


def jobs(args):
    steps = 30 if args.quick else 1500
    return [
        common.toy_job(v, layers=L, memory=16, steps=steps, seed=seed)
        for seed in args.seeds
        for L in LAYERS
        for v in VARIANTS
    ]


def reach(s, params):
    """Share of pairs (input position, slot) in which changing the input changes the logits.

    0: no input reaches any slot; 1: each reaches all. One random sequence; each symbol is changed.
    """
    tokens, _, at, _ = train_toy.make_batch(s, 1, train_toy.TEST)
    n = np.arange(s.length)
    both = np.repeat(tokens, 2 * s.length, axis=0)
    both[n, n] = (both[n, n] + 1) % s.config.symbols
    logits, _ = memt.model_forward(params, both, s.config, at)
    after, before = np.split(logits, 2)
    return float((abs(after - before).max(axis=2) > 1e-5).mean())


def run(job):
    s, state = common.train(job)
    return {"reach": reach(s, state.params), **common.scores(s, state)}


def finding(rows):
    one, two = (100 * common.by_seed(rows, "symbol", variant="masked", layers=L) for L in (1, 2))
    bottleneck = 100 * common.by_seed(rows, "symbol", variant="membottleneck", layers=1)
    claim = "In the masked variant, writing takes one layer, reading the next; "
    claim += "MemBottleneck does both in one layer"
    measured = f"Symbol accuracy with one layer: masked {common.spread(one)}%, "
    measured += f"membottleneck {bottleneck.mean():.1f}%"
    verdict = common.shown(common.clear(bottleneck - one) > 0 and common.clear(two - one) > 0)
    return [(claim, "order of write and read: paper; mask: ours", measured, verdict)]


def draw(rows, out):
    """A line for each variant; at the first point, its reach."""
    note = f"reverse, M = 16, at most {rows[0]['steps']} steps; reach, with one layer: share of "
    note += "(input, slot) pairs in which changing the input changes the output"
    figure, ((axes,),) = common.slide(finding(rows), note, rows)
    for i, variant in enumerate(VARIANTS):
        own = {"variant": variant}
        values = [100 * common.by_seed(rows, "symbol", layers=L, **own) for L in LAYERS]
        style = {"color": common.VARIANT_COLORS[variant], "lw": 10 - 5 * i}
        common.line(axes, LAYERS, np.transpose(values), i, **style, markersize=20 - 6 * i)
        reach = 100 * common.by_seed(rows, "reach", layers=1, **own).mean()
        text, place = f"{variant}: reach {reach:.0f}%", (36, 8 - 36 * i)
        axes.annotate(text, (1, values[0].mean()), place, textcoords="offset points")
    common.chance(axes)
    axes.set(xticks=LAYERS, xlabel="layers", ylabel="symbol accuracy (%)")
    axes.set(ylim=(0, 108), xlim=(0.8, 3.2))
    common.save(figure, out / "hops.png")


if __name__ == "__main__":
    common.main("hops")
