# SPDX-License-Identifier: Apache-2.0
"""Delta tables as data sets of Arrow, whose files Arrow reads itself.

deltalake would hand Arrow a file system that is written in Python. Arrow takes a lock of a scan and
then the interpreter's to tell an error that is Python's, while the thread that began the scan holds
the interpreter's and waits for the scan's: a file that was removed stopped the process for good.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

CONNECT_TIMEOUT_S = 3.0
REQUEST_TIMEOUT_S = 20.0
TRIES_MAX = 3


def arrow_dataset(table: Any, options: Mapping[str, str], *, read_options: Any = None) -> Any:
    """The version of a DeltaTable that it holds, as a pyarrow data set.

    `options`: those of `delta_storage_options`. To read a file that is gone is FileNotFoundError.
    """
    return table.to_pyarrow_dataset(
        filesystem=_files(table.table_uri, options), parquet_read_options=read_options
    )


def met_no_file(error: Exception) -> bool:
    """Of DuckDB, or of who reads what it answers: of a folder and of S3 alike."""
    return met_no_store(error) and f"[errno {errno.ENOENT}]" in str(error)


def met_no_store(error: Exception) -> bool:
    """The same, whatever kept it from reading the files of a data set."""
    return "failed: IOError: " in str(error)


def _files(uri: str, options: Mapping[str, str]) -> Any:
    """What is below `uri`, as pyarrow's own file system."""
    from pyarrow import fs

    parts = urlsplit(uri)
    if not options:
        return fs.SubTreeFileSystem(unquote(parts.path), fs.LocalFileSystem())
    endpoint = urlsplit(options["AWS_ENDPOINT_URL"])
    bucket = fs.S3FileSystem(
        access_key=options["AWS_ACCESS_KEY_ID"],
        secret_key=options["AWS_SECRET_ACCESS_KEY"],
        region=options["AWS_REGION"],
        scheme=endpoint.scheme,
        endpoint_override=endpoint.netloc,
        connect_timeout=CONNECT_TIMEOUT_S,
        request_timeout=REQUEST_TIMEOUT_S,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=TRIES_MAX),
    )
    return fs.SubTreeFileSystem(f"{parts.netloc}{unquote(parts.path)}", bucket)
