# SPDX-License-Identifier: Apache-2.0
"""Locks on files, which tell a second process who holds them.

The operating system releases a lock when its process ends for any reason. The locks hold between
hosts whose file system keeps them (NFS does, gcsfuse does not).
"""

import fcntl
import os
import socket
import time
from typing import TextIO


class BusyError(RuntimeError):
    """Another process holds the lock.

    Attributes:
      holder: its description, or "another process".
    """

    def __init__(self, message: str, *, holder: str):
        super().__init__(message)
        self.holder = holder


def lock(file: TextIO, *, user: str, shared: bool = False) -> None:
    """Locks an open file until it is closed; an exclusive holder writes its description into it.

    Args:
      file: file that is open for reading and appending ("a+"): NFS shares the lock of a file that
        is open for reading only.
      user: what the lock is taken for, such as the name of a command.
      shared: whether other shared locks are allowed.

    Raises:
      BusyError: another process holds a lock that excludes this one.
    """
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        holder = file.read().strip() or "another process"
        raise BusyError(f"{holder} holds the lock {file.name}", holder=holder) from error
    file.seek(0)
    file.truncate()
    if not shared:
        started = time.strftime("%Y-%m-%d %H:%M:%S")
        file.write(f"{user} (process {os.getpid()} on {socket.gethostname()}, since {started})")
        file.flush()
