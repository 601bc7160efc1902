"""Names for what a block of an attention map looks like.

The shapes are those that readers of such maps speak of; the scores are ours. Each is a correlation
between -1 and 1 over all cells of a block (rows: targets, columns: sources).
"""

import numpy as np

Array = np.ndarray

SMALLEST = 8  # rows and columns: in a smaller block chance draws every shape
CLEAR = 0.6  # least score that gets a name
CONTRAST = 0.25  # least standard deviation of the shape, in mean weights: a fog is no shape


def correlation(a: Array, b: Array) -> float:
    """Pearson's correlation of two arrays of one shape; 0 if one is constant."""
    a, b = a - a.mean(), b - b.mean()
    scale = np.sqrt((a * a).sum() * (b * b).sum())
    return float((a * b).sum() / scale) if scale > 1e-12 else 0.0


def off_diagonal(rows: int, columns: int) -> Array:
    """Distance of each cell from the diagonal, (rows, columns), in cells of the shorter side."""
    i, j = (np.arange(rows) + 0.5) / rows, (np.arange(columns) + 0.5) / columns
    return abs(i[:, None] - j) * min(rows, columns)


def sharp_diagonal(block: Array) -> float:
    """Correlation with a map that is 1 on the diagonal and 0 elsewhere."""
    return correlation(block, off_diagonal(*block.shape) < 0.5)


def blurred_diagonal(block: Array) -> float:
    """Correlation with a bell of standard deviation 1.5 cells around the diagonal."""
    return correlation(block, np.exp(-((off_diagonal(*block.shape) / 1.5) ** 2) / 2))


def anti_diagonal(block: Array) -> float:
    """The larger of both diagonal scores after the block is mirrored left to right."""
    return max(sharp_diagonal(block[:, ::-1]), blurred_diagonal(block[:, ::-1]))


def vertical_stripe(block: Array) -> float:
    """Correlation with the block's own column means: the source alone decides the weight."""
    return correlation(block, np.broadcast_to(block.mean(axis=0), block.shape))


def horizontal_strip(block: Array) -> float:
    """Correlation with the block's own row means: the target alone decides the weight."""
    return vertical_stripe(block.T)


SHAPES = {
    "sharp diagonal": sharp_diagonal,
    "blurred diagonal": blurred_diagonal,
    "anti-diagonal": anti_diagonal,
    "vertical stripe": vertical_stripe,
    "horizontal strip": horizontal_strip,
}


def name(block: Array) -> str:
    """The shape with the highest score; "none" if it is unclear, faint or the block too small."""
    if min(block.shape) < SMALLEST:
        return "none"
    best, score = max(((n, f(block)) for n, f in SHAPES.items()), key=lambda pair: pair[1])
    strong = score * block.std() >= CONTRAST * block.mean()
    return best if score >= CLEAR and strong else "none"
