import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from growcore import data
from growcore.config import DataConfig


def raw(num: int, num_test: int | None = None) -> data.RawData:
    """Images that carry their own index in the first two pixels."""

    def images(count: int, offset: int) -> torch.Tensor:
        indices_N = torch.arange(offset, offset + count)
        x_NCHW = torch.zeros(count, 1, 4, 4, dtype=torch.uint8)
        x_NCHW[:, 0, 0, 0], x_NCHW[:, 0, 0, 1] = indices_N % 256, indices_N // 256
        return x_NCHW

    test = (None, None) if num_test is None else (images(num_test, num), torch.arange(num_test) % 3)
    return data.RawData(images(num, 0), torch.arange(num) % 3, *test, ("a", "b", "c"))


def identities(part: data.Part) -> set[int]:
    pixels_NV = part.x_NCHW[:, 0, 0, :2].long()
    return set((pixels_NV[:, 0] + 256 * pixels_NV[:, 1]).tolist())


@given(num=st.integers(20, 300), seed=st.integers(0, 5), own_test=st.booleans())
def test_a_split_uses_every_image_exactly_once(num, seed, own_test):
    config = DataConfig(name="digits", val_fraction=0.2, split_seed=seed)
    split = data.split(raw(num, 7 if own_test else None), config)
    parts = [identities(part) for part in (split.train, split.val, split.test)]
    assert set.union(*parts) == set(range(num + (7 if own_test else 0)))
    assert sum(len(part) for part in parts) == num + (7 if own_test else 0)


def test_the_split_is_fixed_by_its_seed_and_not_by_the_number_of_training_images():
    few = data.split(raw(100), DataConfig(name="digits", num_train=10))
    many = data.split(raw(100), DataConfig(name="digits"))
    other = data.split(raw(100), DataConfig(name="digits", split_seed=1))
    assert identities(few.val) == identities(many.val)
    assert identities(few.test) == identities(many.test)
    assert identities(few.train) < identities(many.train)
    assert identities(other.val) != identities(many.val)


def test_more_training_images_than_there_are_is_an_error_that_says_how_many_there_are():
    with pytest.raises(ValueError, match=r"data.num_train=99 exceeds the 68 images"):
        data.split(raw(100), DataConfig(name="digits", num_train=99))


def test_a_split_that_leaves_a_part_empty_is_refused():
    with pytest.raises(ValueError, match=r"leaves a part empty"):
        data.split(raw(5), DataConfig(name="digits", val_fraction=0.01))


def test_training_images_are_normalised_to_mean_0_and_deviation_1():
    digits = data.load(DataConfig(name="digits"))
    x_NCHW = digits.normalise(digits.train.x_NCHW)
    assert abs(float(x_NCHW.mean())) < 1e-5
    assert float(x_NCHW.std(correction=0)) == pytest.approx(1, abs=1e-5)


def test_a_process_loads_a_data_set_once():
    first, second = (data.load(DataConfig(name="synthetic")) for _ in range(2))
    assert first.train.x_NCHW.data_ptr() == second.train.x_NCHW.data_ptr()
    assert first.train.x_NCHW.dtype == torch.uint8


def test_an_epoch_shows_every_training_image_once_and_in_another_order_each_time():
    split = data.split(raw(100), DataConfig(name="digits"))
    generator = torch.Generator().manual_seed(0)
    orders = []
    for _ in range(2):
        batches = data.training_batches(split, DataConfig(name="digits"), 16, generator)
        x_NCHW = torch.cat([x for x, _ in batches])
        orders.append(x_NCHW[:, 0, 0, 0].tolist())
    assert (
        sorted(orders[0])
        == sorted(orders[1])
        == sorted(split.normalise(split.train.x_NCHW)[:, 0, 0, 0].tolist())
    )
    assert orders[0] != orders[1]


@pytest.mark.parametrize("rest", [1, 2])
def test_a_last_batch_too_small_for_statistics_is_left_out(rest):
    split = data.split(raw(100), DataConfig(name="digits", num_train=32 + rest))
    sizes = [
        len(y) for _, y in data.training_batches(split, DataConfig(name="digits"), 16, torch.Generator())
    ]
    assert sizes == [16, 16]


@given(padding=st.integers(0, 3), flip=st.booleans(), seed=st.integers(0, 9), side=st.integers(2, 6))
def test_augmented_images_are_windows_of_the_padded_image_or_of_its_mirror(padding, flip, seed, side):
    x_NCHW = torch.arange(3 * 2 * side * side).reshape(3, 2, side, side) + 1
    generator = torch.Generator().manual_seed(seed)
    y_NCHW = data.augment(x_NCHW, padding, flip, generator)
    padded = torch.nn.functional.pad(x_NCHW, (padding,) * 4)
    mirrored = torch.nn.functional.pad(x_NCHW.flip(3), (padding,) * 4)
    for n in range(3):
        windows = [
            source[n, :, i : i + side, j : j + side]
            for source in ([padded, mirrored] if flip else [padded])
            for i in range(2 * padding + 1)
            for j in range(2 * padding + 1)
        ]
        assert any(torch.equal(y_NCHW[n], window) for window in windows)


