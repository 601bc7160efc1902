"""Read attention maps: the share of each block, its shape, and the road through memory.

    python -m experiments.attention                       # trains models and draws the first
    python -m experiments.attention runs/…/model.npz      # one model: table, and map.png beside it

[reported] are the shapes; the scores (experiments/shapes.py), the shares and the road are ours.
"""

import sys
from pathlib import Path

import memt
from experiments import common, shapes
from experiments.common import np, train_toy

KINDS = (("membottleneck", "reverse"), ("membottleneck", "copy"), ("memtransformer", "reverse"))


# ---------------------------------------------------------------- reading


def blocks(weights: memt.Array, M: int) -> dict[str, memt.Array]:
    """One map (M+T, M+T) -> its four blocks; rows are targets, columns sources."""
    mem, seq = slice(M), slice(M, None)
    return {
        "PROCESS": weights[mem, mem],
        "WRITE": weights[mem, seq],
        "READ": weights[seq, mem],
        "ORDINARY": weights[seq, seq],
    }


def shares(weights: memt.Array, M: int) -> dict[str, float]:
    """Block -> share of its rows' attention, 0 to 1.

    PROCESS and WRITE add up to 1 (the mem rows), READ and ORDINARY too (the seq rows).
    """
    return {name: float(b.sum(axis=1).mean()) for name, b in blocks(weights, M).items()}


def uniform(config: memt.Config, T: int) -> memt.Array:
    """The map (M+T, M+T) of a model that attends evenly to all it may see."""
    M = config.memory
    mask = memt.build_mask(config, T, float)
    allowed = np.ones((M + T, M + T)) if mask is None else np.exp(mask)
    if config.variant == "membottleneck":
        allowed[M:, M:] = 0
    return allowed / allowed.sum(axis=1, keepdims=True)


def strongest(weights: memt.Array, even: memt.Array, M: int) -> str:
    """The block whose share exceeds most what even attention gives it."""
    expected = shares(even, M)
    return max(blocks(weights, M), key=lambda b: shares(weights, M)[b] - expected[b])


def shape(weights: memt.Array, block: str, M: int, n: int) -> str:
    """The shape of a block.

    Where the sequence is n symbols and n slots, only the slots' rows count, since they answer, and
    of the columns the symbols' or the slots', whichever get more.
    """
    part = blocks(weights, M)[block]
    if weights.shape[0] == M + 2 * n:
        part = part[n:] if block in ("READ", "ORDINARY") else part
        halves = [part] if block in ("PROCESS", "READ") else np.split(part, 2, axis=1)
        part = max(halves, key=np.sum)
    return shapes.name(part)


def written_order(maps: memt.Array, M: int, n: int) -> memt.Array:
    """Memory tokens (M,) by the centre of what they write: maps (L, H, M+T, M+T).

    The centre is the mean position, among the n symbols, of WRITE over all layers and heads.
    """
    write = maps[:, :, :M, M : M + n].mean(axis=(0, 1))
    return np.argsort(write @ np.arange(n) / write.sum(axis=1), kind="stable")


def sort_memory(maps: memt.Array, order: memt.Array) -> memt.Array:
    """The same maps (..., M+T, M+T) with memory rows and columns in that order."""
    rows = np.concatenate((order, np.arange(len(order), maps.shape[-1])))
    return maps[..., rows, :][..., rows]


def road(maps: memt.Array, config: memt.Config, layer: int) -> memt.Array | None:
    """READ of the last layer times WRITE of a layer: maps (L, B, H, M+T, M+T) -> (T, T).

    From source position (column) through memory to target position (row): weights averaged over
    heads, multiplied in each sequence, averaged over sequences. None where that memory is never
    read: only membottleneck reads what the same layer has written.
    """
    M = config.memory
    if layer == config.layers - 1 and config.variant != "membottleneck":
        return None
    read, write = maps[-1].mean(axis=1)[:, M:, :M], maps[layer].mean(axis=1)[:, :M, M:]
    return (read @ write).mean(axis=0)


def look(params: memt.Params, config: memt.Config, tokens: memt.Array, n: int):
    """-> maps (L, H, M+T, M+T) with sorted memory, roads (one per layer, (T, T) or None)."""
    _, cache = memt.model_forward(params, tokens, config)
    maps = memt.attention_maps(cache)
    roads = [road(maps, config, layer) for layer in range(config.layers)]
    mean = maps.mean(axis=1)
    return sort_memory(mean, written_order(mean, config.memory, n)), roads


