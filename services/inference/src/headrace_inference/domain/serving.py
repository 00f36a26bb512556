# SPDX-License-Identifier: Apache-2.0
"""What each endpoint serves now: one immutable `Serving` behind one pointer (P9).

A request takes its endpoint's `Serving` once and keeps it to its end. A swap replaces the pointer
only after the new versions are loaded and warm, so no request waits for one or sees two. A replaced
version is freed when the last request that holds it ends. Generations never go back (P7).
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from headrace.application import Endpoint
from headrace.errors import Conflict, NotFound, Unavailable
from headrace.reasons import REASONS
from headrace.tensor_changes import tensor_changes
from headrace_inference.domain.rollout import Arm, Rollout, ServedVersion

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
NAME_SHOWN_MAX = 64
ANY_SIZE = -1


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output of a model; `symbols` names sizes that must agree where they recur."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    symbols: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Tried:
    """What is known of a model once it was tried.

    `rows_apart`: whether the first size of all tensors counts rows, each answered by itself alone;
    None while that is not known, which counts as no. Seconds are of a run when nothing else runs;
    0 while that is not known. `input_bytes_max`: of the inputs of one run: more would take more
    memory than a run may; no bound while that is not known. `row_bytes_tried`: of the longest row
    that this was learnt by, where sizes are open. `longer_power`: by which power of its length a
    longer one takes more, 2 as attention does.
    """

    rows_apart: bool | None = None
    first_row_s: float = 0.0
    further_row_s: float = 0.0
    input_bytes_max: int = sys.maxsize
    row_bytes_tried: int = sys.maxsize
    longer_power: int = 1

    def fitting_bytes(self, row_bytes: int) -> int:
        """Of the inputs of one run, of rows that long."""
        longer = max(1.0, row_bytes / max(1, self.row_bytes_tried))
        if self.longer_power == 1 or longer == 1.0:
            return self.input_bytes_max
        return int(self.input_bytes_max / longer ** (self.longer_power - 1))

    def least_s(self, rows: int) -> float:
        return self.first_row_s + self.further_row_s * (rows - 1)


class Ending:
    """What ends one run early, from any thread: at once, or as soon as it begins."""

    def __init__(self) -> None:
        self.asked = False
        self._end: Callable[[], None] | None = None

    def ask(self) -> None:
        self.asked = True
        if (end := self._end) is not None:
            end()

    def begin(self, end: Callable[[], None]) -> None:
        """The run can be ended by that from now on, also more than once."""
        self._end = end
        if self.asked:
            end()


class Session(Protocol):
    """A model in memory."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...

    @property
    def tried(self) -> Tried: ...

    def run(
        self,
        inputs: Mapping[str, NDArray[Any]],
        outputs: Sequence[str],
        ending: Ending | None = None,
    ) -> list[NDArray[Any]]:
        """The named outputs; text is an object array. Any failure is HeadraceError MODEL_ERROR, of
        a run that was to end Unavailable DEADLINE_UNMET, of a full device Busy DEVICE_MEMORY.
        """


class Model(Session, Protocol):
    """A model that is served, also while it is not in memory: a run then waits for its load.

    No run is begun that would take too much memory: Busy BATCH_TOO_LARGE.
    """

    def fitting_bytes(self, row_bytes: int) -> int:
        """As `tried` says."""

    @property
    def rows_apart(self) -> bool:
        """Whether it is known by `tried`."""

    def least_s(self, rows: int) -> float:
        """As `tried` says."""

    @property
    def resident(self) -> bool:
        """Whether it is in memory, so that a run begins at once."""

    def load(self) -> Future[None]:
        """Begins to bring it into memory, once for all who ask; done when it is there."""

    def await_load(self, left_s: Callable[[], float]) -> None:
        """Returns when it is in memory; `left_s` may end at any time, as a caller hangs up.

        Raises Unavailable DEADLINE_UNMET when it is not there in time, Busy QUEUE_FULL when too
        many wait already, and what keeps it from loading.
        """


@dataclass(frozen=True, slots=True)
class LoadedVersion:
    """A version whose bytes hashed to its digest when they were loaded (P8)."""

    served: ServedVersion
    model: Model