def test_each_image_draws_its_own_crop_and_flip():
    x_NCHW = torch.arange(16.0).reshape(1, 1, 4, 4).expand(64, 1, 4, 4)
    y_NCHW = data.augment(x_NCHW, 1, True, torch.Generator().manual_seed(0))
    assert len({tuple(image.flatten().tolist()) for image in y_NCHW}) > 9


def test_a_missing_data_set_says_where_it_looked_and_how_to_allow_the_download(tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"looked for in {tmp_path}.*data.download=true"):
        data.load(DataConfig(name="fashion_mnist", root=str(tmp_path)))


def write_idx(folder: Path, num: int, prefix: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pixels = (np.arange(num * 28 * 28) % 251).astype(np.uint8)
    (folder / f"{prefix}-images-idx3-ubyte").write_bytes(
        struct.pack(">4i", 2051, num, 28, 28) + pixels.tobytes()
    )
    labels = (np.arange(num) % 10).astype(np.uint8)
    (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, num) + labels.tobytes())


@pytest.mark.parametrize(("name", "folder"), [("fashion_mnist", "FashionMNIST"), ("mnist", "MNIST")])
def test_grey_images_are_read_from_files_in_their_published_format(tmp_path, name, folder):
    for prefix, num in (("train", 40), ("t10k", 10)):
        write_idx(tmp_path / folder / "raw", num, prefix)
    loaded = data.load(DataConfig(name=name, root=str(tmp_path), val_fraction=0.25))
    assert (len(loaded.train), len(loaded.val), len(loaded.test)) == (30, 10, 10)
    assert loaded.image_shape == (1, 28, 28)
    expected = (torch.arange(10 * 28 * 28) % 251).to(torch.uint8).reshape(10, 1, 28, 28)
    assert torch.equal(loaded.test.x_NCHW, expected)
    assert loaded.test.y_N.tolist() == list(range(10))


def cifar_batch(num: int, labels: str, num_classes: int) -> bytes:
    pixels = (np.arange(num * 3072) % 253).astype(np.uint8).reshape(num, 3072)
    return pickle.dumps({"data": pixels, labels: [i % num_classes for i in range(num)]})


@pytest.mark.parametrize(
    ("name", "class_name", "labels", "num_classes"),
    [("cifar10", "CIFAR10", "labels", 10), ("cifar100", "CIFAR100", "fine_labels", 100)],
)
def test_coloured_images_are_read_from_files_in_their_published_format(
    tmp_path, monkeypatch, name, class_name, labels, num_classes
):
    from torchvision import datasets

    source = getattr(datasets, class_name)
    # The files are ours and small, so the published checksums cannot hold; everything else is real.
    monkeypatch.setattr(source, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5=None: True)
    folder = tmp_path / source.base_folder
    folder.mkdir()
    for file, _ in (*source.train_list, *source.test_list):
        (folder / file).write_bytes(cifar_batch(20, labels, num_classes))
    names = [f"class {i}" for i in range(num_classes)]
    (folder / source.meta["filename"]).write_bytes(pickle.dumps({source.meta["key"]: names}))
    loaded = data.load(DataConfig(name=name, root=str(tmp_path)))
    assert loaded.image_shape == (3, 32, 32)
    assert loaded.num_classes == num_classes
    first = (torch.arange(3072) % 253).to(torch.uint8).reshape(3, 32, 32)
    assert torch.equal(loaded.test.x_NCHW[0], first)


def test_a_data_set_of_ones_own_comes_from_a_module_named_in_imports(tmp_path, monkeypatch):
    (tmp_path / "my_images.py").write_text(
        "import torch\n"
        "from growcore.data import RawData\n"
        "def stripes(config):\n"
        "    x = torch.zeros(50, 2, 5, 5, dtype=torch.uint8)\n"
        "    return RawData(x, torch.arange(50) % 2, None, None, ('thin', 'thick'))\n"
        "DATA_SETS = {'stripes': stripes}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    loaded = data.load(DataConfig(name="stripes"), imports=["my_images"])
    assert loaded.image_shape == (2, 5, 5)
    with pytest.raises(ValueError, match=r"Unknown name 'stripe' among DATA_SETS. Did you mean 'stripes'"):
        data.load(DataConfig(name="stripe"), imports=["my_images"])
    with pytest.raises(ValueError, match=r"imports names the module 'not_there'"):
        data.load(DataConfig(name="stripes"), imports=["not_there"])


def test_fashion_mnist_has_70_000_real_images(data_root):
    loaded = data.load(DataConfig(name="fashion_mnist", root=str(data_root), num_train=10_000))
    assert (len(loaded.train), len(loaded.val), len(loaded.test)) == (10_000, 9_000, 10_000)
    assert "Ankle boot" in loaded.class_names
    assert float(loaded.mean_C11) == pytest.approx(0.286 * 255, rel=0.02)
