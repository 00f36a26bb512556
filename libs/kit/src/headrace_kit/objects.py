# SPDX-License-Identifier: Apache-2.0
"""Objects by key, in a folder or an S3 bucket; a key is written once, replaced whole, or deleted.

Everything rests on `put_if_absent` having one winner, so `self_test` races it at start: there are
S3 servers that take the condition and ignore it.
"""

from __future__ import annotations

import mmap
import os
import re
import shutil
import ssl
import tempfile
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote, urlsplit

from pydantic import SecretStr

from headrace.errors import Invalid, NotFound, Unavailable
from headrace_kit.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

CONNECT_TIMEOUT_S = 3.0
PUT_RETRY_S = 0.2
PUT_TRIES_MAX = 4
CUT_PUT_AGE_S_MAX = 24 * 3600
PIECE_BYTES = 1 << 20
READ_TIMEOUT_S = 20.0
# Without these deltalake asks an S3 server that is away for minutes before it says so.
DELTA_BOUNDS = {
    "connect_timeout": "3s",
    "timeout": "20s",
    "max_retries": "2",
    "retry_timeout": "10s",
}
REFUSED = "it refuses the access key, its secret, or what they may"
PROBLEM_BY_CODE = {
    "AccessDenied": REFUSED,
    "InvalidAccessKeyId": REFUSED,
    "SignatureDoesNotMatch": REFUSED,
    "AuthorizationHeaderMalformed": "it is of another region than S3_REGION, or reads no such key",
}
OWN_AUTHORITY = "SSL_CERT_FILE takes the PEM file of an authority of your own"
NO_WINNER = "no put was told that it stored, as when answers are lost: start again"
# S3's first, and what servers call theirs that are not Amazon's.
S3_REGION = "us-east-1"
RACERS = 4
RACES = 3
# Plain segments only: no "..", no empty one, nothing that a shell, a URL or a file system reads.
KEY = re.compile(r"(?!.*(?:^|/)\.)[A-Za-z0-9._=-]+(?:/[A-Za-z0-9._=-]+)*")
KEY_CHARS_MAX = 512
# Uploads that one pass lists at a time, and ends at most.
UNENDED_PAGE, UNENDED_MAX = 1_000, 1_000
# So deltalake calls a large file in a folder until it is whole.
UNENDED = re.compile(r".+#\d+")


class ObjectStore(Protocol):
    """Bytes by key; `/` separates the segments of a key."""

    def put_if_absent(self, key: str, data: bytes | memoryview) -> bool:
        """Store the bytes under a new key; False when the key exists. One of racing puts wins."""

    def put_file_if_absent(self, key: str, file: IO[bytes]) -> bool:
        """The same of all bytes of a file on disk, which are never in memory together."""

    def put(self, key: str, data: bytes | memoryview) -> None:
        """Store the bytes in place of what is there: a reader has the old or these, whole.

        One that fails leaves the old.
        """

    def put_file(self, key: str, file: IO[bytes]) -> None:
        """The same of all bytes of a file on disk."""

    def get(self, key: str) -> bytes:
        """The bytes of a key; raises NotFound ARTIFACT_UNKNOWN."""

    def pieces(self, key: str) -> Iterator[bytes]:
        """The bytes of a key, at most 1 MiB at a time; raises NotFound ARTIFACT_UNKNOWN."""

    def exists(self, key: str) -> bool:
        """Whether the key was put."""

    def keys(self, folder: str) -> list[str]:
        """What was put below `folder`, at any depth, sorted."""

    def delete(self, key: str) -> None:
        """Forget the key; one that is absent stays so."""

    def forget_unended(self, folder: str) -> None:
        """What deltalake began to write below `folder` a day ago and never ended.

        A writer that is killed leaves it, and no list of keys, ours or deltalake's, has it.
        """


@dataclass(frozen=True, slots=True)
class S3Settings:
    """How to reach an S3 server; `endpoint` is a URI such as http://127.0.0.1:7070."""

    endpoint: str
    access_key: str
    secret_key: SecretStr
    region: str = S3_REGION


