"""The images that a command is given: files, folders, globs and `.tar` shards, as entries that hold no pixels."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from flexframe.data.images import NO_FILE, USUAL, BrokenImage, odd, suffixes
from flexframe.data.leftout import LeftOut
from flexframe.data.tarmembers import check_id, images
from flexframe.data.walk import walk
from flexframe_registry import ConfigError
from flexframe_registry.files import SCHEME

KNOWN = f"{USUAL} and the others of Pillow's"
UNFIT = "it is a link out of the shard, or else no plain file, inside of it; pack the image itself"


@dataclass(frozen=True, slots=True)
class Entry:
    """One image: where it lies, and the name it goes by."""

    argument: int
    """Number of the input it came with."""
    id: str
    """Its name: of a file the file's; in a folder, a glob or a shard its path there, with `/` between the parts."""
    path: str
    offset: int = -1
    """Where its bytes begin in a shard; -1 for a file of its own."""
    size: int = 0
    stamp: int = 0
    """When the file, or the shard, was last written, in nanoseconds."""
    problem: str = ""
    """Why it cannot be read, where that is known from its name."""

    @property
    def shown(self) -> str:
        """The name that an error gives it."""
        return self.path if self.offset < 0 else f"{self.path}:{self.id}"

    def open(self) -> Path | BytesIO:
        """The argument for `read_image`.

        Raises:
            BrokenImage: there is nothing to read.
        """
        if self.problem:
            raise BrokenImage(f"cannot read image {self.shown}: {self.problem}")
        if self.offset < 0:
            return Path(self.path)
        with open(self.path, "rb") as shard:
            shard.seek(self.offset)
            return BytesIO(shard.read(self.size))

    def place(self) -> str:
        """Its name and place in one line, as no other entry has them."""
        return repr((self.argument, self.id, self.path, self.offset, self.problem))


def entries(inputs: Iterable[str | Path], remarks: list[str] | None = None) -> Iterator[Entry]:
    """The images of all inputs, in no particular order within one; nothing is held.

    Args:
        remarks: is given sentences on what was met and left out, when an input has been gone through.

    Raises:
        ConfigError: an input that is not there, is no local path, or holds no image.
    """
    given = [str(each) for each in inputs]
    if not given:
        raise ConfigError.at("", "name at least one image, folder, glob or .tar shard")
    for number, text in enumerate(given):
        any_entry, left_out = False, LeftOut()
        for entry in _of(number, text, left_out):
            any_entry = True
            check_id(entry.id, text)
            yield entry
        told = left_out.remarks(text)
        if not any_entry:
            also = "".join(f"; {each}" for each in told)
            raise ConfigError.at(text, f"holds no images; looked for {KNOWN} (shards in it are given as '*.tar'){also}")
        if remarks is not None:
            remarks += told


def _of(number: int, text: str, left_out: LeftOut) -> Iterator[Entry]:
    path = Path(text).expanduser()
    if path.is_dir():
        yield from _folder(number, path, left_out)
    elif path.is_file() or odd(path):
        yield from _file(number, path, path.name, left_out, asked=True)
    elif SCHEME.match(text):
        what = "a command" if text.startswith("pipe:") else "an address"
        raise ConfigError.at(text, f"is {what}; images are read from this machine's disks only, so fetch them first")
    elif glob.has_magic(text):
        yield from _glob(number, str(path), left_out)
    else:
        hint = " (braces are the shell's: leave them unquoted, or use *)" if "{" in text else ""
        raise ConfigError.at(text, f"there is no such file or folder{hint}")


def _file(number: int, path: Path, name: str, left_out: LeftOut, asked: bool = False) -> Iterator[Entry]:
    """The file's entry, or its members'. Files of other kinds are an error where they are `asked` for by name."""
    suffix = path.suffix.lower()
    if odd(path):
        if asked or left_out.take(name):
            yield Entry(number, name, str(path), problem=NO_FILE)
    elif suffix == ".tar":
        yield from _shard(number, path, left_out)
    elif asked and suffix not in suffixes():
        raise ConfigError.at(str(path), f"is no image by its name (images end in {KNOWN}) and no uncompressed .tar")
    elif asked or left_out.take(name):
        about = path.stat()
        yield Entry(number, name, str(path), -1, about.st_size, about.st_mtime_ns)


def _folder(number: int, root: Path, left_out: LeftOut) -> Iterator[Entry]:
    """Images at any depth, behind links too."""
    for path in walk(root):
        name = path.relative_to(root).as_posix()
        if path.is_file():
            if left_out.take(name):
                about = path.stat()
                yield Entry(number, name, str(path), -1, about.st_size, about.st_mtime_ns)
        elif odd(path) and left_out.take(name):
            yield Entry(number, name, str(path), problem=NO_FILE)
        elif path.is_symlink() and not path.exists() and left_out.take(name):
            yield Entry(number, name, str(path), problem="it is a link to a file that is not there")


def _glob(number: int, pattern: str, left_out: LeftOut) -> Iterator[Entry]:
    """Files that match; ids are paths from the last folder that the pattern names in full. `**` means any depth."""
    parts = Path(pattern).parts
    fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    root = Path(*parts[:fixed])
    for name in glob.iglob(str(Path(*parts[fixed:])), root_dir=root, recursive=True):
        path = root / name
        if path.is_file() or odd(path):
            yield from _file(number, path, Path(name).as_posix(), left_out)
        elif path.is_dir() and "**" not in parts:
            left_out.folders += 1


def _shard(number: int, path: Path, left_out: LeftOut) -> Iterator[Entry]:
    """Image members of a tar file, which is read header by header and not unpacked."""
    stamp = path.stat().st_mtime_ns
    for image in images(path, left_out):
        member = image.places["image"]
        problem = "" if member.plain else UNFIT
        yield Entry(number, image.name, str(path), max(member.offset, 0), member.size, stamp, problem)
