"""Use an exported encoder of pictures without xdc: ONNX, PyAV and NumPy are enough.

    xdc export runs/example --to exported --onnx
    python examples/encoder_without_xdc.py exported/video film.mp4

Prints the cluster of the picture in the middle of the file, and the first numbers of its feature. The pipeline encodes
its clips once before it reads them, so its features differ a little from these.
"""

import json
import sys
from pathlib import Path

import av
import numpy as np
import onnxruntime


def read_view(path: Path, config: dict) -> np.ndarray:
    """Return the view in the middle of a video: float32 [3, frames, crop, crop], normalised as config.json says."""
    fps, wanted = config["clips"]["fps"], config["video_frames"]
    edge, crop = config["view"]["short_edges"][0], config["view"]["crop"]
    with av.open(str(path)) as container:
        times = [float(frame.time or 0.0) for frame in container.decode(video=0)]
    # The picture that is shown at each time of a constant frame rate.
    shown = np.searchsorted(times, np.arange(times[0], times[-1] + 1 / fps, 1 / fps), side="right") - 1
    first = max(0, (len(shown) - wanted) // 2)
    chosen = shown[first : first + wanted]
    pictures = {}
    # A second time from the beginning, to keep the chosen pictures only.
    with av.open(str(path)) as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number in chosen:
                scale = edge / min(frame.width, frame.height)
                size = {"width": round(frame.width * scale), "height": round(frame.height * scale)}
                picture = frame.reformat(**size, format="rgb24").to_ndarray()
                top, left = ((side - crop) // 2 for side in picture.shape[:2])
                pictures[number] = picture[top : top + crop, left : left + crop]
            if number >= chosen[-1]:
                break
    view = np.stack([pictures[number] for number in chosen])
    if len(view) < wanted:
        view = np.concatenate([view, np.repeat(view[-1:], wanted - len(view), axis=0)])
    normalised = (view / 255 - config["view"]["mean"]) / config["view"]["std"]
    return normalised.transpose(3, 0, 1, 2).astype(np.float32)


def nearest_cluster(feature: np.ndarray, clusters: Path) -> int:
    """Return the number of the nearest centroid. The preprocessing is y = A x + b, then length 1."""
    with np.load(clusters / "preprocess.npz") as fitted:
        point = fitted["matrix"] @ feature if "matrix" in fitted else feature
        point = point + fitted["bias"] if "bias" in fitted else point
        point = point / np.linalg.norm(point) if fitted["l2"] else point
    return int(np.linalg.norm(np.load(clusters / "centroids.npy") - point, axis=1).argmin())


def main(exported: Path, video: Path) -> None:
    """Print what the encoder says of a video."""
    config = json.loads((exported / "config.json").read_text())
    session = onnxruntime.InferenceSession(exported / "model.onnx")
    (features,) = session.run(["features"], {"views": read_view(video, config)[None]})
    if config["clusters"]:
        print(f"{video.name} is in cluster {nearest_cluster(features[0], exported / 'clusters')}")
    print(f"feature [{len(features[0])}]:", " ".join(f"{value:.3f}" for value in features[0][:8]), "...")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