def object_store(uri: str, s3: S3Settings | None) -> ObjectStore:
    """The store of `file:///folder` or `s3://bucket/prefix`; raises Invalid BAD_SETTING."""
    try:
        check_object_store(uri, s3)
    except ValueError as err:
        raise Invalid("BAD_SETTING", setting="object_store_uri", problem=err) from err
    parts = urlsplit(uri)
    if s3 is None or parts.scheme == "file":
        return FolderObjectStore(Path(unquote(parts.path)))
    return S3ObjectStore(s3, bucket=parts.netloc, prefix=parts.path.strip("/"))


def check_object_store(uri: str, s3: S3Settings | None) -> None:
    """Raises ValueError, with a sentence, unless these settings name a store."""
    parts = urlsplit(uri)
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path:
        return
    if parts.scheme != "s3" or not parts.netloc:
        raise ValueError("OBJECT_STORE_URI is neither file:///FOLDER nor s3://BUCKET/PREFIX")
    if s3 is None:
        raise ValueError("an s3:// store needs S3_ENDPOINT, S3_ACCESS_KEY and S3_SECRET_KEY")
    endpoint = urlsplit(s3.endpoint)
    if endpoint.scheme not in ("http", "https") or not endpoint.netloc or endpoint.path.strip("/"):
        raise ValueError("S3_ENDPOINT is neither http://HOST:PORT nor https://HOST")


def delta_table_uri(uri: str, *names: str) -> str:
    """Where a Delta table lives inside the object store, e.g. `records`, `flights.departed`."""
    return "/".join([uri.rstrip("/"), *names])


def delta_storage_options(uri: str, s3: S3Settings | None) -> dict[str, str]:
    """What deltalake must be told to reach a table of this object store."""
    if s3 is None or not uri.startswith("s3://"):
        return {}
    return {
        "AWS_ACCESS_KEY_ID": s3.access_key,
        "AWS_SECRET_ACCESS_KEY": s3.secret_key.get_secret_value(),
        "AWS_ENDPOINT_URL": s3.endpoint,
        "AWS_REGION": s3.region,
        "AWS_ALLOW_HTTP": "true" if s3.endpoint.startswith("http://") else "false",
        "aws_conditional_put": "etag",  # a commit is a put of an absent key, never a rename
        **DELTA_BOUNDS,
    }


def self_test(store: ObjectStore) -> None:
    """Race puts of one key; raises Unavailable OBJECT_STORE_UNSAFE unless exactly one wins.

    OBJECT_STORE_UNAVAILABLE where none does: its client puts again when an answer is lost, and then
    meets what the first put has stored, so nothing is known of the store but that it was slow.
    """
    with ThreadPoolExecutor(RACERS) as pool:
        for _ in range(RACES):
            key = f"self-test/{uuid.uuid4().hex}"
            try:
                _race(store, key, pool)
            finally:
                store.delete(key)


def _race(store: ObjectStore, key: str, pool: ThreadPoolExecutor) -> None:
    barrier = threading.Barrier(RACERS, timeout=READ_TIMEOUT_S)

    def put(racer: int) -> bool:
        barrier.wait()
        return store.put_if_absent(key, b"%d" % racer)

    winners = [racer for racer, won in enumerate(list(pool.map(put, range(RACERS)))) if won]
    if not winners:
        raise Unavailable("OBJECT_STORE_UNAVAILABLE", problem=NO_WINNER)
    if len(winners) != 1 or store.get(key) != b"%d" % winners[0]:
        raise Unavailable("OBJECT_STORE_UNSAFE", winners=len(winners))


def _checked(key: str) -> str:
    if len(key) > KEY_CHARS_MAX or not KEY.fullmatch(key):
        raise Invalid("BAD_NAME", key=key[:KEY_CHARS_MAX])
    return key


