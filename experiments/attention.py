"""What attends to what: the share of each block of a map, its shape, the path through memory.

    python -m experiments.attention                       # train models and draw the first
    python -m experiments.attention runs/…/model.npz      # one model: print a table, write map.png

The path READ·WRITE is an attention rollout (Abnar and Zuidema, arXiv 2005.00928) over the WRITE of
one layer and the READ of the last. Others reported the patterns; scores and shares are ours.
"""

from pathlib import Path

import numpy as np

import memt
import train_toy
from experiments import common

KINDS = (("membottleneck", "reverse"), ("membottleneck", "copy"), ("memtransformer", "reverse"))
ANSWERS = {"reverse": "anti-diagonal", "copy": "sharp diagonal"}
FOUND = (*common.SCORES, "path", "beside", "path_shape", "with_shape", "heads_total")

# ---------------------------------------------------------------- shapes
SMALLEST = 8  # rows and columns: in a smaller block, any shape occurs by chance
CLEAR = 0.6  # lowest score that gets a name
CONTRAST = 0.25  # least score × standard deviation / mean of a block


def diagonal(rows, columns, width):
    """1 on the diagonal and 0 elsewhere; with a width (in cells), a Gaussian around it."""
    i, j = (np.arange(rows) + 0.5) / rows, (np.arange(columns) + 0.5) / columns
    off = abs(i[:, None] - j) * min(rows, columns)
    return np.exp(-((off / width) ** 2) / 2) if width else off < 0.5


SHAPES = (  # name (as reported), what a block of that shape looks like
    ("sharp diagonal", lambda block: diagonal(*block.shape, 0)),
    ("blurred diagonal", lambda block: diagonal(*block.shape, 1.5)),
    ("anti-diagonal", lambda block: diagonal(*block.shape, 0)[:, ::-1]),
    ("anti-diagonal", lambda block: diagonal(*block.shape, 1.5)[:, ::-1]),
    ("vertical stripe", lambda block: np.tile(block.mean(axis=0), (len(block), 1))),
    ("horizontal strip", lambda block: np.tile(block.mean(axis=1), (block.shape[1], 1)).T),
)


