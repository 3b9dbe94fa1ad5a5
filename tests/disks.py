"""File systems in memory whose power can be cut at any system call, and that are gone with the process that made them.

The image is a file without a name, the loop device lets go of it by itself, and the mounts are in a mount namespace that only
this process is in: whatever ends it, the kernel undoes everything. So a test uses these in a worker of its own.

What is cut is the file system: it forgets what it has not handed to its disk, either because it is told to (`FS_IOC_SHUTDOWN`)
or because what is mounted next is a copy that the disk was made into at that moment. The disk itself keeps all that it was
handed; one that loses its cache, or writes in another order, is not imitated.
"""

from __future__ import annotations

import contextlib
import ctypes
import enum
import errno
import fcntl
import os
import shutil
import struct
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_LIBC = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNS = 0x20000
_MS_REC_PRIVATE = 0x4000 | 0x40000
_FS_IOC_SHUTDOWN = 0x8004587D
_BTRFS_START_SYNC = 0x80089418
_BTRFS_WAIT_SYNC = 0x40089416
_LOOP_CTL_GET_FREE = 0x4C82
_LOOP_CONFIGURE = 0x4C0A
_LOOP_AUTOCLEAR = 4
_LOOP_CONFIG_BYTES = 304
_LOOP_CONFIG_FLAGS = 60
"""`struct loop_config` of linux/loop.h: where `info.lo_flags` is; the image's descriptor comes first."""

MIB = 1024 * 1024

CALLS = (
    *("open", "close", "write", "fsync", "fdatasync", "rename", "replace", "link", "unlink", "remove"),
    *("mkdir", "rmdir", "chmod", "fchmod", "chown", "fchown", "truncate", "ftruncate"),
)
"""The functions of `os` before which power is cut: all by which the library changes a disk."""


def loop_devices_of(pid: int) -> list[str]:
    """Which loop devices there are of the disks that a process has made."""
    found = []
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            if f"-of-{pid} " in backing.read_text():
                found.append(backing.parts[3])
    return found


class DiskUnavailableError(Exception):
    """This machine cannot have the disk; the text says why."""


class Kind(NamedTuple):
    """A file system: its type, how it is made, how it is mounted."""

    type: str
    make: tuple[str, ...]
    size: int
    options: str = ""
    copied: bool = False
    """It knows no shutdown: its disk is copied instead."""


KINDS = {
    "ext4": Kind("ext4", ("-q", "-O", "^resize_inode"), 24 * MIB),
    "ext4-writeback": Kind("ext4", ("-q", "-O", "^resize_inode"), 24 * MIB, "data=writeback,noauto_da_alloc"),
    "xfs": Kind("xfs", ("-q",), 320 * MIB),
    "btrfs": Kind("btrfs", ("-q",), 128 * MIB, copied=True),
}


class Cut(enum.IntEnum):
    """How the power goes: what the file system still does of its own accord is up to chance, and these are the extremes."""

    LOG_LOST = 2
    """What only memory knew is lost."""
    LOG_WRITTEN = 1
    """The log came to the disk, data that nobody flushed did not: as if another program had flushed a file of its own."""


class PowerCut(BaseException):
    """The power is gone."""


class Disk:
    """A file system that is mounted at `path` between `plug` and `unplug`."""

    def __init__(self, kind: Kind, image: int, path: Path) -> None:
        self._kind = kind
        self._images = [image]  # the last one is mounted next
        self.path = path

    def plug(self) -> None:
        """Mount it; its log is replayed. The block device is a new one each time: an old one caches what never was on disk."""
        with _loop_device(self._images[-1]) as device:
            options = self._kind.options.encode() or None
            failed = _LIBC.mount(device.encode(), os.fsencode(self.path), self._kind.type.encode(), 0, options)
            _check(failed, f"mount {self._kind.type}")

    def cut(self, how: Cut) -> None:
        """From now on nothing reaches the disk, whether a call that would change it fails or not."""
        fd = os.open(self.path, os.O_RDONLY)
        try:
            if not self._kind.copied:
                fcntl.ioctl(fd, _FS_IOC_SHUTDOWN, struct.pack("I", how))
                return
            if how == Cut.LOG_WRITTEN:
                fcntl.ioctl(fd, _BTRFS_WAIT_SYNC, fcntl.ioctl(fd, _BTRFS_START_SYNC, bytes(8)))
            self._images.append(_copy(self._images[-1]))
        finally:
            os.close(fd)

    def unplug(self) -> None:
        """Unmount it; nobody may have a file of it open."""
        _check(_LIBC.umount2(os.fsencode(self.path), 0), f"unmount {self._kind.type}")
        while len(self._images) > 1:
            os.close(self._images.pop(0))

    def throw_away(self) -> None:
        """It is unplugged for good."""
        while self._images:
            os.close(self._images.pop())

    def replug(self) -> None:
        """What a boot does after a cut."""
        self.unplug()
        self.plug()


