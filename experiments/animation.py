"""Watch a membottleneck learn to reverse: READ, WRITE, their product and one sequence, as a GIF.

One run, with the first seed; experiments.attention uses all seeds.
"""

import train_toy
from experiments import attention, common

EVERY, LOOK_ON, HOLD = 5, 100, 16  # steps per frame, test sequences, frames that show the end


def film(job):
    """Train -> settings, batch, frames (step, exact match, outputs, maps (L, H, N, N), paths)."""
    s, frames = train_toy.default_settings(**job), []
    state, batch = train_toy.start(s), train_toy.make_batch(s, LOOK_ON, train_toy.TEST)

    def shoot():
        _, _, exact, outputs = train_toy.evaluate(state.params, s.config, batch)
        frames.append((state.step, exact, outputs, *attention.look(s, state.params, LOOK_ON)))

    shoot()
    for _ in train_toy.training(s, state):
        if state.step % EVERY == 0 or train_toy.finished(s, state):
            shoot()
    return s, batch, frames


def scenes(s, frames):
    """-> layer whose memory gives the best path; READ (n, M), WRITE (M, n), path (n, n) per frame.

    Means over heads. Memory is sorted the same way in all frames: as in the trained model.
    """
    n, M, (*_, last, last_paths) = s.length, s.config.memory, frames[-1]
    layer = max(last_paths, key=lambda i: attention.on_answer(s, last_paths[i]))
    order, found = attention.written_order(last, M, n), []
    for *_, maps, paths in frames:
        mean = attention.sort_memory(maps, order).mean(axis=1)
        read, write = mean[-1][M + n :, :M], mean[layer][:M, M : M + n]
        found.append((read, write, paths[layer].sum(axis=1)[n:, :n]))
    return layer, found


def draw_frame(figure, title, layers, scene, symbols, outputs, targets):
    """READ · WRITE = path; below them one sequence: its symbols and outputs, right or wrong."""
    import matplotlib.colors

    figure.clear()
    figure.text(0.03, 0.9, title, fontsize=22, weight="bold")
    colors = matplotlib.colormaps["cividis"].resampled(12)  # few, for a smaller file
    labels = ("memory", "slot"), ("symbol", "memory"), ("symbol", "slot")
    names = f"READ, layer {layers[0]}", f"WRITE, layer {layers[1]}", "path"
    for i, (name, (x, y)) in enumerate(zip(names, labels, strict=True)):
        axes = figure.add_axes((0.06 + 0.33 * i, 0.36, 0.26, 0.4), xticks=[], yticks=[])
        axes.imshow(scene[i], cmap=colors, norm=matplotlib.colors.PowerNorm(0.5, 0, 1))
        axes.set_title(name, fontsize=18)
        axes.set_xlabel(x, fontsize=18)
        axes.set_ylabel(y, fontsize=18)
        figure.text(0.35 + 0.33 * i, 0.765, "·= "[i], fontsize=24, weight="bold")
    right = {"color": "white", "bbox": {"facecolor": "#0072b2", "edgecolor": "#0072b2"}}
    wrong = {"color": "black", "bbox": {"facecolor": "white", "edgecolor": "#d55e00", "lw": 3}}
    for y, name, row in ((0.16, "input", symbols), (0.05, "output", outputs)):
        figure.text(0.03, y, name, fontsize=22)
        for j, symbol in enumerate(row):
            look = {} if name == "input" else right if symbol == targets[j] else wrong
            figure.text(0.25 + 0.078 * j, y, str(symbol), fontsize=22, **look)


def draw(s, batch, frames, path):
    """Write the GIF."""
    from matplotlib.animation import PillowWriter
    from matplotlib.figure import Figure

    (layer, found), figure = scenes(s, frames), Figure(figsize=(8, 5.6))
    layers = s.config.layers, layer + 1
    writer, part = PillowWriter(fps=6), path.with_suffix(".part.gif")
    with writer.saving(figure, part, dpi=100):
        for i, (scene, (step, exact, outputs, *_)) in enumerate(zip(found, frames, strict=True)):
            title = f"Learning to reverse: step {step}, {exact:.0%} exact"
            row = batch.tokens[0, : s.length], outputs[0], batch.targets[0]
            draw_frame(figure, title, layers, scene, *row)
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
