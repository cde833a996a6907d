"""Files that are whole or absent, and locks that end with the process that holds them."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None

from saintprune.errors import SaintpruneError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PIXELS_PER_INCH = 160  # of figures


def write_atomically(path: Path, content: str | bytes) -> Path:
    """Write a file, text as UTF-8, so that it is either whole or absent, also when the disk is full; return its path.

    Raises:
        SaintpruneError: it could not be written.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(draft, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise SaintpruneError(
            f"cannot write {path}: {error.strerror}. Nothing was written; make room or choose another place with"
            " hydra.run.dir=DIR"
        ) from error
    return path


def write_figure(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG, and as SVG beside it, each whole or absent; return the path of the PNG.

    Raises:
        SaintpruneError: one of them could not be written.
    """
    png, svg = io.BytesIO(), io.BytesIO()
    figure.savefig(png, format="png", dpi=PIXELS_PER_INCH)
    figure.set_layout_engine("none")  # the layout is found; it need not be found again
    figure.savefig(svg, format="svg", metadata={"Date": None}, dpi=PIXELS_PER_INCH)
    write_atomically(path.with_suffix(".svg"), svg.getvalue())
    return write_atomically(path, png.getvalue())


@contextmanager
def locked(path: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold a lock while the block runs; the system frees it when the process ends, also when it is killed.

    Args:
        path: of the file that stands for the lock; it stays, empty.
        waiting: called where another process holds the lock, before this one waits for it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as file:
        if fcntl is not None:
            with suppress(OSError):  # a disk that cannot lock: then two processes may do the same work
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    waiting()
                    fcntl.flock(file, fcntl.LOCK_EX)
        yield
