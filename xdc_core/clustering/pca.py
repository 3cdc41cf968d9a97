"""Principal components of features, with faiss."""

import numpy as np

# Components with less than this share of the largest variance are rounding noise: whitening would amplify them.
NOISE = 1e-6
# Whitening scales components that hold only noise up to the size of the others. On planted clusters it finds nothing
# with 4 clips per component and all with 15 or more: benchmarks/whitening.py.
ENOUGH_CLIPS = 15
# Fewer components hardly tell clusters apart: one of length 1 has two values.
FEWEST = 8


def most_components(asked: int, clips: int, clips_per_component: int | None) -> int:
    """Return the number of components to keep: `asked`, or fewer if there are too few clips, but not below FEWEST."""
    return min(asked, clips, max(FEWEST, clips // (clips_per_component or 1)))


def few_clips_for_whitening(components: int | None, clips: int, whitened: bool) -> str:
    """Return a warning if whitening makes noise as large as the rest of the features; otherwise nothing."""
    if not whitened or not components or components <= FEWEST or clips >= ENOUGH_CLIPS * components:
        return ""
    return (
        f"{components} whitened components of {clips} clips are mostly noise: {clips / components:.1f} clips per "
        f"component, {ENOUGH_CLIPS} are enough. Set cluster.clips_per_component to {ENOUGH_CLIPS}."
    )


def principal_components(points: np.ndarray, components: int, whiten: bool) -> tuple[np.ndarray, np.ndarray, float]:
    """Fit PCA to points, float32 [n, width], components <= n. Whitened components have variance 1.

    PCA and whitening are faiss's, as in DeepCluster (eigen_power -0.5). Fewer components than requested are kept if the
    data has fewer (for example because of a dead unit). Of more than 1,000 points per number faiss uses a random
    sample.

    Return matrix, float32 [kept, width], and bias, float32 [kept], of the map x -> matrix x + bias, and the share of
    the variance that is kept.
    """
    import faiss

    width = points.shape[1]
    pca = faiss.PCAMatrix(width, components, -0.5 if whiten else 0.0)
    pca.train(points)
    # The sums of squares over the points that faiss used.
    every = faiss.vector_to_array(pca.eigenvalues)
    variances = every[:components]
    kept = max(1, int((variances > NOISE * variances.max()).sum()))
    matrix = faiss.vector_to_array(pca.A).reshape(-1, width)[:kept]
    bias = faiss.vector_to_array(pca.b)[:kept]
    if whiten:
        # faiss divides by the deviation of the sum, not of the mean: its components have variance 1 / used.
        used = min(len(points), pca.max_points_per_d * width)
        matrix, bias = matrix * np.float32(used**0.5), bias * np.float32(used**0.5)
    share = float(variances[:kept].sum(dtype=np.float64) / max(every.sum(dtype=np.float64), 1e-30))
    return matrix, bias, min(share, 1.0)