class FolderObjectStore:
    """ObjectStore in a folder: files appear whole, by a link that refuses an old name or a rename.

    They are written beside it; what a killed process left there goes with a later put.
    """

    def __init__(self, root: Path) -> None:
        self._root, self._puts = root, root / ".puts"

    def put_if_absent(self, key: str, data: bytes | memoryview) -> bool:
        return self._put(key, lambda into: into.write(data), os.link)

    def put_file_if_absent(self, key: str, file: IO[bytes]) -> bool:
        return self._put_file(key, file, os.link)

    def put(self, key: str, data: bytes | memoryview) -> None:
        self._put(key, lambda into: into.write(data), os.replace)

    def put_file(self, key: str, file: IO[bytes]) -> None:
        self._put_file(key, file, os.replace)

    def _put_file(self, key: str, file: IO[bytes], place: Callable[[str, Path], None]) -> bool:
        file.seek(0)
        return self._put(key, lambda into: shutil.copyfileobj(file, into, PIECE_BYTES), place)

    def _put(
        self, key: str, write: Callable[[IO[bytes]], object], place: Callable[[str, Path], None]
    ) -> bool:
        target = self._path(key)
        with _file_errors():
            target.parent.mkdir(parents=True, exist_ok=True)
            self._puts.mkdir(exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=".put-", dir=self._puts)
            try:
                _forget_old(self._puts.iterdir(), os.fstat(handle).st_mtime - CUT_PUT_AGE_S_MAX)
                with os.fdopen(handle, "wb") as into:
                    write(into)
                    into.flush()
                    os.fsync(into.fileno())
                place(name, target)
                _sync_folder(target.parent)
            except FileExistsError:
                return False
            finally:
                Path(name).unlink(missing_ok=True)  # a rename took it away
        return True

    def get(self, key: str) -> bytes:
        with _file_errors():
            try:
                return self._path(key).read_bytes()
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as err:
                raise NotFound("ARTIFACT_UNKNOWN", key=key) from err

    def pieces(self, key: str) -> Iterator[bytes]:
        with _file_errors():
            try:
                file = self._path(key).open("rb")
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as err:
                raise NotFound("ARTIFACT_UNKNOWN", key=key) from err
            with file:
                while piece := file.read(PIECE_BYTES):
                    yield piece

    def exists(self, key: str) -> bool:
        return self._path(key).is_file()

    def keys(self, folder: str) -> list[str]:
        found = (path for path in self._path(folder).rglob("*") if path.is_file())
        return sorted(
            path.relative_to(self._root).as_posix() for path in found if path.name[0] != "."
        )

    def delete(self, key: str) -> None:
        with _file_errors():
            self._path(key).unlink(missing_ok=True)

    def forget_unended(self, folder: str) -> None:
        oldest_s = SystemClock().now_us() / 1e6 - CUT_PUT_AGE_S_MAX
        with _file_errors():
            found = self._path(folder).rglob("*#*")
            _forget_old((each for each in found if UNENDED.fullmatch(each.name)), oldest_s)

    def _path(self, key: str) -> Path:
        return self._root / _checked(key)


def _forget_old(files: Iterable[Path], oldest_s: float) -> None:
    for file in files:
        with suppress(FileNotFoundError):  # its writer has just ended
            if file.stat().st_mtime < oldest_s:
                file.unlink()


@contextmanager
def _file_errors() -> Iterator[None]:
    try:
        yield
    except OSError as err:
        raise Unavailable("OBJECT_STORE_UNAVAILABLE", error=os.strerror(err.errno or 0)) from err


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _mapped(file: IO[bytes]) -> Iterator[memoryview]:
    """Mapped: minio wants all at once, twice, and the kernel takes pages back at will."""
    file.flush()
    with (
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
        memoryview(mapped) as data,
    ):
        yield data


