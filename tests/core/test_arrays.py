"""The one reader of .npz files."""

import gc
import sys
import threading
import zipfile

import numpy as np
import pytest

from recpolicy.core import arrays
from recpolicy.core.arrays import read_arrays


def test_gives_every_array_back_to_the_bit(tmp_path):
    written = {"a": np.arange(6.0).reshape(2, 3), "b/c": np.array([True, False]), "none": np.zeros((0, 4), np.float32)}
    np.savez(tmp_path / "some.npz", **written)
    read = read_arrays(tmp_path / "some.npz")
    assert list(read) == list(written)
    for name, array in written.items():
        assert read[name].dtype == array.dtype
        np.testing.assert_array_equal(read[name], array)


def test_a_pickled_object_is_refused(tmp_path):
    np.savez(tmp_path / "object.npz", a=np.array([{"some": "thing"}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"a\.npy: holds object; expected numbers or text"):
        read_arrays(tmp_path / "object.npz")


@pytest.mark.parametrize(
    "array",
    [np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.array("text"), np.array(["a", "bc"]), np.float32(2),
     np.zeros((3, 0)), np.array(True)],
)  # fmt: skip
def test_every_layout_comes_back(tmp_path, array):
    np.savez(tmp_path / "some.npz", a=array)
    read = read_arrays(tmp_path / "some.npz")["a"]
    np.testing.assert_array_equal(read, array)
    assert (read.dtype, read.shape) == (array.dtype, array.shape)
    assert read.flags.writeable


def test_compressed_arrays_are_refused(tmp_path):
    np.savez_compressed(tmp_path / "zeros.npz", a=np.zeros(10_000))
    with pytest.raises(ValueError, match="a is compressed"):
        read_arrays(tmp_path / "zeros.npz")


def test_arrays_that_need_more_memory_than_there_is_are_refused(tmp_path, monkeypatch):
    np.savez(tmp_path / "large.npz", a=np.zeros(1 << 20))
    monkeypatch.setattr(arrays, "available_bytes", lambda: 15 << 20)
    with pytest.raises(ValueError, match="need 16 MiB of memory, but 15 MiB are free"):
        read_arrays(tmp_path / "large.npz")


def test_a_file_cut_short_is_a_bad_zip_file_and_an_absent_one_is_not_found(tmp_path):
    np.savez(tmp_path / "whole.npz", a=np.zeros(100))
    (tmp_path / "short.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:-50])
    with pytest.raises(zipfile.BadZipFile):
        read_arrays(tmp_path / "short.npz")
    with pytest.raises(FileNotFoundError):
        read_arrays(tmp_path / "absent.npz")


def test_threads_may_read_at_once(tmp_path):
    """Without the lock, some two hundred of these 2,400 headers fail within CPython 3.11's parser."""
    np.savez(tmp_path / "many.npz", **{f"a{number}": np.zeros(3) for number in range(20)})
    failed = []

    def read(depth):
        if depth:
            read(depth - 1)
            return
        for _ in range(30):
            try:
                read_arrays(tmp_path / "many.npz")
            except SystemError as error:
                failed.append(error)

    def lets_others_run(_phase, _info):
        sum(range(50))

    threshold, interval = gc.get_threshold(), sys.getswitchinterval()
    gc.callbacks.append(lets_others_run)
    gc.set_threshold(20)
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=read, args=(depth,)) for depth in (0, 40, 90, 150)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        gc.set_threshold(*threshold)
        sys.setswitchinterval(interval)
        gc.callbacks.remove(lets_others_run)
    assert not failed
