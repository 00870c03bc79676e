"""From the boxes of a video to a feature for each track, and which tracks show one identity.

A frame is an array (H, W, 3), BGR as of `cv2.VideoCapture`. A tracker gives the boxes, x1, y1, x2,
y2 in pixels, and the number of the track of each.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import torch

from camreid import FeatureExtractor, Gallery, create_model

Frame = tuple[np.ndarray, list[list[float]], list[int]]  # pixels, boxes, track of each box


def track_features(frames: Iterable[Frame], extractor: FeatureExtractor) -> dict[int, torch.Tensor]:
    """The mean unit feature (D,) of each track; empty crops do not count."""
    sums: dict[int, torch.Tensor] = {}
    for frame, boxes, tracks in frames:
        for track, feature in zip(tracks, extractor.boxes(frame, boxes), strict=True):
            sums[track] = sums.get(track, 0) + feature
    return {track: torch.nn.functional.normalize(total, dim=0) for track, total in sums.items()}


def video() -> Iterator[Frame]:
    """Four frames with a red, a blue and again the red track, the last partly outside."""
    for step in range(4):
        frame = np.full((240, 320, 3), 90, np.uint8)
        frame[40:200, 20:80], frame[50:210, 130:190] = (30, 30, 200), (200, 60, 30)  # BGR
        frame[40:200, 260:320] = (30, 30, 200)
        boxes = [[20, 40, 80, 200], [130, 50, 190, 210], [260, 40, 330 + step, 200]]
        yield frame, boxes, [1, 2, 3]


if __name__ == "__main__":
    model = create_model("small", labels=[2, 7]).eval()  # in practice the path of a checkpoint
    extractor = FeatureExtractor(model, normalize=True, channels="BGR", empty="zero")
    found = track_features(video(), extractor)
    gallery = Gallery(extractor.source)
    gallery.add(torch.stack([found[1], found[2]]), ["track 1", "track 2"], extractor.source)
    match = gallery.search(found[3][None], k=1, threshold=0.5)
    print(f"track 3 is closest to {match.names[0][0]}, cosine {match.scores[0, 0]:.2f}")
