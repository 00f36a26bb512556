# SPDX-License-Identifier: Apache-2.0
"""SignatureVerifier by OpenSSF Model Signing: the operator's file says whom to believe."""

from __future__ import annotations

from pathlib import Path

from headrace.errors import Invalid
from headrace.model_signing import TrustedSigners, read_trusted_signers, verify
from headrace_kit.clock import Clock
from headrace_kit.watched_file import WatchedFile

SETTING = "trusted_signers_file"
NOBODY = TrustedSigners({}, ())


class OpenSsfVerifier:
    """Believes nobody without a file. Raises Invalid BAD_SETTING for one that cannot be read."""

    def __init__(self, trusted_signers_file: Path | None, clock: Clock) -> None:
        self._trusted: WatchedFile[TrustedSigners] | None = None
        if trusted_signers_file is not None:
            self._trusted = WatchedFile("registry", SETTING, trusted_signers_file, _read)
        self._clock = clock

    def verify(self, bundle: bytes, *, name: str, digest: str) -> str:
        trusted = NOBODY if self._trusted is None else self._trusted.told()
        return verify(bundle, trusted, name=name, digest=digest, now_us=self._clock.now_us())


def _read(file: Path) -> TrustedSigners:
    try:
        return read_trusted_signers(file.read_bytes())
    except (OSError, ValueError) as err:
        raise Invalid("BAD_SETTING", setting=SETTING, problem=err) from err
