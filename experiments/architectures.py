"""The paper's Figure 1 in our own drawing, and masked (ours): one layer, who attends to whom.

The layers are drawn from the description below; the patterns are computed from memt.
"""

import numpy as np

import memt
from experiments import common

MEM, SEQ, U = "#f5c26b", "#a9d3ee", "white"
M, T = 2, 4  # of the patterns
# name -> x, y, width, text, colour; then arrows: "-" to what is updated, "." to what is attended to
INPUTS = {"m": (0, 0, 0.9, "mem", MEM), "s": (1, 0, 0.9, "seq", SEQ)}
OUTPUTS = {"m'": (0, 3, 0.9, "mem′", MEM), "s'": (1, 3, 0.9, "seq′", SEQ)}
ENDS = INPUTS | OUTPUTS
SHARED = "m-U s-U U-m' U-s'"
LAYERS = {
    "transformer": (
        {"s": ENDS["s"], "U": (1, 1.5, 0.9, "U", U), "s'": ENDS["s'"]},
        "s-U U-s'",
    ),
    "memtransformer": (ENDS | {"U": (0.5, 1.5, 1.9, "U", U)}, SHARED),
    "memctrl": (
        ENDS | {"M": (0, 1.5, 0.9, "U", U), "S": (1, 1.5, 0.9, "U", U)},
        "m-M s-S m.S s.M M-m' S-s'",
    ),
    "membottleneck": (
        ENDS | {"M": (0, 1, 0.9, "1: U", U), "S": (1, 2, 0.9, "2: U", U)},
        "m-M s.M M-m' M.S s-S S-s'",
    ),
    "masked": (ENDS | {"U": (0.5, 1.5, 1.9, "U + mask", U)}, SHARED),
}


def pattern(variant):
    """Of one layer, (M+T, M+T): 1 where a row (target) attends to a column (source), else 0.

    2 where it attends to memory that this layer has already updated: a change of one input then
    moves outputs that do not attend to it.
    """
    memory = 0 if variant == "transformer" else M
    config = memt.Config(symbols=T, width=8, heads=1, layers=1, memory=memory, variant=variant)
    params = memt.init_params(config, np.random.default_rng(0), np.float64)
    tokens = np.tile(np.arange(T), (T + 1, 1))  # in row j, token j is changed
    tokens[np.arange(T), np.arange(T)] = T
    logits, cache = memt.model_forward(params, tokens, config)
    attends = memt.attention_maps(cache)[0, 0, 0] > 0
    moved = (abs(logits[:-1] - logits[-1]) > 1e-9).any(axis=2).T  # outputs by inputs
    found = attends.astype(int)
    if (moved & ~attends[memory:, memory:] & ~np.eye(T, dtype=bool)).any():
        found[memory:, :memory] *= 2
    return found


def draw_layer(axes, boxes, arrows):
    """Information flows upwards."""
    from matplotlib.patches import FancyBboxPatch

    for x, y, width, text, color in boxes.values():
        place, style = (x - width / 2 + 0.1, y - 0.15), "round,pad=0.1"
        look = {"facecolor": color, "edgecolor": "black", "lw": 2, "clip_on": False}
        axes.add_patch(FancyBboxPatch(place, width - 0.2, 0.3, style, **look))
        axes.text(x, y, text, ha="center", va="center_baseline", fontsize=18)
    for start, kind, end in (arrow.partition("-" if "-" in arrow else ".") for arrow in arrows):
        (x0, y0, w0, *_), (x1, y1, w1, *_) = boxes[start], boxes[end]
        shift = np.clip(x1 - x0, 0.45 - w0 / 2, w0 / 2 - 0.45)  # a wide box: as vertical as can be
        x0, x1 = x0 + shift, x1 + np.clip(x0 - x1, 0.45 - w1 / 2, w1 / 2 - 0.45)
        look = {"arrowstyle": "-|>", "lw": 3, "color": "black", "mutation_scale": 22}
        if kind == ".":
            look |= {"linestyle": (0, (2, 1.5)), "color": "#d55e00"}
        axes.annotate("", (x1, y1 - 0.24), (x0, y0 + 0.24), arrowprops=look)
    axes.set(xlim=(-0.45, 1.45), ylim=(-0.3, 3.3))
    axes.axis("off")


def draw_pattern(axes, found):
    """Rows attend to columns; membottleneck's two steps are numbered."""
    from matplotlib.colors import ListedColormap

    memory = len(found) - T
    axes.imshow(found, cmap=ListedColormap(["0.9", "#0072b2", "#d55e00"]), vmin=0, vmax=2)
    for i in np.arange(len(found) + 1) - 0.5:
        axes.axhline(i, color="white", lw=6 if i == memory - 0.5 else 2)
        axes.axvline(i, color="white", lw=6 if i == memory - 0.5 else 2)
    parts = [(T / 2 + memory, "seq"), (memory / 2, "mem")][: 1 + (memory > 0)]
    for set_ticks in (axes.set_xticks, axes.set_yticks):
        set_ticks([place - 0.5 for place, _ in parts], [name for _, name in parts])
    if found.max() == 2:
        for x, y, step in ((M + T / 2, M / 2, "1"), (M / 2, M + T / 2, "2")):
            style = {"color": "white", "fontsize": 24, "ha": "center", "va": "center_baseline"}
            axes.text(x - 0.5, y - 0.5, step, **style, bbox={"color": "black", "pad": 2})
    axes.set(xlim=(memory - M - 0.5, memory + T - 0.5), ylim=(memory + T - 0.5, memory - M - 0.5))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def draw(out):
    """Above: the layer; below: its pattern."""
    claim = "One layer of each variant, and which rows (targets) attend to which columns"
    note = "U: attention and feed-forward net; black: what U updates; dashed: what it only attends "
    note += "to; grey: never attended to; orange: memory updated by step 1 (masked: ours)"
    figure, grid = common.slide([], note, [], lines=2, columns=len(LAYERS), height_ratios=(1.5, 1))
    figure.suptitle(claim, fontsize=18, weight="bold", x=0.01, ha="left")
    for (above, below), (variant, layer) in zip(grid.T, LAYERS.items(), strict=True):
        above.set_title(variant, fontsize=19)
        draw_layer(above, layer[0], layer[1].split())
        draw_pattern(below, pattern(variant))
    common.save(figure, out / "architectures.png")


def main():
    parser = common.make_parser(__doc__)
    args = parser.parse_args()
    path = common.place(args, "architectures.png")
    common.guarded(parser, lambda: draw(path.parent))


if __name__ == "__main__":
    main()
