"""The table of claims, written from the CSVs: `python -m experiments.claims` prints it.

"± x" is the standard deviation over seeds.
"""

import sys
from pathlib import Path

from experiments import benefit, capacity, common, lesions, text, variants

Rows = list[common.Row]
HERE = Path(__file__).parent.parent / "figures"


def percent(values, digits: int = 0) -> str:
    """Mean and deviation of accuracies 0 to 1, in %."""
    deviation = values.std(ddof=1)
    return f"{100 * values.mean():.{digits}f} ± {100 * deviation:.{digits}f} %"


def pick(rows: Rows, **what: str) -> Rows:
    """The rows with these cells."""
    return [row for row in rows if all(row[name] == value for name, value in what.items())]


def symbols(rows: Rows, **what: str) -> str:
    """Symbol accuracy of some rows."""
    return percent(common.numbers(pick(rows, **what), "symbol"), 1)


def measured_attention(rows: Rows) -> str:
    """Heads and roads with the shape of the answer."""
    parts = []
    for task, shape in (("reverse", "anti-diagonal"), ("copy", "sharp diagonal")):
        own = pick(rows, variant="membottleneck", task=task)
        heads, total = (int(common.numbers(own, n).sum()) for n in ("with_shape", "heads_total"))
        roads = sum(row["road_shape"] == shape for row in own)
        right, beside = (common.numbers(own, name) for name in ("road", "beside"))
        parts.append(
            f"{task}: {shape} in {heads} of {total} heads, in the better road of {roads} of "
            f"{len(own)} models; that road to the right symbol {right.mean():.2f} ± "
            f"{right.std(ddof=1):.2f}, to another {beside.mean():.3f}"
        )
    return "membottleneck: " + "; ".join(parts)


def goal(rows: Rows) -> str:
    """Mean and deviation of the steps to the goal, and how many runs got there if not all."""
    steps = common.numbers([row for row in rows if row["goal"]], "goal")
    if len(steps) < 2:
        return f"{len(steps)} of {len(rows)} runs"
    text = f"{steps.mean():.0f} ± {steps.std(ddof=1):.0f}"
    return text if len(steps) == len(rows) else f"{text} ({len(steps)} of {len(rows)} runs)"


def measured_variants(rows: Rows) -> str:
    """Steps to the goal on both tasks."""
    parts = []
    for v in reversed(common.VARIANT_COLORS):
        steps = [goal(pick(rows, variant=v, task=t)) for t in ("copy", "reverse")]
        parts.append(f"{v} " + " / ".join(steps))
    return f"steps to {100 * variants.GOAL:.0f} % exact, copy / reverse: " + "; ".join(parts)


def measured_capacity(rows: Rows) -> str:
    """Accuracy of the longest sequences by M."""
    most = max((row["length"] for row in rows), key=int)
    parts = []
    for v in capacity.LAYERS:
        levels = [symbols(rows, variant=v, length=most, memory=str(M)) for M in capacity.MEMORY]
        parts.append(f"{v} " + ", ".join(levels))
    memory = ", ".join(map(str, capacity.MEMORY))
    bits = f"n = {most} ({capacity.bits(int(most)):.0f} bits)"
    return f"symbols right, {bits}, M = {memory}: " + "; ".join(parts)


def measured_hops(rows: Rows) -> str:
    """One to three layers, and what one layer reaches."""
    parts = []
    for v in ("masked", "membottleneck"):
        levels = [symbols(rows, variant=v, layers=str(L)) for L in (1, 2, 3)]
        reach = percent(common.numbers(pick(rows, variant=v, layers="1"), "reach"))
        parts.append(f"{v} {', '.join(levels)} (one layer's reach: {reach})")
    return "symbols right with 1, 2, 3 layers: " + "; ".join(parts)


def measured_lesions(rows: Rows) -> str:
    """Accuracy after the worst of every way."""
    parts = []
    for v in lesions.VARIANTS:
        ends = [percent(common.numbers(pick(rows, variant=v), w)[:, -1]) for w in lesions.WAYS]
        parts.append(f"{v} {ends[0]}, {ends[1]}, {ends[2]}, {ends[3]}")
    return (
        "symbols right with 9 of 10 tokens removed at random, with the 9 most used removed, with "
        f"all 10 replaced by noise, by their mean ({lesions.LESIONED_ON} test sequences): "
        + "; ".join(parts)
    )


