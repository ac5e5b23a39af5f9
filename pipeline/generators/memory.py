"""No memory left: what that looks like, and what to say then. Imports nothing heavy."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from pipeline.errors import OutOfMemoryError

if TYPE_CHECKING:
    from collections.abc import Iterator

_CPU_ADVICE = "Lower `batch_size` or the widths of the layers, ask for fewer columns or codes, or use more memory."
_GPU_ADVICE = "Lower `batch_size` or the widths of the layers, use a larger GPU, or `--device cpu`."


def out_of_memory(error: BaseException) -> bool:
    """Did the machine run out of memory? That is a failure of the run, not a property of the generator."""
    if isinstance(error, MemoryError) or type(error).__name__ in ("OutOfMemoryError", "OutOfMemoryException"):
        return True
    # PyTorch has a class of its own for the GPU only.
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


@contextmanager
def memory_advice(what: str, rows: int) -> Iterator[None]:
    """Turn the many ways in which memory runs out into one sentence that says what to do.

    Args:
        what: Who works, e.g. the generator's name.
        rows: How many rows it works on.

    Raises:
        OutOfMemoryError: the block ran out of memory. Everything else passes through.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, OutOfMemoryError) or not out_of_memory(error):
            raise
        gpu = "CUDA" in str(error)
        raise OutOfMemoryError(
            f"'{what}' ran out of {'GPU memory' if gpu else 'memory'} on {rows:,} rows.",
            todo=_GPU_ADVICE if gpu else _CPU_ADVICE,
        ) from error