# ---------------------------------------------------------------- the experiment


def jobs(args) -> list[common.Job]:
    """Three kinds of model."""
    return [
        common.toy_job(variant, task=task, steps=30 if args.quick else 3000, seed=seed)
        for seed in args.seeds
        for variant, task in KINDS
    ]


def trained_maps(job: common.Job):
    """-> settings, state, maps and roads of the test sequences."""
    s, state = common.train(job)
    tokens, _ = train_toy.make_batch(s, train_toy.TEST_ON, train_toy.TEST)
    return s, state, *look(state.params, s.config(), tokens, s.length)


def on_answer(way: memt.Array, s: common.Settings) -> tuple[float, float]:
    """Mean road weight (0 to 1) from the symbol that a slot must answer to it, and from others."""
    part, n = way[s.length :, : s.length], s.length
    answer = train_toy.TASKS[s.task](np.arange(n)[None])[0]
    right = part[np.arange(n), answer].mean()
    return float(right), float((part.sum() / n - right) / (n - 1))


def run(job: common.Job) -> common.Job:
    """Train and look. `road` and `beside` are those of `on_answer`, for the layer with the best.

    `road_shape`: the shape of that road from symbols to slots; `found`: layer.head, strongest
    block, its share in % and its shape; `with_shape`: heads of which any block has the answer's.
    """
    s, state, maps, roads = trained_maps(job)
    n, M = s.length, s.memory
    best = max((r for r in roads if r is not None), key=lambda r: on_answer(r, s)[0])
    even, answer = uniform(s.config(), 2 * n), {"copy": "sharp diagonal"}
    wanted, found, with_shape = answer.get(s.task, "anti-diagonal"), [], 0
    for (layer, head), _ in np.ndenumerate(maps[:, :, 0, 0]):
        weights = maps[layer, head]
        block = strongest(weights, even, M)
        share = 100 * shares(weights, M)[block]
        found.append(f"{layer + 1}.{head + 1}:{block}:{share:.0f}:{shape(weights, block, M, n)}")
        with_shape += any(shape(weights, b, M, n) == wanted for b in blocks(weights, M))
    right, beside = on_answer(best, s)
    result = {"road": right, "beside": beside, "road_shape": shapes.name(best[n:, :n])}
    result |= {"with_shape": with_shape, "heads_total": maps.shape[0] * maps.shape[1]}
    return common.scores(s, state) | result | {"found": "; ".join(found)}


# ---------------------------------------------------------------- pictures


