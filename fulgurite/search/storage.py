"""Where a study is kept: SQLite in its folder, or any database that SQLAlchemy reaches."""

from __future__ import annotations

from typing import Any

from optuna.storages import RDBStorage

_PATIENCE = 120  # seconds that a writer of SQLite waits for another


def open_storage(url: str) -> RDBStorage:
    """Open a database, with its tables made where they are missing.

    Raises:
        ValueError: If the address is none, its driver is missing, or nobody answers; the password is not shown.
    """
    import sqlalchemy

    options: dict[str, Any] = {"pool_pre_ping": True}
    if url.startswith("sqlite"):
        options = {"connect_args": {"timeout": _PATIENCE}}
    try:
        return RDBStorage(url, engine_kwargs=options)
    except sqlalchemy.exc.NoSuchModuleError as error:
        raise ValueError(f"storage {shown(url)}: SQLAlchemy knows no such database: {error}") from error
    except sqlalchemy.exc.ArgumentError as error:
        raise ValueError(f"storage must be an address such as sqlite:///study.db, got {url!r}") from error
    except ImportError as error:
        raise ValueError(
            f"storage {shown(url)}: its driver is missing ({error}); for PostgreSQL: pip install 'psycopg[binary]'"
        ) from error
    except sqlalchemy.exc.SQLAlchemyError as error:
        said = " ".join(str(getattr(error, "orig", error)).split())
        raise ValueError(f"storage {shown(url)}: cannot be opened: {said}") from error


def shown(url: str) -> str:
    """An address without its password."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return "storage"
