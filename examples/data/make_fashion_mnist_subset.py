"""Make the two parquet files beside this script from the original Fashion-MNIST files.

    apt-get install dataset-fashion-mnist
    python examples/data/make_fashion_mnist_subset.py --source /usr/share/datasets/fashion-mnist

Fashion-MNIST (Xiao, Rasul & Vollgraf 2017, arXiv:1708.07747; Zalando SE, MIT licence) has 60,000 training and 10,000 test
images of 28 x 28 grey pixels in ten classes. The subset is stratified: the same number of images of each class, drawn with a
seed, training images from the training files and test images from the test files. ``id`` is the position in the original
file, so that any image can be found again.
"""

import argparse
import gzip
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as PILImage


CLASSES = ["t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"]
FEATURES = Features({"id": Value("int32"), "image": Image(), "label": ClassLabel(names=CLASSES)})


def read_idx(path: Path, header: int) -> np.ndarray:
    """The bytes of an IDX file (gzip) after its header of ``header`` bytes, as uint8."""
    with gzip.open(path, "rb") as file:
        return np.frombuffer(file.read(), dtype=np.uint8, offset=header)


def stratified_subset(source: Path, prefix: str, per_class: int, seed: int) -> Dataset:
    """``per_class`` images of each class, in an order mixed by the seed."""
    labels = read_idx(source / f"{prefix}-labels-idx1-ubyte.gz", 8)
    images = read_idx(source / f"{prefix}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)
    generator = np.random.default_rng(seed)
    chosen = [generator.choice(np.flatnonzero(labels == c), per_class, replace=False) for c in range(len(CLASSES))]
    order = generator.permutation(np.concatenate(chosen))
    rows = {
        "id": order.tolist(),
        "image": [PILImage.fromarray(images[index]) for index in order],
        "label": labels[order].tolist(),
    }
    return Dataset.from_dict(rows, features=FEATURES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--output", type=Path, default=Path(__file__).parent)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for split, prefix, per_class in (("train", "train", 600), ("test", "t10k", 200)):
        path = args.output / f"fashion_mnist_{split}.parquet"
        dataset = stratified_subset(args.source, prefix, per_class, args.seed)
        dataset.to_parquet(path)
        print(f"{path.name}: {len(dataset)} images, {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
