# SPDX-License-Identifier: Apache-2.0
"""Claims name bytes of an endpoint by digest and length: who stores, who finds, what goes when."""

import pytest

from headrace.errors import Busy, Corrupt, Denied, Invalid, NotFound, Unavailable
from headrace.inference.v1 import inference_events_pb2 as events_pb
from headrace.inference.v1 import inference_service_pb2 as pb
from headrace.tokens import Caller
from headrace_inference.adapters import object_claims
from headrace_inference.adapters.claim_api import ClaimApi
from headrace_inference.adapters.object_claims import DAYS_MAX, ObjectClaims
from headrace_inference.domain.claim import COUNTED_BYTES_MIN, DAY_US, Claim, kept_objects
from headrace_inference.domain.serving import ServingTable
from headrace_inference.testing import an_endpoint
from headrace_kit.auth import work_for
from headrace_kit.objects import MemoryObjectStore, object_store
from headrace_kit.testing import FixedClock

DATA = b"an encoded request"
UNIT = COUNTED_BYTES_MIN


@pytest.fixture(params=["memory", "folder"])
def store(request, tmp_path):
    return (
        MemoryObjectStore() if request.param == "memory" else object_store(tmp_path.as_uri(), None)
    )


@pytest.fixture
def clock():
    return FixedClock()


@pytest.fixture
def make_claims(store, clock):
    """Replicas on one store."""

    def make(*, bytes_max=1_000, all_bytes_max=1 << 30):
        return ObjectClaims(store, clock=clock, bytes_max=bytes_max, all_bytes_max=all_bytes_max)

    return make


@pytest.fixture
def claims(make_claims):
    return make_claims()


def test_what_was_stored_is_read_by_its_claim(make_claims):
    claim = make_claims().store("delay", DATA)

    assert DATA == make_claims().read("delay", claim)


@pytest.mark.parametrize(
    ("endpoint", "claim"),
    [
        ("other", Claim.of(DATA)),
        ("delay", Claim(Claim.of(DATA).digest, len(DATA) - 1)),
        ("delay", Claim.of(b"never stored")),
    ],
    ids=["of another endpoint", "of another length", "never stored"],
)
def test_claim_of_what_was_not_stored_so_is_unknown(claims, endpoint, claim):
    claims.store("delay", DATA)
    with pytest.raises(NotFound, match="CLAIM_UNKNOWN"):
        claims.read(endpoint, claim)


@pytest.mark.parametrize("other", [b"xx encoded request", DATA[:-1]], ids=["flipped", "cut"])
def test_other_bytes_in_its_place_are_never_read(claims, store, other):
    claim = claims.store("delay", DATA)
    (key,) = store.keys("claims")
    store.delete(key)
    store.put_if_absent(key, other)
    with pytest.raises(Corrupt, match="DIGEST_MISMATCH"):
        claims.read("delay", claim)


@pytest.mark.parametrize("other", [b"xx encoded request", b""], ids=["flipped", "emptied"])
@pytest.mark.parametrize("keep", ["store", "keep_answer"])
def test_changed_bytes_are_replaced_by_those_that_are_stored_again(claims, store, other, keep):
    claim = claims.store("delay", DATA)
    (key,) = store.keys("claims")
    store.delete(key)
    store.put_if_absent(key, other)

    assert claim == getattr(claims, keep)("delay", DATA)

    assert DATA == claims.read("delay", claim)
    assert [key] == store.keys("claims")


def test_what_is_too_large_is_neither_stored_nor_read(claims):
    for refused in (
        lambda: claims.store("delay", bytes(1_001)),
        lambda: claims.keep_answer("delay", bytes(1_001)),
        lambda: claims.read("delay", Claim.of(bytes(1_001))),
    ):
        with pytest.raises(Invalid, match="TOO_LARGE"):
            refused()


@pytest.mark.parametrize(
    ("digest", "size", "field"),
    [
        ("../../etc/passwd", "1", "digest"),
        ("A" * 64, "1", "digest"),
        ("", "1", "digest"),
        ("a" * 64, "", "size_bytes"),
        ("a" * 64, "-1", "size_bytes"),
        ("a" * 64, "٣", "size_bytes"),
        ("a" * 64, "9" * 13, "size_bytes"),
    ],
)
def test_what_names_no_bytes_is_no_claim(digest, size, field):
    with pytest.raises(Invalid, match=f"BAD_REQUEST.*{field}"):
        Claim.parsed(digest, size)


def test_same_bytes_are_one_object_a_day(claims, store, clock):
    for _ in range(2):
        claims.store("delay", DATA)
    assert 1 == len(store.keys("claims"))
    clock.advance(DAY_US)
    claims.store("delay", DATA)

    assert 2 == len(store.keys("claims"))