@contextlib.contextmanager
def disk(name: str, path: Path) -> Iterator[Disk]:
    """A fresh file system of `KINDS`, mounted at directory `path`. The process is in a mount namespace of its own from then on.

    Raises:
        DiskUnavailableError: it cannot be had here.
    """
    kind = KINDS[name]
    tool = shutil.which(f"mkfs.{kind.type}", path=f"{os.environ.get('PATH', '')}:/sbin:/usr/sbin")
    if tool is None:
        raise DiskUnavailableError(f"there is no mkfs.{kind.type}")
    _leave_mount_namespace()
    image = os.memfd_create(f"{name}-of-{os.getpid()}")
    mounted = Disk(kind, image, path)
    try:
        os.ftruncate(image, kind.size)
        with _loop_device(image) as device:
            made = subprocess.run([tool, *kind.make, device], check=False, capture_output=True, text=True)
        if made.returncode:
            raise DiskUnavailableError(f"mkfs.{kind.type}: {made.stderr.strip()}")
        with _available(name):
            mounted.plug()
        try:
            for how in Cut:
                with _available(name):
                    mounted.cut(how)
                mounted.replug()
            yield mounted
        finally:
            mounted.unplug()
    finally:
        mounted.throw_away()


@contextlib.contextmanager
def _available(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENODEV, errno.ENOTTY, errno.EOPNOTSUPP, errno.EPERM}:
            raise DiskUnavailableError(f"this kernel does not know {name}, or not its shutdown: {error}") from error
        raise


@contextlib.contextmanager
def _loop_device(image: int) -> Iterator[str]:
    """A block device for the file `image`, until the block is over and nothing of it is mounted."""
    config = bytearray(_LOOP_CONFIG_BYTES)
    struct.pack_into("I", config, 0, image)
    struct.pack_into("I", config, _LOOP_CONFIG_FLAGS, _LOOP_AUTOCLEAR)
    while True:
        try:
            control = os.open("/dev/loop-control", os.O_RDWR)
            try:
                device = f"/dev/loop{fcntl.ioctl(control, _LOOP_CTL_GET_FREE)}"
            finally:
                os.close(control)
            fd = os.open(device, os.O_RDWR)
        except OSError as error:
            raise DiskUnavailableError(f"no loop device: {error}") from error
        try:
            try:
                fcntl.ioctl(fd, _LOOP_CONFIGURE, config)
            except OSError as error:
                if error.errno == errno.EBUSY:  # another process was faster
                    continue
                raise DiskUnavailableError(f"no loop device: {error}") from error
            yield device
            return
        finally:
            os.close(fd)


def _copy(image: int) -> int:
    """A file like `image`, with the same holes."""
    size = os.fstat(image).st_size
    copy = os.memfd_create(f"copy-of-{os.getpid()}")
    os.ftruncate(copy, size)
    end = 0
    while (begin := _data_from(image, end)) is not None:
        end = os.lseek(image, begin, os.SEEK_HOLE)
        for offset in range(begin, end, MIB):
            os.pwrite(copy, os.pread(image, min(MIB, end - offset), offset), offset)
    return copy


def _data_from(image: int, offset: int) -> int | None:
    try:
        return os.lseek(image, offset, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        raise


def _leave_mount_namespace() -> None:
    try:
        _check(_LIBC.unshare(_CLONE_NEWNS), "unshare")
        _check(_LIBC.mount(None, b"/", None, _MS_REC_PRIVATE, None), "make the mounts private")
    except OSError as error:
        raise DiskUnavailableError(f"no mount namespace: {error}") from error


def _check(result: int, what: str) -> None:
    if result:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


# -- steps -------------------------------------------------------------------------------------------------------------


class Fuse:
    """Cuts the power of a disk before the call number `at`, counted from 0, of `CALLS`."""

    def __init__(self, disk: Disk, how: Cut, at: int) -> None:
        self._disk = disk
        self.how = how
        self._at = at
        self.calls: list[str] = []
        """Those that were made; the one that came no more is the last."""
        self.blown = False

    def over(self, do: Callable[[], None]) -> Self:
        """Run `do` until the power goes; it goes at its end at the latest, and then the fuse was not `blown`."""
        originals = {name: getattr(os, name) for name in CALLS}
        try:
            for name, really in originals.items():
                setattr(os, name, self._before(name, really))
            do()
        except (PowerCut, OSError):
            if not self.blown:
                raise
        finally:
            for name, really in originals.items():
                setattr(os, name, really)
        if not self.blown:
            self._disk.cut(self.how)
        return self

    def _before(self, name: str, really: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if self.blown:  # those who clean up do so without power
                return really(*args, **kwargs)
            self.calls.append(name)
            if len(self.calls) <= self._at:
                return really(*args, **kwargs)
            self.blown = True
            self._disk.cut(self.how)
            if name == "close":  # what stays open could not be unmounted
                really(*args, **kwargs)
            raise PowerCut

        return call
