"""Generates the protobuf message code of daemons/shoald from proto/, or checks that it is current.

    python tools/generate_proto.py           write the generated files
    python tools/generate_proto.py --check   exit 1, naming the files, if they differ from proto/

Only message classes are generated. The service's methods are read from the descriptor at run time
(shoald/head/channel.py), so there is no generated gRPC code, whose absolute imports would clash with `shoal`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTO_DIR = ROOT / "proto"
# Schema, and the package that its generated module belongs to.
TARGETS = {"shoal/v1/head.proto": ROOT / "daemons" / "shoald" / "head" / "pb"}
# protoc writes bare `Mapping` where a message may be given as a dict.
_STUB_HEADER = b'# mypy: disable-error-code="type-arg"\n'


def generate(schema: str, directory: Path) -> dict[str, bytes]:
    """Generated file names and contents of one schema; raises RuntimeError if protoc refuses it."""
    google = files("grpc_tools") / "_proto"
    arguments = [
        "protoc",
        f"-I{PROTO_DIR}",
        f"-I{google}",
        f"--python_out={directory}",
        f"--pyi_out={directory}",
        schema,
    ]
    if protoc.main(arguments) != 0:
        raise RuntimeError(f"protoc failed on {schema}")
    made = (directory / schema).parent
    paths = sorted(made.glob(f"{Path(schema).stem}_pb2.py*"))
    return {path.name: (_STUB_HEADER if path.suffix == ".pyi" else b"") + path.read_bytes() for path in paths}


def main() -> int:
    """Write or compare; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    check = parser.parse_args().check
    stale = []
    for schema, package in TARGETS.items():
        with tempfile.TemporaryDirectory() as directory:
            for name, content in generate(schema, Path(directory)).items():
                target = package / name
                if check:
                    if not target.exists() or target.read_bytes() != content:
                        stale.append(str(target.relative_to(ROOT)))
                else:
                    target.write_bytes(content)
    if stale:
        print(f"differs from proto/: {', '.join(stale)}; run python tools/generate_proto.py", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