class S3ObjectStore:
    """ObjectStore in a bucket of any S3 server that honours `If-None-Match: *`."""

    def __init__(self, settings: S3Settings, *, bucket: str, prefix: str = "") -> None:
        import urllib3  # the extra `objects`
        from minio import Minio
        from minio.error import MinioException, S3Error

        endpoint = urlsplit(settings.endpoint)
        self._s3_error: type[Any] = S3Error
        self._errors = (MinioException, urllib3.exceptions.HTTPError)
        self._bucket, self._prefix = bucket, prefix + "/" if prefix else ""
        self._client: Any = Minio(
            endpoint.netloc,
            access_key=settings.access_key,
            secret_key=settings.secret_key.get_secret_value(),
            secure=endpoint.scheme == "https",
            region=settings.region,
            http_client=urllib3.PoolManager(
                timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=READ_TIMEOUT_S),
                retries=urllib3.Retry(total=2, backoff_factor=0.2, status_forcelist=[502, 503]),
                maxsize=10,
            ),
        )

    def put_file_if_absent(self, key: str, file: IO[bytes]) -> bool:
        with _mapped(file) as data:
            return self.put_if_absent(key, data)

    def put_file(self, key: str, file: IO[bytes]) -> None:
        with _mapped(file) as data:
            self.put(key, data)

    def put(self, key: str, data: bytes | memoryview) -> None:
        self._put(key, data, {})

    def put_if_absent(self, key: str, data: bytes | memoryview) -> bool:
        return self._put(key, data, {"If-None-Match": "*"})

    def _put(self, key: str, data: bytes | memoryview, condition: dict[str, str]) -> bool:
        name = self._prefix + _checked(key)
        with self._store_errors():
            for attempt in range(PUT_TRIES_MAX):
                try:
                    return self._put_once(name, data, condition)
                except self._s3_error as err:
                    if attempt == PUT_TRIES_MAX - 1:
                        raise
                    if err.code == "NoSuchBucket":
                        self._make_bucket()
                    elif err.code == "ConditionalRequestConflict":  # another put is in flight
                        time.sleep(PUT_RETRY_S)
                    else:
                        raise
        raise AssertionError("the last attempt returns or raises")

    def _put_once(self, name: str, data: bytes | memoryview, condition: dict[str, str]) -> bool:
        # minio's put_object sends no condition; the call below it takes headers as they are.
        try:
            self._client._put_object(
                self._bucket,
                name,
                data,
                headers={**condition, "Content-Type": "application/octet-stream"},
            )
        except self._s3_error as err:
            if err.code == "PreconditionFailed":
                return False
            raise
        return True

    def _make_bucket(self) -> None:
        try:
            self._client.make_bucket(self._bucket)
        except self._s3_error as err:
            if err.code not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                raise

    def get(self, key: str) -> bytes:
        with BytesIO() as buffer:
            buffer.writelines(self.pieces(key))
            return buffer.getvalue()

    def pieces(self, key: str) -> Iterator[bytes]:
        with self._store_errors(key):
            response = self._client.get_object(self._bucket, self._prefix + _checked(key))
            try:
                yield from response.stream(PIECE_BYTES)
            finally:
                response.close()
                response.release_conn()

    def exists(self, key: str) -> bool:
        try:
            with self._store_errors(key):
                self._client.stat_object(self._bucket, self._prefix + _checked(key))
        except NotFound:
            return False
        return True

    def keys(self, folder: str) -> list[str]:
        prefix = f"{self._prefix}{_checked(folder)}/"
        try:
            with self._store_errors():
                found = self._client.list_objects(self._bucket, prefix=prefix, recursive=True)
                return sorted(each.object_name.removeprefix(self._prefix) for each in found)
        except NotFound:  # no bucket yet
            return []

    def delete(self, key: str) -> None:
        with self._store_errors(key), suppress(NotFound):
            self._client.remove_object(self._bucket, self._prefix + _checked(key))

    def forget_unended(self, folder: str) -> None:
        """At most a thousand; some S3 servers know no rule that would do this by itself."""
        prefix = f"{self._prefix}{_checked(folder)}/"
        oldest_s = SystemClock().now_us() / 1e6 - CUT_PUT_AGE_S_MAX
        with suppress(NotFound), self._store_errors():  # no bucket yet
            begun = self._begun_uploads(prefix)
            old = (each for each in begun if each.initiated_time.timestamp() < oldest_s)
            for each in islice(old, UNENDED_MAX):
                self._end_upload(each)

    # minio has no public name for what the next two call, unlike S3's own interface.

    def _begun_uploads(self, prefix: str) -> Iterator[Any]:
        """By key. Of one whose uploads lie on two pages those on the second are left for a later
        pass: versitygw takes no marker of an upload that was ended since.
        """
        after, before = "", None
        while after != before:  # else the server knows no markers
            page = self._client._list_multipart_uploads(
                self._bucket, prefix=prefix, max_uploads=UNENDED_PAGE, key_marker=after
            )
            yield from page.uploads
            if not page.is_truncated or not page.uploads:
                return
            after, before = page.uploads[-1].object_name, after

    def _end_upload(self, upload: Any) -> None:
        with suppress(NotFound), self._store_errors():  # another process was faster
            self._client._abort_multipart_upload(self._bucket, upload.object_name, upload.upload_id)

    @contextmanager
    def _store_errors(self, key: str = "") -> Iterator[None]:
        try:
            yield
        except self._errors as err:
            code = getattr(err, "code", type(err).__name__)
            if code in ("NoSuchKey", "NoSuchObject", "NoSuchBucket", "NoSuchUpload"):
                raise NotFound("ARTIFACT_UNKNOWN", key=key) from err
            raise Unavailable("OBJECT_STORE_UNAVAILABLE", **_told(err, code)) from err


