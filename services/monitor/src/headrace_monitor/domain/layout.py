# SPDX-License-Identifier: Apache-2.0
"""Where each piece of state lies in the ordered store: one function for each kind of key.

A prefix letter tells the kinds apart; names hold no "/", and numbers are big-endian, so that a scan
yields them in order. What is free text (entity keys, run ids) comes last and is capped.
"""

from __future__ import annotations

import struct
from hashlib import blake2b

FREE_TEXT_BYTES_MAX = 128  # a longer one is kept by its hash: LMDB's keys end at 511 bytes
HOUR_US = 3_600_000_000

_TIME = struct.Struct(">Q")
_VERSION = struct.Struct(">I")
_SHIFT = 1 << 63  # times before 1970 are ordered too

Span = tuple[bytes, bytes]


def time(us: int) -> bytes:
    return _TIME.pack(us + _SHIFT)


def span(prefix: bytes) -> Span:
    """The keys that begin with a prefix, as bounds of a scan; 0xff ends no prefix of ours."""
    return prefix, prefix + b"\xff"


def before(prefix: bytes, until_us: int) -> Span:
    """The keys of a prefix that is followed by a time, up to that time."""
    return prefix, prefix + time(until_us)


def free(text: str) -> bytes:
    data = text.encode()
    return data if len(data) <= FREE_TEXT_BYTES_MAX else blake2b(data, digest_size=32).digest()


# --- what other services said ---
def mark(topic: str, partition: int) -> bytes:
    """Greatest known time seen in a partition."""
    return marks(topic) + b"%d" % partition


def marks(topic: str) -> bytes:
    return b"k/%s/" % topic.encode()


def topic_id(topic: str) -> bytes:
    """Of which topic the offsets and the known times are."""
    return b"y/" + topic.encode()


def failed_run(run_id: str) -> bytes:
    return b"f/failed/" + free(run_id)


def version_of_run(run_id: str) -> bytes:
    return b"f/run/" + free(run_id)


def version(model: str, number: int) -> bytes:
    """What is known of a version when it is registered."""
    return b"f/version/%s/%d" % (model.encode(), number)


def gate(model: str, number: int) -> bytes:
    return b"f/gate/%s/%d" % (model.encode(), number)


def rollout(endpoint: str) -> bytes:
    return rollouts() + endpoint.encode()


def rollouts() -> bytes:
    return b"f/rollout/"


def was_canary(endpoint: str, number: int) -> bytes:
    return b"f/canary/%s/%d" % (endpoint.encode(), number)


# --- the join ---
def label(monitor: bytes, entity: bytes) -> bytes:
    return b"l/%s/%s" % (monitor, entity)


def asked(monitor: bytes, endpoint: bytes, entity: bytes) -> bytes:
    """The predictions of one entity."""
    return b"e/%s/%s/%s" % (monitor, endpoint, entity)


def due(monitor: bytes, at_us: int, endpoint: bytes, entity: bytes) -> bytes:
    """Look at these predictions at a time; without endpoint, at this label."""
    return b"%s%s%s/%s" % (dues(monitor), time(at_us), endpoint, entity)


def dues(monitor: bytes) -> bytes:
    return b"m/%s/" % monitor


def due_parts(monitor: bytes, key: bytes) -> tuple[bytes, bytes]:
    """Endpoint and entity of a due key."""
    endpoint, _, entity = key[len(dues(monitor)) + _TIME.size :].partition(b"/")
    return endpoint, entity


# --- results ---
def decided(monitor: bytes, as_of_us: int, endpoint: str, number: int) -> bytes:
    """Scores and outcomes of one hour, endpoint and version."""
    hour_us = as_of_us // HOUR_US * HOUR_US
    head = all_decided(monitor) + time(hour_us)
    return b"%s%s%s" % (head, _VERSION.pack(number), endpoint.encode())


def all_decided(monitor: bytes) -> bytes:
    return b"q/%s/" % monitor


def decided_parts(monitor: bytes, key: bytes) -> tuple[int, int, str]:
    """Hour (us), version and endpoint of a decided key."""
    start = len(all_decided(monitor))
    (hour,) = _TIME.unpack_from(key, start)
    (number,) = _VERSION.unpack_from(key, start + _TIME.size)
    return hour - _SHIFT, number, key[start + _TIME.size + _VERSION.size :].decode()


def window(monitor: bytes, end_us: int) -> bytes:
    return windows(monitor) + time(end_us)


def windows(monitor: bytes) -> bytes:
    """The windows that are not judged yet."""
    return b"w/%s/" % monitor


def window_end(monitor: bytes, key: bytes) -> int:
    (end,) = _TIME.unpack_from(key, len(windows(monitor)))
    return int(end) - _SHIFT


def counters(monitor: bytes, end_us: int, number: int) -> bytes:
    """Drift counters of one window against one version's reference."""
    return window_counters(monitor, end_us) + _VERSION.pack(number)


def window_counters(monitor: bytes, end_us: int) -> bytes:
    return b"b/%s/%s" % (monitor, time(end_us))


def held(model: str, number: int, monitor: bytes, block: bytes) -> bytes:
    """Feature rows of a version whose reference is not known yet; `block` has 16 bytes."""
    return b"%s%s/%s" % (all_held(model, number), monitor, block)


def all_held(model: str, number: int) -> bytes:
    return b"h/%s/%d/" % (model.encode(), number)


def held_monitor(model: str, number: int, key: bytes) -> bytes:
    return key[len(all_held(model, number)) : -17]


def pair(monitor: bytes, generation: int, as_of_us: int, id_hash: bytes) -> bytes:
    """One outcome of a canary's trial; a scan yields them in the order of the predictions."""
    return trial(monitor, generation) + time(as_of_us) + id_hash


def trial(monitor: bytes, generation: int) -> bytes:
    return trials(monitor) + _TIME.pack(generation)


def trials(monitor: bytes) -> bytes:
    return b"t/%s/" % monitor


def nonfinite(monitor: bytes, generation: int, window_end_us: int, id_hash: bytes) -> bytes:
    """A request that the canary of a trial said NaN or infinity to."""
    return nonfinites_of(monitor, generation) + time(window_end_us) + id_hash


def nonfinites_of(monitor: bytes, generation: int) -> bytes:
    return nonfinites(monitor) + _TIME.pack(generation)


def nonfinites(monitor: bytes) -> bytes:
    return b"n/%s/" % monitor


def nonfinite_window(monitor: bytes, key: bytes) -> int:
    """The end of its window."""
    (end,) = _TIME.unpack_from(key, len(nonfinites_of(monitor, 0)))
    return int(end) - _SHIFT


def trial_decided(monitor: bytes, generation: int) -> bytes:
    return b"g/%s/%d" % (monitor, generation)


def progress(monitor: bytes) -> bytes:
    return b"s/" + monitor


def incident(monitor: bytes, judged_at_us: int, incident_id: str) -> bytes:
    return incidents(monitor) + time(judged_at_us) + incident_id.encode()


def incidents(monitor: bytes) -> bytes:
    return b"i/%s/" % monitor


def verdict(monitor: bytes, judged_at_us: int, verdict_id: str) -> bytes:
    """A past verdict, for people."""
    return verdicts(monitor) + time(judged_at_us) + verdict_id.encode()


def verdicts(monitor: bytes) -> bytes:
    return b"v/%s/" % monitor


# --- what is still to be sent ---
def output(number: int) -> bytes:
    return b"o/" + _TIME.pack(number)


def outputs() -> bytes:
    return b"o/"
