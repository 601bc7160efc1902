"""Watch a membottleneck learn to reverse: its maps, its road and its accuracy, as one GIF.

One seed, shown as it went; experiments.attention counts over seeds.
"""

import sys
from pathlib import Path

from matplotlib.animation import PillowWriter

from experiments import attention, common
from experiments.common import np, train_toy

EVERY, LOOK_ON, HOLD = 25, 100, 16  # steps per frame, test sequences, frames that stay at the end


def film(job: common.Job):
    """Train -> settings, frames (step, exact accuracy, maps (L, H, N, N), last road (T, T)).

    The memory has one order in all frames: that of the finished model.
    """
    s, frames = common.Settings(**job), []
    state = train_toy.start(s)
    tokens, targets = train_toy.make_batch(s, LOOK_ON, train_toy.TEST)

    def shoot():
        exact = train_toy.evaluate(state.params, s, tokens, targets)[2]
        _, cache = attention.memt.model_forward(state.params, tokens, s.config())
        maps = attention.memt.attention_maps(cache)
        roads = [attention.road(maps, s.config(), layer) for layer in range(s.layers)]
        frames.append((state.step, exact, maps.mean(axis=1), roads))

    shoot()
    for _ in train_toy.training(s, state):
        if state.step % EVERY == 0 or train_toy.finished(s, state):
            shoot()
    order = attention.written_order(frames[-1][2], s.memory, s.length)
    return s, [(step, e, attention.sort_memory(m, order), r) for step, e, m, r in frames]


def stage(s: common.Settings, frames: list):
    """-> figure, images (heads row by row, then the roads), the line of accuracy, the title."""
    L, H, n = s.layers, s.heads, s.length
    figure = common.matplotlib.figure.Figure(figsize=(10, 6.2))
    grid = figure.subplots(L, H + 1, gridspec_kw={"wspace": 0.08, "hspace": 0.12})
    figure.subplots_adjust(left=0.04, right=0.99, top=0.86, bottom=0.26)
    for (layer, column), axes in np.ndenumerate(grid):
        first = frames[0]
        is_road = column == H
        weights = first[3][layer][n:, :n] if is_road else first[2][layer, column]
        attention.show(axes, weights, 0 if is_road else s.memory)
        if not layer:
            axes.set_title("ROAD" if is_road else f"head {column + 1}", fontsize=15)
        if not column:
            axes.set_ylabel(f"layer {layer + 1}", fontsize=15)
    images = [axes.images[0] for axes in grid.flat]
    for image in images:
        image.set_cmap(common.matplotlib.colormaps["cividis"].resampled(10))  # a smaller file
    attention.name_blocks(grid[0, 0], s.memory, s.memory + 2 * n, 9)
    below = figure.add_axes((0.1, 0.1, 0.88, 0.12), ylim=(0, 105), xlim=(0, frames[-1][0]))
    below.set_ylabel("sequences\nright (%)", fontsize=12)
    below.set_xlabel("training step", fontsize=12)
    below.set_yticks((0, 100))
    (curve,) = below.plot([], [], color=common.COLORS[1], lw=3, clip_on=False)
    return figure, images, curve, figure.text(0.04, 0.94, "", fontsize=18, weight="bold")


def draw(s: common.Settings, frames: list, path: Path) -> None:
    """Write the GIF, beside and renamed."""
    common.matplotlib.rcParams.update({"font.size": 12})
    figure, images, curve, title = stage(s, frames)
    writer, part = PillowWriter(fps=6), path.with_suffix(".part.gif")
    with writer.saving(figure, part, dpi=72):
        for i, (step, exact, maps, roads) in enumerate(frames):
            for layer in range(s.layers):
                row = [*maps[layer], roads[layer][s.length :, : s.length]]
                for image, weights in zip(images[layer * (s.heads + 1) :], row, strict=False):
                    image.set_data(weights)
            curve.set_data([f[0] for f in frames[: i + 1]], [100 * f[1] for f in frames[: i + 1]])
            title.set_text(
                f"A memory bottleneck learns to reverse · step {step:4} · {exact:4.0%} right"
            )
            for _ in range(HOLD if i == len(frames) - 1 else 1):
                writer.grab_frame()
    part.replace(path)


def main() -> int:
    """0 done, 2 bad arguments."""
    parser = train_toy.Parser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--seed", type=int, default=0, help="of the run (0)")
    parser.add_argument("--quick", action="store_true", help="60 steps: only to see it work")
    parser.add_argument("--out", type=Path, help="where to write (figures; --quick: runs/quick)")
    args = parser.parse_args()
    out = args.out or Path("runs/quick" if args.quick else "figures")
    try:
        job = common.toy_job("membottleneck", steps=60 if args.quick else 3000, seed=args.seed)
        out.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    train_toy.keep_heap()
    draw(*film(job), out / "learning.gif")
    train_toy.say(f"file: {out / 'learning.gif'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