def test_what_nobody_can_claim_any_more_goes(claims, store, clock):
    claim = claims.store("delay", DATA)
    clock.advance(DAYS_MAX * DAY_US)
    assert 0 == claims.sweep()
    assert DATA == claims.read("delay", claim)
    clock.advance(DAY_US)
    with pytest.raises(NotFound, match="CLAIM_UNKNOWN"):
        claims.read("delay", claim)

    assert 1 == claims.sweep()
    assert [] == store.keys("claims")


def test_stored_again_it_lasts_longer(claims, clock):
    claim = claims.store("delay", DATA)
    clock.advance(DAYS_MAX * DAY_US)
    claims.store("delay", DATA)
    clock.advance(DAY_US)
    claims.sweep()

    assert DATA == claims.read("delay", claim)


def test_sweep_takes_so_many_at_a_time_and_leaves_what_is_none_of_its_own(
    claims, store, clock, monkeypatch
):
    monkeypatch.setattr(object_claims, "SWEPT_MAX", 3)
    store.put_if_absent("claims/1/delay/README", b"by hand")
    for number in range(5):
        claims.store("delay", b"%d" % number)
    clock.advance((DAYS_MAX + 1) * DAY_US)

    assert [3, 2, 0] == [claims.sweep() for _ in range(3)]
    assert ["claims/1/delay/README"] == store.keys("claims")


@pytest.mark.parametrize("ahead_us", [-2, 2])
def test_clocks_of_replicas_may_differ_about_midnight(store, ahead_us):
    midnight = FixedClock(20_000 * DAY_US), FixedClock(20_000 * DAY_US + ahead_us)
    one, other = (
        ObjectClaims(store, clock=clock, bytes_max=100, all_bytes_max=1 << 30) for clock in midnight
    )

    assert DATA == other.read("delay", one.store("delay", DATA))


def test_callers_leave_room_for_answers_and_for_other_endpoints(make_claims):
    claims = make_claims(all_bytes_max=4 * UNIT)
    claims.store("delay", b"a")
    with pytest.raises(Busy, match="CLAIMS_FULL"):
        claims.store("delay", b"b")
    claims.store("other", b"c")
    with pytest.raises(Busy, match="CLAIMS_FULL"):
        claims.store("third", b"d")

    claims.keep_answer("delay", b"e")
    claims.keep_answer("delay", b"f")
    with pytest.raises(Busy, match="CLAIMS_FULL"):
        claims.keep_answer("delay", b"g")


def test_large_objects_count_for_what_they_hold(make_claims):
    claims = make_claims(bytes_max=4 * UNIT, all_bytes_max=4 * UNIT)
    claims.keep_answer("delay", bytes(3 * UNIT))
    with pytest.raises(Busy, match="CLAIMS_FULL"):
        claims.keep_answer("delay", bytes(UNIT + 1))


def test_what_others_stored_counts(make_claims):
    make_claims().store("delay", b"a")
    with pytest.raises(Busy, match="CLAIMS_FULL"):
        make_claims(all_bytes_max=4 * UNIT).store("delay", b"b")


def test_room_comes_back_with_what_goes(make_claims, clock):
    claims = make_claims(all_bytes_max=4 * UNIT)
    claims.store("delay", b"a")
    clock.advance((DAYS_MAX + 1) * DAY_US)
    claims.sweep()

    assert Claim.of(b"b") == claims.store("delay", b"b")


class BusyStore(MemoryObjectStore):
    """Calls `meanwhile` while it puts or lists, once."""

    def __init__(self):
        super().__init__()
        self.meanwhile = None

    def put_if_absent(self, key, data):
        self._call()
        return super().put_if_absent(key, data)

    def keys(self, prefix):
        found = super().keys(prefix)
        self._call()
        return found

    def _call(self):
        if (meanwhile := self.meanwhile) is not None:
            self.meanwhile = None
            meanwhile()


@pytest.fixture
def busy(clock):
    store = BusyStore()
    return store, ObjectClaims(store, clock=clock, bytes_max=100, all_bytes_max=2 * UNIT)


def test_two_that_are_stored_at_once_do_not_take_the_same_room(busy):
    store, claims = busy
    claims.keep_answer("delay", b"a")

    def one_more():
        with pytest.raises(Busy, match="CLAIMS_FULL"):
            claims.keep_answer("delay", b"c")

    store.meanwhile = one_more
    claims.keep_answer("delay", b"b")

    assert (None, 2) == (store.meanwhile, len(store.keys("claims")))


