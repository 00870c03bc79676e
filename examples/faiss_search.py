"""Features in an index of faiss: pip install faiss-cpu.

`camreid.Gallery` is exact and needs no index. For millions of images, take an approximate index of
faiss, such as `faiss.index_factory(dim, "IVF4096,PQ64", faiss.METRIC_INNER_PRODUCT)`.
"""

import faiss
import numpy as np

from camreid import FeatureExtractor, create_model

if __name__ == "__main__":
    model = create_model("small", labels=[2, 7]).eval()  # in practice the path of a checkpoint
    extractor = FeatureExtractor(model, normalize=True)  # unit length: inner products are cosines
    images = np.random.default_rng(0).integers(0, 256, (20, 128, 64, 3), np.uint8)
    gallery = extractor(images).numpy()
    index = faiss.IndexFlatIP(gallery.shape[1])
    index.add(gallery)
    scores, places = index.search(gallery[[4, 11]], 3)
    print("closest:", places[:, 0].tolist(), "cosines:", scores[:, 0].round(3).tolist())
