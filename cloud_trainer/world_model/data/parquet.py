"""Rows out of parquet files, read once in passing: row groups come whole, the last few are kept."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cloud_trainer.world_model.data.source import require_content
from gymnast_core.errors import CorruptError

if TYPE_CHECKING:
    import pyarrow.parquet

_KEPT_GROUPS = 2
_KEPT_FILES = 4


class ParquetRows:
    """Finds rows by the value of one column; what a call reads is bounded by the row groups that hold the value."""

    def __init__(self) -> None:
        """Nothing is read yet."""
        self._files: OrderedDict[Path, pyarrow.parquet.ParquetFile] = OrderedDict()
        self._groups: OrderedDict[tuple[Path, int, tuple[str, ...]], Any] = OrderedDict()

    def where(self, path: Path, column: str, value: int, wanted: Sequence[str]) -> list[dict[str, Any]]:
        """Return the rows whose column has the value, with the wanted columns that the file has.

        Raises:
            CorruptError: the file is no parquet file, or lacks the column.
        """
        import pyarrow.compute

        with _parquet_errors(path):
            file = self._file(path)
            names = tuple(name for name in wanted if name in file.schema_arrow.names)
            if column not in file.schema_arrow.names:
                raise CorruptError(f"{path} has no column {column!r}")
            rows: list[dict[str, Any]] = []
            for group in range(file.metadata.num_row_groups):
                if _may_hold(file, group, column, value):
                    table = self._group(path, file, group, (column, *names))
                    rows.extend(table.filter(pyarrow.compute.equal(table[column], value)).to_pylist())
            return rows

    def _file(self, path: Path) -> pyarrow.parquet.ParquetFile:
        import pyarrow.parquet

        if path not in self._files:
            require_content(path)
            self._files[path] = pyarrow.parquet.ParquetFile(path)
            if len(self._files) > _KEPT_FILES:
                self._files.popitem(last=False)[1].close()
        self._files.move_to_end(path)
        return self._files[path]

    def _group(self, path: Path, file: pyarrow.parquet.ParquetFile, group: int, names: tuple[str, ...]) -> Any:
        key = (path, group, names)
        if key not in self._groups:
            self._groups[key] = file.read_row_group(group, columns=list(dict.fromkeys(names)))
            if len(self._groups) > _KEPT_GROUPS:
                self._groups.popitem(last=False)
        self._groups.move_to_end(key)
        return self._groups[key]


def read_table(path: Path, wanted: Sequence[str] | None = None, *, prefix: str = "\0") -> list[dict[str, Any]]:
    """Return all rows of a small file.

    Args:
        path: of the file.
        wanted: columns; default all.
        prefix: columns that begin with it are wanted too.

    Raises:
        CorruptError: no parquet file.
    """
    import pyarrow.parquet

    with _parquet_errors(path):
        require_content(path)
    with _parquet_errors(path), pyarrow.parquet.ParquetFile(path) as file:
        names = [n for n in file.schema_arrow.names if wanted is None or n in wanted or n.startswith(prefix)]
        rows: list[dict[str, Any]] = file.read(columns=names).to_pylist()
        return rows


def _may_hold(file: pyarrow.parquet.ParquetFile, group: int, column: str, value: int) -> bool:
    """Whether the statistics of a row group leave room for the value."""
    found = file.metadata.row_group(group)
    for number in range(found.num_columns):
        chunk = found.column(number)
        if chunk.path_in_schema == column:
            bounds = chunk.statistics
            return bounds is None or not bounds.has_min_max or bool(bounds.min <= value <= bounds.max)
    return True


@contextmanager
def _parquet_errors(path: Path) -> Iterator[None]:
    import pyarrow

    try:
        yield
    except (OSError, pyarrow.ArrowException) as error:
        raise CorruptError(f"{path} is not a readable parquet file: {error}") from error
