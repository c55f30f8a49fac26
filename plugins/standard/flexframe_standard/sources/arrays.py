"""Images in a `.npz` file, as ADM and the projects after it keep reference batches and samples: 8-bit, in `arr_0`."""

from __future__ import annotations

import struct
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from shutil import copyfileobj
from weakref import finalize

import numpy as np

from flexframe.data.images import BrokenImage
from flexframe.files import refuse_pointer
from flexframe_registry import ConfigError
from flexframe_standard.sources.files_config import FilesConfig
from flexframe_standard.sources.reading import Files

LOCAL = struct.Struct("<26x2H")
"""Of a zip member's own head, the lengths of its name and extra field, behind which its bytes are."""
USUAL = "arr_0"


class Arrays(Files):
    """See `ArraysConfig`. Images stay in the file, or in a copy on disk where it is compressed, and are read one by
    one."""

    def __init__(self, config: FilesConfig, size: tuple[int, int]) -> None:
        super().__init__(config, size)
        if config.labels in ("files", "folders"):
            raise ConfigError.at("labels", f"is {config.labels!r}; images of an array have theirs in arr_1, or none")
        self.path = Path(config.path).expanduser()
        self.images = images_of(self.path)
        self.labels = None if config.labels == "none" else _labels(self.path, len(self.images))
        self.leave_out()

    def class_names(self) -> Sequence[str]:
        return self.config.classes or ()

    def number(self) -> int:
        return len(self.images)

    def name(self, number: int) -> str:
        return f"{number:06d}"

    def open(self, number: int) -> tuple[Path | BytesIO, str]:
        pixels = np.ascontiguousarray(self.images[number])
        head = f"P6\n{pixels.shape[1]} {pixels.shape[0]}\n255\n".encode()  # PPM: the pixels as they are
        return BytesIO(head + pixels.tobytes()), f"{self.path}[{number}]"

    def beside(self, number: int) -> tuple[int | None, str | None]:
        if self.labels is None or self.facts in ("none", "captions"):
            return None, None
        if isinstance(self.labels, str):
            raise BrokenImage(self.labels)
        return (None if self.labels[number] == -1 else int(self.labels[number])), None

    def listed(self) -> Iterator[tuple[str, int, int]]:
        about = self.path.stat()
        yield self.path.name, about.st_size, about.st_mtime_ns


def images_of(path: Path) -> np.ndarray:
    """The images of a `.npz`, count x height x width x 3 of 8 bits, mapped into memory: `arr_0`, or the only array.

    Raises:
        ConfigError: there is no such file, it is broken, or what it holds are no such images.
    """
    if not path.is_file():
        raise ConfigError.at("path", f"there is no file {str(path)!r}")
    refuse_pointer(path)
    try:
        with zipfile.ZipFile(path) as whole:
            names = [each.filename.removesuffix(".npy") for each in whole.infolist()]
            name = USUAL if USUAL in names else names[0] if len(names) == 1 else None
            if name is None:
                told = f"{path} holds {', '.join(names) or 'nothing'}; images are expected in {USUAL}"
                raise ConfigError.at("path", told)
            images = _mapped(path, whole, f"{name}.npy")
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        if isinstance(error, ConfigError):
            raise
        why = " ".join(str(error).split())[:120]
        raise ConfigError.at("path", f"{path} is no whole .npz of arrays ({why}); fetch it again") from None
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8 or not images.size:
        told = f"{name} of {path} is {images.dtype} of {images.shape}; images are uint8 of (count, height, width, 3)"
        raise ConfigError.at("path", told)
    return images


def _mapped(path: Path, whole: zipfile.ZipFile, member: str) -> np.ndarray:
    """An array of an archive, mapped into memory; of a compressed one a copy on disk is, which goes with the array.

    Raises:
        ValueError: it is of objects, which would have to be unpickled.
    """
    about = whole.getinfo(member)
    if about.compress_type == zipfile.ZIP_STORED:
        with path.open("rb") as file:
            file.seek(about.header_offset)
            name, extra = LOCAL.unpack(file.read(LOCAL.size))
            return _array(path, about.header_offset + LOCAL.size + name + extra)
    handle, name = tempfile.mkstemp(prefix="flexframe-", suffix=".npy")
    copy = Path(name)
    try:
        with whole.open(about) as packed, open(handle, "wb") as unpacked:
            copyfileobj(packed, unpacked, 1 << 20)
        array = _array(copy, 0)
    except BaseException:
        copy.unlink(missing_ok=True)
        raise
    finalize(array, copy.unlink, missing_ok=True)
    return array


def _array(path: Path, at: int) -> np.ndarray:
    """The array of numpy's own form that begins so many bytes into a file, mapped into memory."""
    with path.open("rb") as file:
        file.seek(at)
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
        if dtype.hasobject:
            raise ValueError("it is of objects, and nothing is unpickled")
        if not np.prod(shape):
            return np.zeros(shape, dtype)
        return np.memmap(path, dtype, "r", file.tell(), shape, "F" if fortran else "C")


def _labels(path: Path, count: int) -> np.ndarray | str | None:
    """The class of each image, `arr_1`, -1 for none; None where the file has none, or what is wrong with it."""
    with np.load(path, allow_pickle=False) as file:
        if "arr_1" not in file.files:
            return None
        try:
            held = np.asarray(file["arr_1"])
        except ValueError:  # it would have to be unpickled
            held = np.empty(0, object)
    if held.shape != (count,) or held.dtype.kind not in "iu" or held.min(initial=0) < -1:
        wanted = f"classes are {count} whole numbers from 0, or -1 for none"
        return f"arr_1 of {path} is {held.dtype} of shape {held.shape}; {wanted}; labels=none leaves them out"
    return held
