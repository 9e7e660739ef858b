"""Data from wherever it is, and what is said when it is not as it should be."""

import gzip
import hashlib
import http.server
import json
import math
import threading
import zipfile

import numpy as np
import pytest
from PIL import Image

from pipeline.datasets import fashion_mnist as fashion
from pipeline.datasets.arrays import from_arrays, from_unlabelled, npz_file, python_factory
from pipeline.datasets.fashion_mnist import fashion_mnist, find_fashion_mnist
from pipeline.datasets.folders import image_folder, unlabelled_folder
from pipeline.stage import Context
from pipeline.stages import data
from targets.errors import DataError
from targets.npz import read_npz


def write_images(folder, classes=("cat", "dog"), count=8, size=(6, 5), mode="RGB"):
    rng = np.random.default_rng(0)
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            shape = (*size, 3) if mode == "RGB" else size
            Image.fromarray(rng.integers(0, 255, shape).astype(np.uint8)).save(
                folder / name / f"{number}.png"
            )
    return folder


def settings(**rest):
    return {
        "kind": "images",
        "factory": None,
        "resize": None,
        "select": 0.2,
        "calibrate": 0.2,
        "test": 0.2,
        "limit": None,
        "scale": None,
        "mean": [0.0],
        "std": [1.0],
        "layout": "NCHW",
        "reverse_channels": False,
        "seed": 0,
        "licence": "CC0",
    } | rest


def load(tmp_path, source, **rest):
    out = tmp_path / "loaded"
    out.mkdir()
    data.load(Context({}, {"source": source}, settings(**rest), out, tmp_path / "debris", lambda *_: None))
    return out


@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("L", 1)])
def test_a_folder_of_images_becomes_splits(tmp_path, mode, channels):
    folder = write_images(tmp_path / "pets", mode=mode)
    out = load(tmp_path, folder)
    facts = json.loads((out / "facts.json").read_text())
    assert facts["classes"] == ["cat", "dog"] and facts["image_shape"] == [6, 5, channels]
    assert sum(facts["split_sizes"].values()) == 16
    images, labels = data.read_split(out / "train")
    assert images.dtype == np.uint8 and len(images) == len(labels)


def test_a_folder_with_its_own_test_images_keeps_them_apart(tmp_path):
    write_images(tmp_path / "pets" / "train", count=10)
    write_images(tmp_path / "pets" / "test", count=3)
    source = image_folder(tmp_path / "pets", None, "")
    assert source.own_test == 6 and len(source.labels) == 26
    assert source.labels[-6:].tolist() == [0, 0, 0, 1, 1, 1]


def test_mixed_sizes_are_refused_unless_resized(tmp_path):
    folder = write_images(tmp_path / "pets")
    Image.new("RGB", (9, 9)).save(folder / "dog" / "odd.png")
    with pytest.raises(DataError, match="mixed sizes: 9×9") as caught:
        load(tmp_path, folder)
    assert "odd.png" in caught.value.where and "data.resize" in caught.value.mend
    (tmp_path / "again").mkdir()
    assert load(tmp_path / "again", folder, resize=[4, 4]).exists()


def test_unreadable_images_and_empty_classes_are_named(tmp_path):
    folder = write_images(tmp_path / "pets")
    (folder / "cat" / "broken.png").write_bytes(b"\x89PNG not really")
    with pytest.raises(DataError, match="cannot read an image") as caught:
        load(tmp_path, folder)
    assert "broken.png" in caught.value.where
    (folder / "cow").mkdir()
    with pytest.raises(DataError, match="class 'cow' has no images"):
        image_folder(folder, None, "")
    with pytest.raises(DataError, match="no such folder"):
        image_folder(tmp_path / "nowhere", None, "")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no class folders"):
        image_folder(tmp_path / "empty", None, "")


@pytest.mark.parametrize("parts", [("",), ("train", "test")])
def test_images_without_labels_may_lie_in_any_folders(tmp_path, parts):
    for part in parts:
        write_images(tmp_path / "line" / part, classes=("monday", "monday/late", "."), count=4)
    out = load(tmp_path, tmp_path / "line", outputs=["cat", "dog"])
    facts = json.loads((out / "facts.json").read_text())
    assert facts["classes"] == ["cat", "dog"] and sum(facts["split_sizes"].values()) == 12 * len(parts)
    if "test" in parts:
        assert facts["split_sizes"]["test"] == 12
    assert sorted(path.name for path in (out / "train").iterdir()) == ["images.npy"]


def test_folders_that_do_not_fit_to_data_without_labels_are_named(tmp_path):
    folder = write_images(tmp_path / "pets")
    with pytest.raises(DataError, match="a folder named after each class") as caught:
        unlabelled_folder(folder, None, "", ["cat", "dog"])
    assert "remove data.labelled" in caught.value.mend
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="the folder 'empty' has no images"):
        unlabelled_folder(tmp_path / "empty", None, "", ["cat", "dog"])
    with pytest.raises(DataError, match="no class folders found") as caught:
        image_folder(folder / "cat", None, "")
    assert "data.labelled = false" in caught.value.mend


def arrays(**rest):
    return {
        "images": np.zeros((12, 4, 4), np.uint8),
        "labels": np.arange(12) % 3,
        "classes": np.array(["x", "y", "z"]),
    } | rest


