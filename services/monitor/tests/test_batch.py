# SPDX-License-Identifier: Apache-2.0
"""A batch over the store behaves like the store would after it."""

from hypothesis import given
from hypothesis import strategies as st

from headrace_kit.kafka import Partition
from headrace_kit.state_store import MemoryStateStore
from headrace_monitor.handlers.batch import Batch

keys = st.sampled_from([b"a", b"b", b"c", b"d"])
steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), keys, st.binary(max_size=3)),
        st.tuples(st.just("append"), keys, st.binary(max_size=3)),
        st.tuples(st.just("delete"), keys),
        st.tuples(st.just("get"), keys),
        st.tuples(st.just("scan"), keys, keys),
        st.tuples(st.just("commit")),
    ),
    max_size=30,
)


@given(steps)
def test_batch_reads_its_own_writes_and_stores_them_at_once(steps):
    store, expected = MemoryStateStore(), {}
    batch = Batch(store)
    for name, *arguments in steps:
        if name == "put":
            batch.put(*arguments)
            expected[arguments[0]] = arguments[1]
        elif name == "append":
            batch.append(*arguments)
            expected[arguments[0]] = expected.get(arguments[0], b"") + arguments[1]
        elif name == "delete":
            batch.delete(*arguments)
            expected.pop(arguments[0], None)
        elif name == "get":
            assert expected.get(arguments[0]) == batch.get(arguments[0])
        elif name == "scan":
            first, last = arguments
            found = [(k, v) for k, v in sorted(expected.items()) if first <= k < last]
            assert found == batch.scan((first, last))
        else:
            batch.commit({Partition("t", 0): 1})
            batch = Batch(store)
            assert expected == dict(store.scan(b"", b"\xff"))
