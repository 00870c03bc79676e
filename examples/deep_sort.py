"""Features for deep-sort-realtime: pip install deep-sort-realtime.

The tracker takes them as `embeds=`, one for each detection, so it needs no network of its own. It
drops boxes without area, but not their features, so such boxes are left out first.
"""

import numpy as np
from deep_sort_realtime.deepsort_tracker import DeepSort

from camreid import FeatureExtractor, create_model

Box = list[float]  # x1, y1, x2, y2 in pixels


def update(
    tracker: DeepSort, extractor: FeatureExtractor, frame: np.ndarray, boxes: list[Box]
) -> list:
    """The tracks after a frame (H, W, 3)."""
    height, width = frame.shape[:2]
    inside = [[max(0, a), max(0, b), min(width, c), min(height, d)] for a, b, c, d in boxes]
    boxes = [[a, b, c, d] for a, b, c, d in inside if c - a >= 1 and d - b >= 1]
    detections = [([a, b, c - a, d - b], 0.9, "person") for a, b, c, d in boxes]
    return tracker.update_tracks(detections, embeds=list(extractor.boxes(frame, boxes).numpy()))


if __name__ == "__main__":
    model = create_model("small", labels=[2, 7]).eval()  # in practice the path of a checkpoint
    extractor = FeatureExtractor(model, normalize=True, channels="BGR", empty="zero")
    tracker = DeepSort(embedder=None, n_init=2, max_cosine_distance=0.3)
    for step in range(5):
        frame = np.full((240, 320, 3), 90, np.uint8)
        frame[40:200, 20 + step : 80 + step], frame[50:210, 200:260] = (30, 30, 200), (200, 60, 30)
        boxes = [[20.0 + step, 40, 80 + step, 200], [200, 50, 260, 210], [320, 0, 400, 90]]
        tracks = update(tracker, extractor, frame, boxes)
    print("confirmed tracks:", sum(track.is_confirmed() for track in tracks))