def measured_local(rows: Rows) -> str:
    """Windows, 2 layers; then 3."""
    rows, parts = [row for row in rows if row["window"]], []
    for (window,), own in common.group(pick(rows, layers="2"), "window").items():
        levels = [symbols(own, memory=M) for M in ("0", "1", "4", "10")]
        parts.append(f"window {window}: {', '.join(levels)}")
    three = [symbols(rows, layers="3", memory=M) for M in ("0", "10")]
    return (
        "symbols right, 2 layers, M = 0, 1, 4, 10: "
        + "; ".join(parts)
        + f"; 3 layers, window 3, M = 0, 10: {', '.join(three)}"
    )


def measured_search(rows: Rows) -> str:
    """Gains against the three baselines, 95 % intervals."""
    found = benefit.gains([row for row in rows if not row["window"]])
    parts = []
    for task in benefit.TASKS:
        own = [found[task, base] for base in benefit.BASELINES]
        parts.append(
            f"{task} " + ", ".join(f"{g.mean():+.2f} ± {common.interval(g):.2f}" for g in own)
        )
    better = sum(gain.mean() > common.interval(gain) for gain in found.values())
    worse = sum(-gain.mean() > common.interval(gain) for gain in found.values())
    return (
        f"{better} of {len(found)} comparisons gain clearly, {worse} lose clearly; percentage "
        "points over a transformer of the same shape, parameters, compute (here ± is the 95 % "
        "interval): " + "; ".join(parts)
    )


def measured_text(rows: Rows) -> str:
    """Bits with and without window at equal steps, and the verdicts."""
    bits, parts = text.by_model(rows), []
    for window, label in (("", "global"), (str(text.RADIUS), f"window {text.RADIUS}")):
        levels = [bits[window, "steps", str(M)] for M in text.MEMORY]
        numbers = ", ".join(f"{x.mean():.3f} ± {x.std(ddof=1):.3f}" for x in levels)
        verdicts = [f"equal {b} {text.verdict(bits, window, b)}" for b in ("steps", "compute")]
        parts.append(f"{label}: {numbers}; best M > 0 against M = 0: {', '.join(verdicts)}")
    memory = ", ".join(map(str, text.MEMORY))
    better, worse, total = text.clear(bits)
    return (
        f"of {total} comparisons with M = 0, {better} clearly better, {worse} clearly worse, the "
        f"other intervals overlap; bits per blanked character, M = {memory}, equal steps: "
        + "; ".join(parts)
    )


CLAIMS = (
    ("attention", "Maps show memory operations; what a model does is in READ·WRITE, not in a head",
     "shapes reported; the road ours", measured_attention),
    ("variants", "All five variants learn; a bottleneck costs steps",
     "wirings paper, masked ours; cost ours", measured_variants),
    ("capacity", "A bottleneck breaks when too much must pass through M vectors", "ours",
     measured_capacity),
    ("hops", "Under the mask a write takes one layer and a read the next, in MemBottleneck both "
     "fit in one", "order paper; mask ours", measured_hops),
    ("lesions", "A model that leans on its memory breaks without it", "ours", measured_lesions),
    ("benefit", "Memory helps where it is the only global road", "ours", measured_local),
    ("benefit", "Memory helps with global attention too", "paper, for translation and language "
     "models; the tasks ours", measured_search),
    ("text", "Memory helps on language", "paper; a rerun reported about 1 % in perplexity",
     measured_text),
)  # fmt: skip


def table(folder: Path = HERE) -> str:
    """The claims as a markdown table. Raises FileNotFoundError if a CSV is missing."""
    lines = ["| claim | who | measured here | command |", "| --- | --- | --- | --- |"]
    for name, claim, who, measured in CLAIMS:
        rows = common.read_rows(folder / f"{name}.csv")
        if not rows:
            raise FileNotFoundError(f"{folder / name}.csv has no rows: run experiments.{name}")
        seeds = len(common.group(rows, "seed"))
        found = f"{measured(rows)}; {seeds} seeds"
        found = found.replace(": ", ":<br>", 1).replace("; ", "<br>")  # lines of a cell
        lines.append(f"| {claim} | {who} | {found} | `python -m experiments.{name}` |")
    return "\n".join(lines)


if __name__ == "__main__":
    try:
        print(table())
    except FileNotFoundError as missing:
        sys.exit(str(missing))
