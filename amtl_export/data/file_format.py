"""How files are written: those of the data, and those that are joined to it."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from amtl_export.data.strict import Strict


class FileFormat(Strict):
    """How the files are written.

    Attributes:
        format: csv, tsv, parquet, libsvm or libffm; by the files' suffix when not given.
        pattern: which files of a folder are read, in name order.
        separator: between columns; more than one character is allowed (then nothing is quoted).
        header: whether the first line names the columns.
        columns: the columns' names when there is no header.
        quote: the quote character; empty for none.
        encoding: of text files.
        missing: texts that mean "missing", besides the empty one.
    """

    format: Literal["csv", "tsv", "parquet", "libsvm", "libffm"] | None = None
    pattern: str | None = None
    separator: Annotated[str, Field(min_length=1)] | None = None
    header: bool = True
    columns: tuple[str, ...] | None = None
    quote: Annotated[str, Field(pattern=r"^[\x01-\x7f]?$")] = '"'
    encoding: Literal["utf8", "latin-1"] = "utf8"
    missing: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _named_columns(self) -> Self:
        _check_columns(self.columns, self.header)
        if self.columns and self.header:
            raise ValueError("columns = [...] is for files without a header: say header = false, or drop it")
        return self


class JoinSchema(Strict):
    """A side file: each row of the data gets the columns of the row there that has its key.

    Attributes:
        file: relative to the folder.
        key: the data's column, or one that an earlier join gave.
        file_key: the side file's column, if it is called otherwise.
        columns: that are joined; all but the key when not given. Of a file without a header, the names of all columns.
        prefix: stands before the names of joined columns.
        format: csv, tsv or parquet; by the file's suffix when not given.
        separator: see `FileFormat`, as `header`, `quote` and `encoding`.
    """

    file: Annotated[str, Field(min_length=1)]
    key: Annotated[str, Field(min_length=1)]
    file_key: Annotated[str, Field(min_length=1)] | None = None
    columns: tuple[str, ...] | None = None
    prefix: str = ""
    format: Literal["csv", "tsv", "parquet"] | None = None
    separator: Annotated[str, Field(min_length=1)] | None = None
    header: bool = True
    quote: Annotated[str, Field(pattern=r"^[\x01-\x7f]?$")] = '"'
    encoding: Literal["utf8", "latin-1"] = "utf8"

    @model_validator(mode="after")
    def _reads(self) -> Self:
        _check_columns(self.columns, self.header)
        return self

    @property
    def own_key(self) -> str:
        """The side file's column."""
        return self.file_key or self.key

    @property
    def written(self) -> FileFormat:
        """How the side file is written."""
        return FileFormat(
            format=self.format,
            separator=self.separator,
            header=self.header,
            columns=None if self.header else self.columns,
            quote=self.quote,
            encoding=self.encoding,
        )


def _check_columns(columns: tuple[str, ...] | None, header: bool) -> None:
    """A file without a header needs names for its columns, each once."""
    if not header and not columns:
        raise ValueError("header = false needs columns = [...]")
    if columns and len(set(columns)) != len(columns):
        raise ValueError("columns has a name twice")
