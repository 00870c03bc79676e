"""torchreid's loaders and engine on any Market-1501 tree, from a checkout of its repository."""

import sys
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock


def softmax_engine(checkout: Path, root: str, model: str, **options: Any) -> Any:
    """Torchreid's ImageSoftmaxEngine on the CPU, at its defaults; `options` of ImageDataManager."""
    sys.path.insert(0, str(checkout.resolve()))
    for unused in ("cv2", "gdown", "torch.utils.tensorboard"):  # drawing, downloads, curves
        sys.modules[unused] = MagicMock()
    from torchreid.data import ImageDataManager, ImageDataset, register_image_dataset
    from torchreid.engine import ImageSoftmaxEngine
    from torchreid.models import build_model
    from torchreid.optim import build_lr_scheduler, build_optimizer

    from camreid.data import read_market1501

    records = read_market1501(root)
    number = {pid: row for row, pid in enumerate(sorted({r.pid for r in records.train}))}

    class Tree(ImageDataset):  # torchreid's own takes no identity above 1501
        def __init__(self, root: str = "", **options: Any) -> None:
            train = [(r.path, number[r.pid], r.camera - 1) for r in records.train]
            parts = records.query, records.gallery
            tested = [[(r.path, r.pid, r.camera - 1) for r in part] for part in parts]
            super().__init__(train, *tested, **options)

    register_image_dataset("tree", Tree)
    data = ImageDataManager(sources="tree", use_gpu=False, **options)
    network = build_model(model, data.num_train_pids, pretrained=False)
    optimizer = build_optimizer(network)
    scheduler = build_lr_scheduler(optimizer)
    engine = ImageSoftmaxEngine(data, network, optimizer, scheduler, use_gpu=False)
    engine.epoch, engine.max_epoch, engine.writer = 0, 10**6, None
    return engine