def test_an_npz_file_is_read(tmp_path):
    np.savez(tmp_path / "d.npz", **arrays(test_images=np.ones((3, 4, 4), np.uint8), test_labels=np.arange(3)))
    source = npz_file(tmp_path / "d.npz", "MIT")
    assert source.classes == ("x", "y", "z") and source.own_test == 3
    assert source.read(np.array([0, 14])).shape == (2, 4, 4, 1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": np.zeros((12, 4), np.uint8)}, "images is uint8"),
        ({"images": np.zeros((12, 4, 4))}, "images is float64"),
        ({"images": np.full((12, 4, 4), np.nan, np.float32)}, "NaN"),
        ({"labels": np.arange(5)}, "labels is int64"),
        ({"labels": np.arange(12.0)}, "labels is float64"),
        ({"labels": np.arange(12)}, "labels go from 0 to 11, but there are 3 classes"),
        ({"classes": np.array(["x", "x", "z"])}, "same name"),
        ({"test_images": np.zeros((3, 5, 5), np.uint8), "test_labels": np.arange(3)}, "test_images are"),
        ({"test_images": np.zeros((3, 4, 4), np.uint8)}, "no array 'test_labels'"),
    ],
)
def test_arrays_that_do_not_fit_are_named(change, words):
    with pytest.raises(DataError, match=words):
        from_arrays(arrays(**change), "d", "file d.npz", "")


def test_arrays_of_images_alone(tmp_path, monkeypatch):
    pictures = {"images": np.zeros((12, 4, 4), np.uint8), "test_images": np.ones((3, 4, 4), np.uint8)}
    np.savez(tmp_path / "d.npz", **pictures)
    source = npz_file(tmp_path / "d.npz", "", ["x", "y"])
    assert source.labels is None and source.classes == ("x", "y")
    assert len(source) == 15 and source.own_test == 3
    (tmp_path / "own_images.py").write_text(
        "import numpy as np\ndef bare(): return {'images': np.zeros((5, 4, 4), 'u1')}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert len(python_factory("own_images:bare", "", ["x", "y"])) == 5
    with pytest.raises(DataError, match="said to have no labels, but there is an array 'labels'"):
        from_unlabelled(arrays(), "d", "file d.npz", "", ["x", "y"])
    with pytest.raises(DataError, match="no array 'labels'") as caught:
        from_arrays(pictures, "d", "file d.npz", "")
    assert "data.labelled = false" in caught.value.mend


def test_hostile_npz_files_are_refused(tmp_path):
    np.savez(tmp_path / "pickle.npz", images=np.array([{"a": 1}], dtype=object))
    (tmp_path / "short.npz").write_bytes((tmp_path / "pickle.npz").read_bytes()[:50])
    (tmp_path / "text.npz").write_text("hello")
    for name in ("pickle", "short", "text"):
        with pytest.raises(DataError, match=r"not an \.npz file"):
            npz_file(tmp_path / f"{name}.npz", "")
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", b"\0" * 5000)
    with pytest.raises(DataError, match="unpacks to 5,000 bytes"):
        read_npz(tmp_path / "bomb.npz", most_bytes=1000)
    with pytest.raises(DataError, match="no such file"):
        npz_file(tmp_path / "nothing.npz", "")


def test_mean_and_std_must_fit_the_channels(tmp_path):
    np.savez(tmp_path / "d.npz", **arrays(images=np.zeros((30, 4, 4), np.uint8), labels=np.arange(30) % 3))
    with pytest.raises(DataError, match=r"data\.mean has 3 values, but images have 1 channels"):
        load(tmp_path, tmp_path / "d.npz", kind="npz", mean=[0.1, 0.2, 0.3])


@pytest.fixture
def served(tmp_path, monkeypatch):
    """Four small files that take the place of Fashion-MNIST, served on loopback."""
    shapes = {
        "train-images-idx3-ubyte": (4, 28, 28),
        "train-labels-idx1-ubyte": (4,),
        "t10k-images-idx3-ubyte": (2, 28, 28),
        "t10k-labels-idx1-ubyte": (2,),
    }
    content = {name: bytes(4 + 4 * len(shape) + math.prod(shape)) for name, shape in shapes.items()}
    pinned = {name: (shape, hashlib.sha256(content[name]).hexdigest()) for name, shape in shapes.items()}
    monkeypatch.setattr(fashion, "FASHION_FILES", pinned)
    folder = tmp_path / "served"
    folder.mkdir()
    for name, body in content.items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(body))

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(folder))

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


def test_a_download_is_checked_before_it_gets_its_name(served, tmp_path):
    folder, address = served
    fashion.fetch_fashion_mnist(tmp_path / "cache", address)
    assert fashion_mnist(tmp_path / "cache").own_test == 10000
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(b"something else"))
    with pytest.raises(DataError, match="digest differs"):
        fashion.fetch_fashion_mnist(tmp_path / "other", address)
    assert not (tmp_path / "other" / "t10k-labels-idx1-ubyte.gz").exists()
    (folder / "train-images-idx3-ubyte.gz").unlink()
    with pytest.raises(DataError, match="cannot download") as caught:
        fashion.fetch_fashion_mnist(tmp_path / "third", address)
    assert "dataset-fashion-mnist" in caught.value.mend


def test_the_cache_comes_before_the_package_and_the_package_before_the_network(served, tmp_path, monkeypatch):
    folder, _ = served
    monkeypatch.setattr(fashion, "FASHION_DEBIAN", tmp_path / "package")
    monkeypatch.setenv("EDGEWRIGHT_CACHE", str(tmp_path))
    monkeypatch.setattr(fashion, "fetch_fashion_mnist", lambda target: fetched.append(target))
    fetched = []
    with pytest.raises(DataError, match="not on this machine"):
        find_fashion_mnist(download=False)
    cache = tmp_path / "fashion-mnist"
    assert find_fashion_mnist(download=True) == cache and fetched == [cache]
    folder.rename(tmp_path / "package")
    assert find_fashion_mnist(download=True) == tmp_path / "package"
    (tmp_path / "package").rename(cache)
    assert find_fashion_mnist(download=True) == cache and len(fetched) == 1