@dataclass(frozen=True, slots=True)
class Choice:
    """The one version that answers a request, and the other arm's, computed for the log only."""

    arm: Arm
    answering: LoadedVersion
    shadow: LoadedVersion | None

    def rows_at_once(self, row_bytes: int) -> int:
        """How many rows, whose inputs take so much, may run together: one at least.

        A shadow that takes other features has rows of its own size.
        """
        features = len(self.answering.served.features)
        rows_max = self.answering.model.fitting_bytes(row_bytes) // max(1, row_bytes)
        if self.shadow is not None:
            wider = len(self.shadow.served.features) / features if features else 1.0
            its_bytes = max(1, round(wider * row_bytes))
            rows_max = min(rows_max, self.shadow.model.fitting_bytes(its_bytes) // its_bytes)
        return max(1, rows_max)


@dataclass(frozen=True, slots=True)
class Serving:
    """A rollout whose versions are loaded."""

    rollout: Rollout
    champion: LoadedVersion
    canary: LoadedVersion | None

    def loaded(self) -> Iterator[LoadedVersion]:
        yield self.champion
        if self.canary is not None:
            yield self.canary

    def version(self, version: int | None) -> LoadedVersion:
        """The named version, the champion when none is; NotFound MODEL_UNKNOWN when not loaded."""
        if version is None:
            return self.champion
        for loaded in self.loaded():
            if loaded.served.version == version:
                return loaded
        served = ", ".join(str(loaded.served.version) for loaded in self.loaded())
        raise NotFound(
            "MODEL_UNKNOWN", endpoint=self.rollout.endpoint, version=version, served=served
        )

    def choose(self, *, version: int | None, sticky_key: str, tensors: bool) -> Choice:
        """Routes one request.

        A caller by tensors wrote one version's features, or its own tensors: the other arm takes
        part only if it takes these. A named version answers whatever the share says.
        """
        named = self.version(version)
        other = self.canary if named is self.champion else self.champion
        if other is None or (tensors and not _takes_its_callers(named, other)):
            return Choice(self._arm(named), named, None)
        if version is None and self.rollout.arm_of(sticky_key) is Arm.CANARY:
            named, other = other, named
        return Choice(self._arm(named), named, other)

    def _arm(self, loaded: LoadedVersion) -> Arm:
        return Arm.CHAMPION if loaded is self.champion else Arm.CANARY


def _takes_its_callers(one: LoadedVersion, other: LoadedVersion) -> bool:
    """By the registry's rule, which starts no canary that would be left out here."""
    if one.served.features or other.served.features:
        return one.served.features == other.served.features
    return not tensor_changes(one.model, other.model)


@dataclass(frozen=True, slots=True)
class EndpointState:
    """What is known of an endpoint: its definition, the rollout asked for and the one served."""

    definition: Endpoint | None = None
    wanted: Rollout | None = None
    serving: Serving | None = None
    # Reason of contracts/errors.yaml: why the wanted rollout cannot be served.
    refused: str | None = None
    # Generation of the rollout by which it was started again; 0 where it never stood still.
    started_at: int = 0

    @property
    def answers(self) -> bool:
        stopped = self.wanted is not None and self.wanted.stopped
        return self.definition is not None and self.serving is not None and not stopped

    @property
    def pending(self) -> bool:
        """Whether versions are to be loaded; what is stopped or taken back needs none."""
        if self.definition is None or self.wanted is None or self.wanted.stopped:
            return False
        return self.serving is None or self.serving.rollout.generation < self.wanted.generation

    @property
    def coming(self) -> bool:
        """Whether what is wanted is loaded now, or as soon as a service that is away is back."""
        away = self.refused is not None and REASONS[self.refused].kind == "Unavailable"
        return self.loading or (self.pending and away)

    @property
    def loading(self) -> bool:
        """Whether what is wanted may be served soon: nothing has kept it from that yet."""
        return self.pending and self.refused is None


def _what_keeps(state: EndpointState) -> dict[str, str]:
    """From serving what is wanted."""
    if state.wanted is None or state.definition is None:
        return {}
    if state.refused is None:
        return {"state": "loading"}
    told = REASONS[state.refused]
    return {"cause": state.refused, "problem": f"{told.means} {told.next}"}


class ServingTable:
    """Every endpoint's state. Reads take no lock; writes replace the whole dict under one."""

    def __init__(self) -> None:
        self._states: dict[str, EndpointState] = {}
        self._writing = threading.Lock()

    def states(self) -> dict[str, EndpointState]:
        return self._states

    def answering(self) -> set[str]:
        return {name for name, state in self._states.items() if state.answers}

    def loading(self) -> bool:
        """Whether more may answer soon."""
        return any(state.loading for state in self._states.values())

    def state(self, endpoint: str) -> EndpointState:
        """Raises NotFound MODEL_UNKNOWN."""
        state = self._states.get(endpoint)
        if state is None:
            raise NotFound("MODEL_UNKNOWN", endpoint=endpoint[:NAME_SHOWN_MAX])
        return state

    def ready(self, endpoint: str) -> tuple[Endpoint, Serving]:
        """Raises NotFound MODEL_UNKNOWN, Conflict ENDPOINT_STOPPED, MODEL_NOT_READY, Unavailable
        RESTORING for what may answer soon, as another replica may now.

        A stop is in force as soon as it is known, before anything is loaded for it.
        """
        state = self.state(endpoint)
        if state.wanted is not None and state.wanted.stopped:
            raise Conflict("ENDPOINT_STOPPED", endpoint=endpoint)
        if state.definition is None or state.serving is None:
            if state.coming:
                raise Unavailable("RESTORING", endpoint=endpoint, **_what_keeps(state))
            raise Conflict("MODEL_NOT_READY", endpoint=endpoint, **_what_keeps(state))
        return state.definition, state.serving

    def define(self, definition: Endpoint) -> None:
        self._change(definition.name, lambda state: replace(state, definition=definition))

    def take_back(self, endpoint: str) -> None:
        """Forgets a definition: its endpoint answers MODEL_NOT_READY until it is applied again, and
        holds no version until then.
        """
        if endpoint in self._states:
            self._change(endpoint, lambda state: replace(state, definition=None, serving=None))

    def want(self, rollout: Rollout) -> bool:
        """Notes a rollout to serve; False when it is not newer than the one noted."""

        def note(state: EndpointState) -> EndpointState:
            if state.wanted is not None and state.wanted.generation >= rollout.generation:
                return state
            # What was stopped answers no more once another version is wanted.
            stopped = state.wanted is not None and state.wanted.stopped
            changed = state.serving is not None and not state.serving.rollout.routes_as(rollout)
            return replace(
                state,
                wanted=rollout,
                serving=None if stopped and changed else state.serving,
                refused=None,
                started_at=rollout.generation if stopped else state.started_at,
            )

        self._change(rollout.endpoint, note)
        return self.state(rollout.endpoint).wanted is rollout

    def install(self, serving: Serving) -> None:
        """The swap. A generation older than the one served changes nothing, nor does one that was
        loaded for what was stopped or taken back meanwhile.
        """

        def swap(state: EndpointState) -> EndpointState:
            now, rollout = state.serving, serving.rollout
            if state.definition is None:
                return state
            if now is not None and now.rollout.generation >= rollout.generation:
                return state
            before = rollout.generation < state.started_at
            if before and state.wanted is not None and not state.wanted.routes_as(rollout):
                return state
            return replace(state, serving=serving, refused=None)

        self._change(serving.rollout.endpoint, swap)

    def refuse(self, rollout: Rollout, reason: str) -> None:
        """Notes why a wanted rollout cannot be served; the one served before goes on."""

        def note(state: EndpointState) -> EndpointState:
            return replace(state, refused=reason) if state.wanted == rollout else state

        self._change(rollout.endpoint, note)

    def pending(self) -> list[Rollout]:
        """Rollouts that are wanted and not served."""
        states = self._states.values()
        return [state.wanted for state in states if state.wanted is not None and state.pending]

    def loaded(self, digest: str) -> Model | None:
        """The model of these bytes when some endpoint serves it already."""
        for state in self._states.values():
            for loaded in state.serving.loaded() if state.serving else ():
                if loaded.served.digest == digest:
                    return loaded.model
        return None

    def _change(self, endpoint: str, change: Callable[[EndpointState], EndpointState]) -> None:
        with self._writing:
            state = change(self._states.get(endpoint, EndpointState()))
            self._states = {**self._states, endpoint: state}