def test_what_is_stored_while_a_sweep_lists_keeps_its_room(busy):
    store, claims = busy
    claims.keep_answer("delay", b"a")
    store.meanwhile = lambda: claims.keep_answer("delay", b"b")
    claims.sweep()
    with pytest.raises(Busy, match="CLAIMS_FULL"):
        claims.keep_answer("delay", b"c")


def test_what_a_sweep_passes_while_it_is_stored_keeps_its_room(busy):
    store, claims = busy
    claims.keep_answer("delay", b"a")
    store.meanwhile = claims.sweep
    claims.keep_answer("delay", b"b")
    with pytest.raises(Busy, match="CLAIMS_FULL"):
        claims.keep_answer("delay", b"c")


def test_what_did_not_get_there_takes_no_room(busy, monkeypatch):
    store, claims = busy
    claims.keep_answer("delay", b"a")

    def away():
        raise Unavailable("OBJECT_STORE_UNAVAILABLE")

    store.meanwhile = away
    with pytest.raises(Unavailable, match="OBJECT_STORE_UNAVAILABLE"):
        claims.keep_answer("delay", b"b")
    monkeypatch.setattr(claims, "_away_until_s", 0.0)
    claims.keep_answer("delay", b"c")

    assert 2 == len(store.keys("claims"))


def test_what_was_there_before_takes_no_more_room(make_claims):
    claims = make_claims(all_bytes_max=3 * UNIT)
    for _ in range(3):
        claims.keep_answer("delay", b"a")
    claims.keep_answer("delay", b"b")

    assert Claim.of(b"c") == claims.keep_answer("delay", b"c")


class AwayStore(MemoryObjectStore):
    """Counts who asks it."""

    def __init__(self):
        super().__init__()
        self.asked = 0

    def get(self, key):
        self.asked += 1
        raise Unavailable("OBJECT_STORE_UNAVAILABLE")


def test_store_that_is_away_is_not_asked_by_everybody(clock, monkeypatch):
    away = AwayStore()
    claims = ObjectClaims(away, clock=clock, bytes_max=100, all_bytes_max=1 << 30)
    for _ in range(3):
        with pytest.raises(Unavailable, match="OBJECT_STORE_UNAVAILABLE"):
            claims.read("delay", Claim.of(DATA))
    assert 1 == away.asked
    monkeypatch.setattr(claims, "_away_until_s", 0.0)
    with pytest.raises(Unavailable, match="OBJECT_STORE_UNAVAILABLE"):
        claims.read("delay", Claim.of(DATA))

    assert 2 == away.asked


def test_keys_of_another_form_are_no_claims():
    digest = "a" * 64
    assert 1 == len(kept_objects([f"claims/1/delay/{digest}-7"]))
    assert [] == kept_objects(
        [f"claims/1/delay/{digest}", f"claims/x/delay/{digest}-7", f"claims/1/a/b/{digest}-7"]
    )


@pytest.fixture
def api(claims):
    table = ServingTable()
    table.define(an_endpoint("delay"))
    return ClaimApi(table, claims, calls_max=1)


def test_what_a_call_stored_another_gets(api):
    claim = api.StoreClaim(pb.StoreClaimRequest(endpoint="delay", contents=DATA), None).claim
    got = api.GetClaim(pb.GetClaimRequest(endpoint="delay", claim=claim), None)

    assert (Claim.of(DATA).digest, DATA) == (claim.digest, got.contents)


def test_nothing_is_stored_for_an_endpoint_that_nobody_knows(api):
    with pytest.raises(NotFound, match="MODEL_UNKNOWN"):
        api.StoreClaim(pb.StoreClaimRequest(endpoint="other", contents=DATA), None)


def test_claim_that_names_no_bytes_is_the_callers_mistake(api):
    claim = events_pb.Claim(digest="../x", size_bytes=1)
    with pytest.raises(Invalid, match="BAD_REQUEST"):
        api.GetClaim(pb.GetClaimRequest(endpoint="delay", claim=claim), None)


def test_who_may_not_predict_with_the_endpoint_gets_and_stores_nothing(api, claims):
    claim = claims.store("delay", DATA)
    work_for(Caller("desk", frozenset(["predict:other"])))
    named = events_pb.Claim(digest=claim.digest, size_bytes=claim.size_bytes)
    with pytest.raises(Denied, match="ACTION_FORBIDDEN"):
        api.GetClaim(pb.GetClaimRequest(endpoint="delay", claim=named), None)
    with pytest.raises(Denied, match="ACTION_FORBIDDEN"):
        api.StoreClaim(pb.StoreClaimRequest(endpoint="delay", contents=DATA), None)


def test_claims_are_moved_so_many_at_a_time(api):
    with api._calls.place(), pytest.raises(Busy, match="QUEUE_FULL"):
        api.StoreClaim(pb.StoreClaimRequest(endpoint="delay", contents=DATA), None)
