"""A process of its own that reads HtFLlib's files, and writes their arrays without pickles: npz.py OUT FILE...

It imports numpy alone, and of what a pickle names it makes nothing but numpy's arrays and numbers.
"""

import io
import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

LARGEST = 2**34
"""Bytes of a file's contents, at most."""

MODULES = ("numpy.core.multiarray", "numpy._core.multiarray", "numpy._core.numeric", "numpy.core.numeric")
MADE = {
    **{(module, name): ("multiarray", name) for module in MODULES for name in ("_reconstruct", "scalar")},
    **{(module, "_frombuffer"): ("numeric", "_frombuffer") for module in MODULES},
}


class Arrays(pickle.Unpickler):
    """Makes arrays and numbers of numpy, and refuses everything else that a pickle names."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what a pickle names, where that is numpy's."""
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        if (module, name) == ("_codecs", "encode"):
            return _latin
        if (module, name) in MADE:
            core = sys.modules.get("numpy._core.multiarray") or sys.modules["numpy.core.multiarray"]
            part, attribute = MADE[module, name]
            home = core if part == "multiarray" else sys.modules[core.__name__.replace("multiarray", "numeric")]
            return getattr(home, attribute)
        raise pickle.UnpicklingError(f"it names {module}.{name}, and not only numpy's arrays")


def _latin(text: str, encoding: str) -> bytes:
    """Return the bytes that Python 2's pickles and numpy's have as text."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"it names the encoding {encoding[:20]}")
    return text.encode("latin-1")


def contents(path: Path) -> Any:
    """Return what ``np.savez_compressed(path, data=...)`` wrote."""
    with zipfile.ZipFile(path) as archive:
        if archive.namelist() != ["data.npy"]:
            raise ValueError(f"it holds {', '.join(archive.namelist()[:5])}, and not data")
        if archive.getinfo("data.npy").file_size > LARGEST:
            raise ValueError(f"it unpacks to more than {LARGEST} bytes")
        file = io.BytesIO(archive.read("data.npy"))
    version = np.lib.format.read_magic(file)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, kind = header(file)
    if shape != () or kind != np.dtype(object):
        raise ValueError(f"it holds an array of shape {shape}, and not one dictionary")
    found = Arrays(file).load()
    return found.item() if isinstance(found, np.ndarray) and found.shape == () else found


def parts(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return inputs [N, ...] and labels [N] of a file."""
    found = contents(path)
    if not isinstance(found, dict) or not {"x", "y"} <= found.keys():
        raise ValueError("it holds no dictionary with x and y")
    x, y = _numbers(found["x"]), np.asarray(found["y"]).reshape(-1)
    if y.dtype.kind == "f" and (y == y.round()).all():
        y = y.astype(np.int64)
    if y.dtype.kind not in "iu" or (len(y) and int(y.min()) < 0):
        raise ValueError(f"its labels are {y.dtype}; expected whole numbers from 0 on")
    if len(x) != len(y):
        raise ValueError(f"it holds {len(x)} inputs and {len(y)} labels")
    return x, y.astype(np.int64)


def _numbers(given: Any) -> np.ndarray:
    """Return inputs as one array; of texts, which are pairs of tokens and their number, the tokens."""
    x = np.asarray(given)
    if x.dtype == object and x.ndim == 2 and x.shape[1] == 2:
        x = np.array([list(tokens) for tokens in x[:, 0]])
    elif x.dtype == object:
        x = np.stack([np.asarray(row) for row in x])
    if x.dtype.kind not in "biuf":
        raise ValueError(f"its inputs are {x.dtype}; expected numbers")
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        raise ValueError("it has inputs that are not finite")
    return x.astype(np.float32) if x.dtype == np.float64 else x


def main(place: Path, files: list[Path]) -> int:
    """Write what each file holds; return the exit status."""
    for number, path in enumerate(files):
        try:
            x, y = parts(path)
        except Exception as error:  # what is in somebody's file has no end
            sys.stderr.write(f"{path} is not read: {' '.join(str(error).split())[:300] or type(error).__name__}\n")
            return 1
        np.save(place / f"{number}-x.npy", x, allow_pickle=False)
        np.save(place / f"{number}-y.npy", y, allow_pickle=False)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]]))