def correlation(a, b):
    """Pearson's correlation of two arrays of the same shape; 0 if one is constant."""
    with np.errstate(all="ignore"):
        return np.nan_to_num(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def shape(block):
    """The shape that correlates best; "none" if it is unclear or faint, or the block too small."""
    if min(block.shape) < SMALLEST:
        return "none"
    score, name = max((correlation(block, look(block)), name) for name, look in SHAPES)
    strong = score * block.std() >= CONTRAST * block.mean()
    return name if score >= CLEAR and strong else "none"


# ---------------------------------------------------------------- blocks and paths
def blocks(weights, M):
    """A map (M+T, M+T) -> its blocks (only one if M is 0); rows are targets, columns sources."""
    mem, seq = slice(M), slice(M, None)
    names = {"PROCESS": (mem, mem), "WRITE": (mem, seq), "READ": (seq, mem)} if M else {}
    return {name: weights[block] for name, block in (names | {"seq to seq": (seq, seq)}).items()}


def shares(weights, M):
    """Block -> share of its rows' attention: PROCESS + WRITE = 1, READ + seq to seq = 1."""
    return {name: float(b.sum(axis=1).mean()) for name, b in blocks(weights, M).items()}


def uniform(config, T):
    """The map (M+T, M+T) of uniform attention, which parameters of 0 give."""
    _, cache = memt.model_forward(memt.zero_params(config), np.zeros((1, T), int), config)
    return memt.attention_maps(cache)[0, 0, 0]


def block_shapes(weights, M, n):
    """Block -> its shape, in a map of n symbols and n slots.

    Of the sequence rows, only the slots count, since they give the answers; of the sequence
    columns, the half (symbols or slots) that gets more attention.
    """
    found = {}
    for name, part in blocks(weights, M).items():
        part = part[n:] if name in ("READ", "seq to seq") else part
        halves = [part] if name in ("PROCESS", "READ") else np.split(part, 2, axis=1)
        found[name] = shape(max(halves, key=np.sum))
    return found


def written_order(maps, M, n):
    """Memory tokens (M,) by the mean position that they WRITE from: maps (L, H, M+2n, M+2n)."""
    write = maps[:, :, :M, M : M + n].mean(axis=(0, 1))
    return np.argsort(write @ np.arange(n) / write.sum(axis=1), kind="stable")


def sort_memory(maps, order):
    """The same maps (..., M+T, M+T) with the memory rows and columns in this order."""
    rows = np.concatenate((order, np.arange(len(order), maps.shape[-1])))
    return maps[..., rows, :][..., rows]


def paths(params, config, tokens):
    """Layer -> weights (T, M, T): target, memory token that the layer writes, source.

    READ of the last layer times WRITE of the layer: averaged over heads, multiplied within each
    sequence, mean over sequences. Only for layers whose memory is read. With `at`, memt updates the
    last layer's memory only if that layer also reads it, as in membottleneck.
    """
    M = config.memory
    _, cache = memt.model_forward(params, tokens[:1], config, at=[0])
    written = config.layers if cache.memory.size else config.layers - 1
    total = dict.fromkeys(range(written if M else 0), 0)
    size = train_toy.map_chunk(config, tokens.shape[1])
    for i in range(0, len(tokens), size):
        _, cache = memt.model_forward(params, tokens[i : i + size], config)
        maps = memt.attention_maps(cache).mean(axis=2)
        for layer in total:
            total[layer] += np.einsum("btm,bms->tms", maps[-1, :, M:, :M], maps[layer, :, :M, M:])
    return {layer: sums / len(tokens) for layer, sums in total.items()}


def look(s, params, size=train_toy.TEST_ON):
    """-> maps (L, H, M+T, M+T) and `paths` of test sequences."""
    tokens = train_toy.make_batch(s, size, train_toy.TEST).tokens
    return train_toy.mean_maps(params, s.config, tokens), paths(params, s.config, tokens)


def clearest(found, n):
    """Of `paths`, the layer whose slots take the most, on average, from a single symbol."""
    return max(found, key=lambda layer: found[layer].sum(axis=1)[n:, :n].max(axis=1).mean())


def on_answer(s, path):
    """Mean path weight (0 to 1) to a slot from the symbol it must output, and from another one."""
    n = s.length
    part, answer = path.sum(axis=1)[n:, :n], train_toy.TASKS[s.task](np.arange(n)[None])[0]
    right = part[np.arange(n), answer].mean()
    return float(right), float((part.sum() / n - right) / (n - 1))


# ---------------------------------------------------------------- the experiment
def jobs(args):
    steps = 30 if args.quick else 3000
    return [
        common.toy_job(variant, task=task, steps=steps, seed=seed)
        for seed in args.seeds
        for variant, task in KINDS
    ]


def run(job):
    """Train and measure. `path` and `beside` are `on_answer` of the layer where it is best.

    `path_shape`: the shape of that path from symbols to slots; `with_shape`: the number of heads in
    which some block has the answer's shape.
    """
    s, state = common.train(job)
    maps, found = look(s, state.params)
    n, M = s.length, s.config.memory
    (right, beside), best = max((on_answer(s, path), layer) for layer, path in found.items())
    heads = [block_shapes(weights, M, n).values() for layer in maps for weights in layer]
    seen = sum(ANSWERS[s.task] in names for names in heads)
    path_shape = shape(found[best].sum(axis=1)[n:, :n])
    values = (right, beside, path_shape, seen, len(heads))
    return common.scores(s, state) | dict(zip(FOUND[-5:], values, strict=True))


def shape_counts(rows):
    """-> heads that show the answer's shape, all heads, best paths that show it."""
    heads, total = (int(common.numbers(rows, name).sum()) for name in ("with_shape", "heads_total"))
    return heads, total, sum(row["path_shape"] == ANSWERS[row["task"]] for row in rows)


def finding(rows):
    own = [row for row in rows if row["variant"] == "membottleneck"]
    right, beside = (common.by_seed(own, name) for name in ("path", "beside"))
    heads, total, found = shape_counts(own)
    clear = common.clear(right - beside) > 0 and found / len(own) > max(0.5, heads / total)
    claim = "The path READ·WRITE has the shape of the answer more often than single heads"
    measured = f"Path weight from the right symbol {common.spread(right, 2)}, "
    measured += f"another {beside.mean():.2f}; shape in {found} of {len(own)} models' best path, "
    measured += f"in {heads} of {total} heads"
    return [(claim, "patterns: reported; path: ours", measured, common.shown(clear))]


def picture(file, findings, note, rows, s, maps, found):
    """Left: the heads, or their mean, a row per layer; right: the path with most weight."""
    M, n, maps = s.config.memory, s.length, train_toy.few_maps(maps)
    L, H = maps.shape[:2]
    note += "; rows attend to columns; grey: never attended to"
    figure, grid = common.slide(findings, note, rows, columns=H + min(L, 2), lines=L)
    figure.set_size_inches(max(12, 2.4 * (H + 2)), max(6.75, 2 + 2.5 * L))
    figure.get_layout_engine().set(h_pad=0.1, wspace=0)
    for layer, head in np.ndindex(L, H):
        axes = grid[layer, head]
        train_toy.draw_map(axes, maps[layer, head], M, n)
        name = f"head {head + 1}" if s.config.heads == H else "mean of heads"
        axes.set_title(f"layer {layer + 1}, {name}", fontsize=14)
        if head:
            axes.set_yticks([])
        if layer < L - 1:
            axes.set_xticks([])
    norm, place = grid[0, 0].images[0].norm, grid[0, 0].get_gridspec()[:, H:]
    for axes in grid[:, H:].flat:
        axes.remove()
    axes = figure.add_subplot(place, xticks=[], yticks=[])
    if not found:
        axes.text(0.5, 0.5, "memory is\nnever read" if M else "no memory", ha="center")
        axes.axis("off")
    else:
        best = clearest(found, n)
        part = found[best].sum(axis=1)[n:, :n]
        image = axes.imshow(part, cmap="cividis", norm=norm)
        figure.colorbar(image, ax=axes, location="bottom", label="weight", ticks=(0, 0.1, 0.4, 1))
        name = shape(part).replace("none", "")
        axes.set_title(f"path, layer {best + 1}: {name}".strip(": "), weight="bold")
        axes.set(xlabel="input symbol", ylabel="output slot")
    common.save(figure, file)


def draw(rows, out):
    """Train the first job's model again and draw it; the title and note count over all seeds."""
    own = [row for row in rows if row["variant"] == "membottleneck"]
    first = next(row for row in own if row["task"] == "reverse")
    given = {"steps": int(first["steps"]), "seed": int(first["seed"])}
    s, state = common.train(common.toy_job("membottleneck", **given))
    heads, total, found = shape_counts(own)
    note = f"reverse, seed {first['seed']}, best path {float(first['path']):.2f}; the answer's "
    note += f"shape: in {heads} of {total} heads, in the best path of {found} of {len(own)} models"
    picture(out / "attention.png", finding(rows), note, rows, s, *look(s, state.params))


# ---------------------------------------------------------------- one model
def table(s, maps, found):
    """A line per layer, head and block; then the path: the symbol of most weight for each slot."""
    M, n, lines = s.config.memory, s.length, ["layer  head  block       share uniform  shape"]
    expected = shares(uniform(s.config, 2 * n), M)
    for layer, head in np.ndindex(maps.shape[:2]):
        names = block_shapes(maps[layer, head], M, n)
        for block, share in shares(maps[layer, head], M).items():
            weights = f"{share:6.1%} {expected[block]:7.1%}"
            name = names[block].replace("none", "-")
            lines.append(f"{layer + 1:5}  {head + 1:4}  {block:<10} {weights}  {name}")
    for layer, path in found.items():
        lines += ["", f"path through what layer {layer + 1} writes"]
        lines += ["symbol  memory  slot  weight"]
        for slot, by_memory in enumerate(path[n:, :, :n], 1):
            weight = by_memory.sum(axis=0)
            symbol = weight.argmax()
            token = by_memory[:, symbol].argmax()
            lines.append(f"{symbol + 1:6}  {token + 1:6}  {slot:4}  {weight[symbol]:6.1%}")
    return "\n".join(lines)


def main():
    """Read a model if one is given, else run the experiment. Exits as common.main does."""
    parser = common.make_parser(__doc__)
    parser.add_argument("model", nargs="?", type=Path, help="a model.npz written by train_toy.py")
    args = parser.parse_args()
    if not args.model:
        common.main("attention", parser)
    args.out = args.out or args.model.parent
    try:
        s, params = train_toy.read_model(args.model)
        file = common.place(args, "map.png")
    except (ValueError, OSError) as error:
        parser.error(str(error))

    def work():
        maps, found = look(s, params)
        title = "What attends to what", "", f"M = {s.config.memory}", s.config.variant
        picture(file, [title], f"{s.length} random symbols", [], s, maps, found)
        train_toy.say(f"{table(s, maps, found)}\npicture: {file}")

    common.guarded(parser, work)


if __name__ == "__main__":
    main()