def _told(error: Any, code: str) -> dict[str, str]:
    if code in PROBLEM_BY_CODE:
        return {"error": code, "problem": PROBLEM_BY_CODE[code]}
    given_up = getattr(error, "reason", error)  # urllib3 wraps what it met each time
    met = given_up.args[0] if isinstance(given_up, Exception) and given_up.args else None
    if not isinstance(met, ssl.SSLError):
        return {"error": code}
    if isinstance(met, ssl.SSLCertVerificationError):
        problem = f"its certificate is not trusted ({met.verify_message}): {OWN_AUTHORITY}"
    else:
        problem = f"no TLS with it ({met.reason})"
    return {"error": type(met).__name__, "problem": problem}


class MemoryObjectStore:
    """ObjectStore of a test."""

    def __init__(self) -> None:
        self._data_by_key: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def put_file_if_absent(self, key: str, file: IO[bytes]) -> bool:
        file.seek(0)
        return self.put_if_absent(key, file.read())

    def put_file(self, key: str, file: IO[bytes]) -> None:
        file.seek(0)
        self.put(key, file.read())

    def put(self, key: str, data: bytes | memoryview) -> None:
        with self._lock:
            self._data_by_key[_checked(key)] = bytes(data)

    def put_if_absent(self, key: str, data: bytes | memoryview) -> bool:
        with self._lock:
            if _checked(key) in self._data_by_key:
                return False
            self._data_by_key[key] = bytes(data)
            return True

    def get(self, key: str) -> bytes:
        if _checked(key) not in self._data_by_key:
            raise NotFound("ARTIFACT_UNKNOWN", key=key)
        return self._data_by_key[key]

    def pieces(self, key: str) -> Iterator[bytes]:
        yield self.get(key)

    def exists(self, key: str) -> bool:
        return _checked(key) in self._data_by_key

    def keys(self, folder: str = "") -> list[str]:
        with self._lock:
            return sorted(
                key for key in self._data_by_key if not folder or key.startswith(f"{folder}/")
            )

    def delete(self, key: str) -> None:
        with self._lock:
            self._data_by_key.pop(_checked(key), None)

    def forget_unended(self, folder: str) -> None:
        """Nothing is written in parts."""
