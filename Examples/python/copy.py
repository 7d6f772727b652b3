#!/usr/bin/env python3
"""copy.py SOURCE DESTINATION... - copies a file or a disk to others with kcopyd, by ctypes.

The destinations are overwritten; files that don't exist are made. KCOPYD_LIBRARY names the library
if it isn't installed where the system looks. Exits with 1 when anything went wrong.
"""

import ctypes
import os
import stat
import sys
import threading
from ctypes import POINTER, byref, c_char_p, c_int, c_uint, c_uint64, c_void_p

OPEN_WRITE = 1 << 0
SECTOR = 512


class Region(ctypes.Structure):
    """struct io_region"""

    _fields_ = [("bdev", c_void_p), ("sector", c_uint64), ("count", c_uint64)]


Notify = ctypes.CFUNCTYPE(None, c_int, c_uint, c_void_p)


def load():
    """The library, with the types of the functions used here."""
    library = ctypes.CDLL(os.environ.get("KCOPYD_LIBRARY", "libkcopyd.so.0"))
    # ctypes takes everything for an int unless told otherwise, and cuts pointers in half.
    for name, result, *arguments in [
        ("kcopyd_block_device_open", c_int, c_char_p, c_uint, POINTER(c_void_p)),
        ("kcopyd_block_device_close", None, c_void_p),
        ("kcopyd_block_device_sectors", c_uint64, c_void_p),
        ("kcopyd_block_device_flush", c_int, c_void_p),
        ("kcopyd_client_create", c_int, c_uint, POINTER(c_void_p)),
        ("kcopyd_client_destroy", None, c_void_p),
        ("kcopyd_copy", c_int, c_void_p, POINTER(Region), c_uint, POINTER(Region), c_uint,
         Notify, c_void_p),
    ]:
        function = getattr(library, name)
        function.restype = result
        function.argtypes = arguments
    return library


def check(error, name):
    """Functions return 0 or a negative errno."""
    if error < 0:
        raise OSError(-error, os.strerror(-error), name)


def open_device(library, path, flags):
    device = c_void_p()
    check(library.kcopyd_block_device_open(os.fsencode(path), flags, byref(device)), path)
    return device


def prepare_file(path, size):
    """kcopyd opens what exists: a new file has to be made, and any file given its length."""
    if os.path.exists(path) and not os.path.isfile(path):
        return
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
    try:
        os.ftruncate(descriptor, size)
    finally:
        os.close(descriptor)


def copy(library, source, destinations):
    """Copies, and returns what the notification said."""
    status = os.stat(source)
    from_device = open_device(library, source, 0)
    count = library.kcopyd_block_device_sectors(from_device)
    size = status.st_size if stat.S_ISREG(status.st_mode) else count * SECTOR
    dests = (Region * len(destinations))()
    for region, path in zip(dests, destinations):
        prepare_file(path, size)
        region.bdev = open_device(library, path, OPEN_WRITE)
        region.count = count
    client = c_void_p()
    check(library.kcopyd_client_create(1024, byref(client)), source)

    over = threading.Event()
    outcome = []

    @Notify
    def copied(read_err, write_err, _context):
        # On the library's thread: note it and leave.
        outcome.append((read_err, write_err))
        over.set()

    # `copied` is held by this function until the job is over; ctypes wouldn't hold it.
    check(library.kcopyd_copy(client, byref(Region(from_device, 0, count)), len(dests), dests, 0,
                              copied, None), source)
    over.wait()
    library.kcopyd_client_destroy(client)
    # The engine doesn't flush: only now will the copies survive a loss of power.
    for region, path in zip(dests, destinations):
        check(library.kcopyd_block_device_flush(region.bdev), path)
        library.kcopyd_block_device_close(region.bdev)
    library.kcopyd_block_device_close(from_device)
    return outcome


def main(arguments):
    if len(arguments) < 3:
        sys.exit(__doc__)
    try:
        outcome = copy(load(), arguments[1], arguments[2:])
    except OSError as error:
        sys.exit(f"copy.py: {error}")
    [(read_err, write_err)] = outcome
    print(f"{len(outcome)} notification: read_err {read_err}, write_err {write_err:#x}")
    return 1 if read_err or write_err else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