def show(axes, weights: memt.Array, M: int) -> None:
    """A map, root scale; white lines border the memory, names stand in its blocks."""
    from matplotlib.colors import PowerNorm

    axes.imshow(weights, cmap="cividis", norm=PowerNorm(0.5, 0, 1), interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    if M:
        axes.axhline(M - 0.5, color="white", lw=2)
        axes.axvline(M - 0.5, color="white", lw=2)


def name_blocks(axes, M: int, size: int, points: float) -> None:
    """Write PROCESS, WRITE and READ into a map (size, size)."""
    style = {"color": "white", "fontsize": points, "weight": "bold", "va": "top"}
    axes.text(0, 0, "PRO-\nCESS", **style)
    axes.text(size - 1, 0, "WRITE", ha="right", **style)
    axes.text(M + 0.5, M + 1, "← READ", **style)


def panel_title(weights: memt.Array, even: memt.Array, M: int, n: int) -> str:
    """Share of the strongest block, and its shape; where it has none, a block that has one."""
    block = strongest(weights, even, M)
    share, what = 100 * shares(weights, M)[block], shape(weights, block, M, n)
    if what == "none":
        others = ((b, shape(weights, b, M, n)) for b in ("READ", "WRITE", "PROCESS", "ORDINARY"))
        what = next((f"{b}: {found}" for b, found in others if found != "none"), "none")
    return f"{block} {share:.0f} %\n{what}"


def picture(path: Path, title: str, note: str, config: memt.Config, maps, roads, n: int) -> None:
    """A row per layer: every head, and the road from what this layer writes."""
    L, H = maps.shape[:2]
    M, T = config.memory, maps.shape[-1] - config.memory
    figure, grid = common.slide(title, note, columns=H + 1, rows=L)
    figure.set_size_inches(max(12, 2.4 * (H + 1)), max(6.75, 1.4 + 2.7 * L))
    even = uniform(config, T)
    for (layer, head), _ in np.ndenumerate(maps[:, :, 0, 0]):
        axes = grid[layer, head]
        show(axes, maps[layer, head], M)
        text = panel_title(maps[layer, head], even, M, n)
        axes.set_title(f"layer {layer + 1} · head {head + 1}\n{text}", fontsize=14)
    for layer, (axes, way) in enumerate(zip(grid[:, H], roads, strict=True), 1):
        if way is None:
            axes.text(0.5, 0.5, "written,\nnever read", ha="center", va="center")
            axes.axis("off")
            continue
        part = way[n:, :n] if 2 * n == T else way
        show(axes, part, 0)
        axes.set(xlabel="symbol", ylabel="slot")
        axes.set_title(f"ROAD, layer {layer}\n{shapes.name(part)}", fontsize=14, weight="bold")
    name_blocks(grid[0, 0], M, M + T, 9)
    grid[-1, 0].set(xlabel="source", ylabel="target")
    common.save(figure, path)


def draw(rows: list[common.Row], out: Path) -> None:
    """The first job's model, trained again; the title and note count over all seeds."""
    own = [r for r in rows if r["variant"] == "membottleneck" and r["task"] == "reverse"]
    given = {"steps": int(own[0]["steps"]), "seed": int(own[0]["seed"])}
    s, _, maps, roads = trained_maps(common.toy_job("membottleneck", **given))
    seen = sum(int(r["with_shape"]) for r in own)
    heads = sum(int(r["heads_total"]) for r in own)
    roads_seen = sum(r["road_shape"] == "anti-diagonal" for r in own)
    right, beside = (common.numbers(own, name).mean() for name in ("road", "beside"))
    here, heads_here = float(own[0]["road"]), f"{own[0]['with_shape']} of {own[0]['heads_total']}"
    title = (
        f"Reverse is an anti-diagonal: in {len(own)} models {seen} of {heads}\n"
        f"heads show it, the better road READ·WRITE in {roads_seen} of {len(own)}"
    )
    note = (
        f"shown: seed {own[0]['seed']} ({heads_here} heads); n = 10, M = 10, mean of "
        f"{train_toy.TEST_ON} test sequences, dark 0, yellow 1, root scale; memory\nsorted by what "
        f"it writes; best road to the right symbol {here:.2f}, mean of {len(own)} models "
        f"{right:.2f}, to another {beside:.3f}"
    )
    picture(out / "attention.png", title, note, s.config(), maps, roads, s.length)


# ---------------------------------------------------------------- one model


def table(maps: memt.Array, config: memt.Config, n: int) -> str:
    """A line per layer, head and block: share, what even attention would give, shape."""
    M, T = config.memory, maps.shape[-1] - config.memory
    expected = shares(uniform(config, T), M)
    lines = ["layer  head  block       share   even  shape"]
    for (layer, head), _ in np.ndenumerate(maps[:, :, 0, 0]):
        for block, share in shares(maps[layer, head], M).items():
            what = shape(maps[layer, head], block, M, n)
            even = f"{share:6.1%} {expected[block]:6.1%}"
            lines.append(f"{layer + 1:5}  {head + 1:4}  {block:<9}  {even}  {what}")
    return "\n".join(lines)


def read_model(path: Path, n: int, out: Path) -> None:
    """Print the table of a model and draw it, on random sequences of n symbols and n blanks.

    Raises ValueError for a file that is no model, or a model without memory; OSError.
    """
    params, config = memt.load(path)
    if not config.memory:
        raise ValueError(f"{str(path)!r} has no memory tokens: must be a model with memory")
    s = train_toy.Settings(length=n, symbols=config.symbols)
    tokens, _ = train_toy.make_batch(s, train_toy.TEST_ON, train_toy.TEST)
    maps, roads = look(params, config, tokens, n)
    out.mkdir(parents=True, exist_ok=True)
    note = f"{n} symbols, M = {config.memory}, mean of {train_toy.TEST_ON} random sequences"
    picture(out / "map.png", f"{config.variant}: where it looks", note, config, maps, roads, n)
    print(f"{table(maps, config, n)}\npicture: {out / 'map.png'}")


def main() -> int:
    """With a model, read it; without, the experiment. Exit status as common.main has it."""
    parser = common.make_parser(__doc__)
    parser.add_argument("model", nargs="?", type=Path, help="model.npz of train_toy.py")
    parser.add_argument("--length", type=common.count, default=10, help="symbols (10)")
    args = parser.parse_args()
    if not args.model:
        return common.main("attention", parser, jobs, run, draw)
    try:
        read_model(args.model, args.length, args.out or args.model.parent)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
