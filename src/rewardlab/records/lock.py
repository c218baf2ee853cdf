"""One writer per run folder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import IO

from rewardlab.core.errors import UserError

NAME = ".lock"


def lock(folder: Path) -> IO[str]:
    """Keep other processes out of `folder` until the returned file is closed or this process ends.

    The lock belongs to the process: it is gone after kill -9, and the same process may take it again.
    Where the file system has no locks (some network disks) or on Windows, nothing is locked.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / NAME).open("a")
    if sys.platform == "win32":
        return file
    import fcntl

    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        file.close()
        raise UserError(
            f"another process is writing to {folder}.",
            "Wait for it or stop it; or give this run another `name=...`.",
        ) from error
    except OSError:
        pass
    return file
