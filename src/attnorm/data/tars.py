"""Images in uncompressed tar files, "tar:": an index of where each lies, read from the tars' headers alone.

Nothing is unpacked, so a member's name can name no place outside; links and devices are passed over. (timm's reader of
such files keeps its index as a pickle beside the data, which whoever made the data may have put there.)
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np
import torch

from attnorm.data.filedata import Source
from attnorm.data.shards import MissingSplitError
from attnorm.data.tar_members import TAR_ERRORS, check_end, files_in, open_tar
from attnorm.errors import DataError


@dataclass(frozen=True, order=True)
class _Image:
    """Where an image lies.

    Attributes:
        label: the last folder, or tar, that it is in; "" in none.
        name: for a person: the file, a tar within it, the member.
        file: the tar.
        offset: of the image in it, bytes.
        size: of the image, bytes.
    """

    label: str
    name: str
    file: str
    offset: int
    size: int


@dataclass(frozen=True, kw_only=True)
class _Extents:
    """Files inside other files: where each begins and how long it is, all arrays (N,)."""

    containers: tuple[str, ...]
    container: np.ndarray
    offset: np.ndarray
    size: np.ndarray

    def open(self, index: int) -> IO[bytes]:
        with open(self.containers[self.container[index]], "rb") as file:
            file.seek(int(self.offset[index]))
            return io.BytesIO(file.read(int(self.size[index])))


def _extents(images: list[_Image]) -> _Extents:
    containers = tuple(dict.fromkeys(image.file for image in images))
    number = {name: i for i, name in enumerate(containers)}
    return _Extents(
        containers=containers,
        container=np.array([number[image.file] for image in images], dtype=np.int32),
        offset=np.array([image.offset for image in images], dtype=np.int64),
        size=np.array([image.size for image in images], dtype=np.int64),
    )


def read_tar(root: Path, split: str) -> Source:
    """Index root/<split>.tar, or the tars of the folder root/<split>; the class is the folder's name, or the tar's.

    Raises:
        DataError: there is none, or it is not an uncompressed tar of images in class folders.
    """
    place = next((p for p in (root / f"{split}.tar", root / split) if p.exists()), None)
    if place is None:
        raise MissingSplitError(f"{root} must hold {split}.tar or a folder {split} of tar files; it holds neither")
    files = sorted(place.glob("*.tar")) if place.is_dir() else [place]
    images: list[_Image] = []
    for file in files:
        try:
            with open_tar(file) as tar:
                images += _members(tar, str(file), file.stem if place.is_dir() else "")
                check_end(tar)
        except TAR_ERRORS as error:
            raise DataError(f"{file} must be an uncompressed tar of <class>/<image>: {error}") from error
    if not images:
        raise DataError(f"{place} must be an uncompressed tar of <class>/<image>, or a folder of such; it has no image")
    if any(image.label == "" for image in images):
        raise DataError(f"{place} must hold its images in one folder per class; some are in none")
    images.sort()  # as in a folder: by class, then by name
    classes = tuple(sorted({image.label for image in images}))
    number = {name: i for i, name in enumerate(classes)}
    return Source(
        classes=classes,
        labels=torch.tensor([number[image.label] for image in images]),
        names=[image.name for image in images],
        open=_extents(images).open,
    )


def _members(tar: tarfile.TarFile, file: str, label: str, inner: str = "", start: int = 0) -> Iterator[_Image]:
    """The images of a tar, and those of tars that lie in it.

    Args:
        tar: open.
        file: the path of the outermost one.
        label: the class of images that are in no folder of the tar.
        inner: name of the tar within the outermost one; there is one level of them.
        start: where it begins there, bytes.
    """
    from timm.data.readers.img_extensions import get_img_extensions

    suffixes = get_img_extensions(as_set=True)
    for member in files_in(tar):
        path = PurePosixPath(member.name)
        if path.suffix.lower() == ".tar" and not inner:
            with tarfile.open(fileobj=tar.extractfile(member), mode="r:") as child:
                yield from _members(child, file, path.stem, member.name, member.offset_data)
        elif path.suffix.lower() in suffixes:
            yield _Image(
                path.parent.name or label,
                ":".join(part for part in (file, inner, member.name) if part),
                file,
                start + member.offset_data,
                member.size,
            )
