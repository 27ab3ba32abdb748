"""MovieLens-1M and -100K, under the protocol of RecBole's context-aware benchmark.

Ratings of 3 are dropped, the label is rating >= 4, the split random 80/10/10.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from amtl_export.data.field_schema import FieldSchema
from amtl_export.data.frames import Reading
from amtl_export.data.named.files import find, joined, side_table, table
from amtl_export.data.schema import RandomSplit, Schema
from amtl_export.data.source import Source

_USER = ("user_id", "gender", "age", "occupation")
_GENRES_100K = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama",
    "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip


def _schema() -> Schema:
    def plain(name: str) -> FieldSchema:
        return FieldSchema(name=name, kind="categorical", governed=False)

    return Schema(
        label="rating >= 4",
        filter="rating <> 3",
        group="user_id",
        split=RandomSplit(valid=0.1, test=0.1),
        fields=(
            FieldSchema(name="user_id", kind="categorical", type="int64"),
            FieldSchema(name="item_id", kind="categorical", type="int64"),
            plain("age"),
            plain("gender"),
            plain("occupation"),
            plain("release_year"),
            FieldSchema(name="genre", kind="multi-valued", separator="|", max_length=8, governed=False),
        ),
    )


def ml_1m(folder: Path) -> Source:
    """`ratings.dat` (four columns) or `ratings_nots.dat` (three), `users.dat`, `movies.dat`."""
    ratings = find(folder, "ratings.dat", "ratings_nots.dat")
    with ratings.open(encoding="latin-1") as text:
        parts = text.readline().count("::") + 1
    columns = ("user_id", "item_id", "rating", "timestamp")[: 3 if parts == 3 else 4]
    users = side_table(find(folder, "users.dat"), "::", ("user_id", "gender", "age", "occupation", "zip"))
    movies = side_table(find(folder, "movies.dat"), "::", ("item_id", "title", "genre"), "latin-1")
    movies = movies.select("item_id", "genre", release_year=_year(pl.col("title")))
    return _ratings("ml-1m", folder, ratings, table(ratings, "::", columns), users.select(_USER), movies)


def ml_100k(folder: Path) -> Source:
    """`u.data`, `u.user`, `u.item`."""
    ratings = find(folder, "u.data")
    users = side_table(find(folder, "u.user"), "|", ("user_id", "age", "gender", "occupation", "zip"))
    flags = tuple(f"g{i}" for i in range(len(_GENRES_100K)))
    columns = ("item_id", "title", "released", "video_released", "url", *flags)
    movies = side_table(find(folder, "u.item"), "|", columns, "latin-1")
    names = [pl.when(pl.col(f) == "1").then(pl.lit(g)) for f, g in zip(flags, _GENRES_100K, strict=True)]
    genre = pl.concat_str(names, separator="|", ignore_nulls=True)
    movies = movies.select("item_id", genre=genre, release_year=_year(pl.col("title")))
    rated = table(ratings, "\t", ("user_id", "item_id", "rating", "timestamp"))
    return _ratings("ml-100k", folder, ratings, rated, users.select(_USER), movies)


def _year(title: pl.Expr) -> pl.Expr:
    return title.str.extract(r"\((\d{4})[^)]*\)\s*$", 1)


def _ratings(
    name: str, folder: Path, file: Path, ratings: Reading, users: pl.LazyFrame, movies: pl.LazyFrame
) -> Source:
    frame = ratings.frame.join(users, on="user_id", how="left", maintain_order="left")
    frame = frame.join(movies, on="item_id", how="left", maintain_order="left")
    return joined(name, folder, file, ratings._replace(frame=frame), _schema())
