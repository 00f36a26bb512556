# SPDX-License-Identifier: Apache-2.0
"""Generates the Python side of the contracts: stubs, topics and reasons, into libs/headrace.

Generated files are committed and proven fresh: `make contracts` runs this and then `git status`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "libs/headrace/src/headrace"
PICTURED = (ROOT / "README.md", ROOT / "docs/architecture.md")
HEADER = "# SPDX-License-Identifier: Apache-2.0\n"


def main() -> None:
    generate_stubs()
    (PACKAGE / "topics.py").write_text(topics_module(), encoding="utf-8")
    (PACKAGE / "reasons.py").write_text(reasons_module(), encoding="utf-8")
    write_picture()
    for module in ("topics.py", "reasons.py"):
        subprocess.run(
            [sys.executable, "-m", "ruff", "format", "-q", PACKAGE / module], check=True, timeout=60
        )


def generate_stubs() -> None:
    own = sorted((ROOT / "protos/headrace").rglob("*.proto"))
    _protoc(ROOT / "protos", PACKAGE.parent, own)
    oip = PACKAGE / "oip"
    oip.mkdir(exist_ok=True)
    (oip / "__init__.py").write_text(
        HEADER
        + '"""The Open Inference Protocol v2, generated into a descriptor pool of its own."""\n'
    )
    _protoc(ROOT / "protos/inference", oip, [ROOT / "protos/inference/grpc_predict_v2.proto"])
    # tritonclient registers the same message names in the default pool, so ours live in another.
    stub = oip / "grpc_predict_v2_pb2.py"
    private = stub.read_text().replace(
        "_descriptor_pool.Default()", "_descriptor_pool.DescriptorPool()"
    )
    stub.write_text(private)
    service = oip / "grpc_predict_v2_pb2_grpc.py"
    service.write_text(
        service.read_text().replace(
            "import grpc_predict_v2_pb2", "from headrace.oip import grpc_predict_v2_pb2"
        )
    )
    for package in sorted({path.parent.relative_to(ROOT / "protos") for path in own}):
        for folder in (PACKAGE.parent / package, (PACKAGE.parent / package).parent):
            marker = folder / "__init__.py"
            if not marker.exists():
                marker.write_text(HEADER)


def _protoc(include: Path, out: Path, files: list[Path]) -> None:
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{include}"]
    outputs = [f"--python_out={out}", f"--pyi_out={out}", f"--grpc_python_out={out}"]
    subprocess.run([*command, *outputs, *map(str, files)], check=True, timeout=120)


def topics_module() -> str:
    lines = [
        HEADER,
        '"""Generated from contracts/topics by contracts/generate.py: every topic of the house."""\n',
        "from __future__ import annotations\n\nfrom dataclasses import dataclass\n\n",
        TOPIC_CLASS,
    ]
    constants = []
    for path in sorted((ROOT / "contracts/topics").glob("*.yaml")):
        contract = yaml.safe_load(path.read_text(encoding="utf-8"))
        constant = path.stem.upper().replace(".", "_").replace("-", "_")
        constants.append(constant)
        lines.append(
            f"{constant} = Topic(pattern={contract['topic']!r}, owner={contract['owner']!r}, "
            f"partitions={contract['partitions']}, cleanup={contract['cleanup']!r}, "
            f"retention_h={contract.get('retention_h')!r}, "
            f"publishers={tuple(contract['publishers'])!r}, "
            f"consumers={tuple(contract['consumers'])!r})\n"
        )
    lines.append(f"\nALL = ({', '.join(constants)})\n")
    return "".join(lines)


TOPIC_CLASS = '''
@dataclass(frozen=True, slots=True)
class Topic:
    """One topic, or one for each stream or endpoint when its pattern has a <placeholder>."""

    pattern: str
    owner: str
    partitions: int
    cleanup: str
    retention_h: int | None
    publishers: tuple[str, ...]
    consumers: tuple[str, ...]

    @property
    def templated(self) -> bool:
        return "<" in self.pattern

    @property
    def name(self) -> str:
        """The topic's name; only for a pattern without placeholder."""
        if self.templated:
            raise ValueError(f"{self.pattern} needs a stream or an endpoint")
        return self.pattern

    def of(self, part: str) -> str:
        """The topic of one stream or endpoint."""
        before, _, rest = self.pattern.partition("<")
        return before + part + rest.partition(">")[2]

    def part_of(self, topic: str) -> str:
        """The stream or endpoint in a topic's name: the inverse of `of`."""
        before, _, rest = self.pattern.partition("<")
        return topic.removeprefix(before).removesuffix(rest.partition(">")[2])


'''


def reasons_module() -> str:
    reasons = yaml.safe_load((ROOT / "contracts/errors.yaml").read_text(encoding="utf-8"))[
        "reasons"
    ]
    lines = [
        HEADER,
        '"""Generated from contracts/errors.yaml by contracts/generate.py: the closed list."""\n',
        "from __future__ import annotations\n\nfrom typing import NamedTuple\n\n",
        'class Reason(NamedTuple):\n    """One reason: branch of the tree, sentence, next step."""\n\n',
        "    kind: str\n    means: str\n    next: str\n    records: bool = False\n\n\n",
        "REASONS: dict[str, Reason] = {\n",
    ]
    for name, entry in reasons.items():
        records = ", records=True" if entry.get("records") else ""
        lines.append(
            f"    {name!r}: Reason({entry['kind']!r}, {entry['means']!r}, {entry['next']!r}{records}),\n"
        )
    return "".join([*lines, "}\n"])


def write_picture() -> None:
    """The topology in the README and the docs."""
    for path in PICTURED:
        path.write_text(with_picture(path.read_text(encoding="utf-8")), encoding="utf-8")


def with_picture(page: str) -> str:
    """The page with the topology as it is now between its markers."""
    begin, end = "<!-- topology: generated by `make protos` -->", "<!-- /topology -->"
    before, _, rest = page.partition(begin)
    return f"{before}{begin}\n{picture()}{end}{rest.partition(end)[2]}"


def picture() -> str:
    """Services and users as nodes; an arrow for each pair, with the topics between them."""
    topics_by_pair: dict[tuple[str, str], list[str]] = {}
    for path in sorted((ROOT / "contracts/topics").glob("*.yaml")):
        if path.stem.endswith(".dead-letters"):
            continue
        contract = yaml.safe_load(path.read_text(encoding="utf-8"))
        name = contract["topic"].partition(".<")[0].removesuffix(".v1")
        for publisher in contract["publishers"]:
            # What nobody consumes inside is for the users outside.
            for consumer in contract["consumers"] or ["users"]:
                if publisher != consumer:
                    topics_by_pair.setdefault((publisher, consumer), []).append(name)
    lines = ["```mermaid", "flowchart LR", "  users([users])"]
    for (publisher, consumer), names in sorted(topics_by_pair.items()):
        lines.append(f'  {publisher} -- "{"<br/>".join(names)}" --> {consumer}')
    return "\n".join([*lines, "```", ""])


if __name__ == "__main__":
    main()
