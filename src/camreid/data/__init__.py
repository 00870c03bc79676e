"""Image records, splits and batches."""

from camreid.data.datamodule import ReIDDataModule
from camreid.data.dataset import ImageDataset
from camreid.data.layouts import (
    read_cuhk03_np,
    read_dukemtmc,
    read_market1501,
    read_msmt17,
    read_occluded_duke,
    read_veri,
)
from camreid.data.manifest import Split
from camreid.data.named import read_csv, read_folder
from camreid.data.records import ImageRecord, Records
from camreid.data.sampler import IdentitySampler
from camreid.data.splits import OriginalSplit, Resplit
from camreid.data.synthetic import SyntheticMarket
from camreid.data.transforms import Augment

__all__ = ["Augment", "IdentitySampler", "ImageDataset", "ImageRecord", "OriginalSplit"]
__all__ += ["ReIDDataModule", "Records", "Resplit", "Split", "SyntheticMarket", "read_csv"]
__all__ += ["read_cuhk03_np", "read_dukemtmc", "read_folder", "read_market1501", "read_msmt17"]
__all__ += ["read_occluded_duke", "read_veri"]
