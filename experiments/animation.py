"""Watch a membottleneck learn to reverse: READ, WRITE, their product, and accuracy, as one GIF.

One run, with the first seed; experiments.attention uses all seeds.
"""

import numpy as np

import train_toy
from experiments import attention, common

EVERY, LOOK_ON, HOLD = 5, 100, 16  # steps per frame, test sequences, frames that show the end


def film(job):
    """Train -> settings, frames (step, exact match, maps (L, H, N, N), paths)."""
    s, frames = train_toy.default_settings(**job), []
    state, batch = train_toy.start(s), train_toy.make_batch(s, LOOK_ON, train_toy.TEST)

    def shoot():
        exact = train_toy.evaluate(state.params, s.config, batch).exact
        frames.append((state.step, exact, *attention.look(s, state.params, LOOK_ON)))

    shoot()
    for _ in train_toy.training(s, state):
        if state.step % EVERY == 0 or train_toy.finished(s, state):
            shoot()
    return s, frames


def scenes(s, frames):
    """-> layer whose memory gives the best path; READ (n, M), WRITE (M, n), path (n, n) per frame.

    Means over heads. Memory is sorted the same way in all frames: as in the trained model.
    """
    n, M, (*_, last, last_paths) = s.length, s.config.memory, frames[-1]
    layer = max(last_paths, key=lambda i: attention.on_answer(s, last_paths[i]))
    order, found = attention.written_order(last, M, n), []
    for _, _, maps, paths in frames:
        mean = attention.sort_memory(maps, order).mean(axis=1)
        read, write = mean[-1][M + n :, :M], mean[layer][:M, M : M + n]
        found.append((read, write, paths[layer].sum(axis=1)[n:, :n]))
    return layer, found


def draw_frame(figure, titles, scene, curve, steps):
    """Three maps; below them the accuracy so far: curve (step, exact match), axis up to `steps`."""
    import matplotlib.colors

    figure.clear()
    colors = matplotlib.colormaps["cividis"].resampled(12)  # few, for a smaller file
    title = f"A memory bottleneck learns to reverse · step {curve[-1][0]} · {curve[-1][1]:.0%}"
    figure.text(0.05, 0.91, title, fontsize=19, weight="bold")
    for i, (x, y) in enumerate((("memory", "slot"), ("symbol", "memory"), ("symbol", "slot"))):
        axes = figure.add_axes((0.05 + 0.33 * i, 0.3, 0.27, 0.5), xticks=[], yticks=[])
        axes.imshow(scene[i], cmap=colors, norm=matplotlib.colors.PowerNorm(0.5, 0, 1))
        axes.set_title(titles[i], fontsize=18)
        axes.set_xlabel(x, fontsize=16)
        axes.set_ylabel(y, fontsize=16)
    below = figure.add_axes((0.13, 0.13, 0.84, 0.1), xlim=(0, steps), ylim=(0, 105))
    step, exact = np.transpose(curve)
    below.plot(step, 100 * exact, lw=3, clip_on=False)
    below.set_xlabel("training step", fontsize=14)
    below.set_ylabel("exact\nmatch (%)", fontsize=14)
    below.set_yticks((0, 100))


def draw(s, frames, path):
    """Write the GIF."""
    from matplotlib.animation import PillowWriter
    from matplotlib.figure import Figure

    layer, found = scenes(s, frames)
    titles = f"READ, layer {s.config.layers}", f"WRITE, layer {layer + 1}", "path = READ · WRITE"
    curve, figure = [frame[:2] for frame in frames], Figure(figsize=(10, 5.4))
    writer, part = PillowWriter(fps=6), path.with_suffix(".part.gif")
    with writer.saving(figure, part, dpi=72):
        for i, scene in enumerate(found):
            draw_frame(figure, titles, scene, curve[: i + 1], curve[-1][0])
            for _ in range(HOLD if i == len(found) - 1 else 1):
                writer.grab_frame()
    part.replace(path)


def main():
    """Exits as common.guarded does, or with 2 for bad arguments."""
    parser = common.make_parser(__doc__)
    args = parser.parse_args()
    steps, seed = 60 if args.quick else 3000, (args.seeds or [0])[0]

    def work():
        path = common.place(args, "learning.gif")
        train_toy.keep_heap()
        draw(*film(common.toy_job("membottleneck", steps=steps, seed=seed)), path)
        train_toy.say(f"file: {path}")

    common.guarded(parser, work)


if __name__ == "__main__":
    main()
