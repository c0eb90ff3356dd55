import numpy as np
import torch
from PIL import Image

from medtraverse.notice import NOTICE
from medtraverse.pixels import to_bytes, to_numpy, write_jpeg


def test_tensors_of_any_precision_become_arrays():
    values = torch.tensor([0.1, 0.5], dtype=torch.bfloat16, requires_grad=True)
    assert to_numpy(values).dtype == np.float32
    exact = to_numpy(torch.tensor([0.1], dtype=torch.float64), np.float64)
    assert exact.dtype == np.float64 and exact[0] == 0.1
    given = np.array([0.1])
    assert to_numpy(given) is given and to_numpy([1, 2]).tolist() == [1, 2]


def test_bytes_are_rounded_and_cut_off():
    images = [-0.1, 0.0, 0.4 / 255, 0.6 / 255, 254.6 / 255, 1.0, 1.1]
    for given in (images, np.array(images), torch.tensor(images)):
        assert to_bytes(given).tolist() == [0, 0, 0, 1, 255, 255, 255]
        assert to_bytes(given).dtype == np.uint8


def test_a_jpeg_carries_the_notice(tmp_path):
    write_jpeg(Image.new("RGB", (16, 16), "red"), tmp_path / "new" / "a.jpg", 90, subsampling=0)
    with Image.open(tmp_path / "new" / "a.jpg") as picture:
        assert picture.format == "JPEG" and picture.info["comment"].decode() == NOTICE
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.jpg"]
