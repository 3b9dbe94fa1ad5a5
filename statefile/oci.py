"""The shapes of the OCI runtime-spec that are read or shown; the rest of a spec stays opaque."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from pydantic import Field

from statefile._record import Record

OCI_VERSION = "1.3.0"
"""The runtime-spec whose state is shown where a container's own spec names no version."""


class State(Record):
    """The state of a container as runtime-spec 1.3 defines it ("State"): what `state` prints and a hook reads.

    Attributes:
        oci_version: the version of the runtime-spec.
        id: the container's ID.
        status: `creating`, `created`, `running`, `stopped`, or `paused`, which the spec leaves to the runtime.
        pid: its first process; 0 when there is none.
        bundle: the absolute path of its bundle.
        annotations: from its spec.
    """

    oci_version: str = OCI_VERSION
    id: str
    status: str
    pid: int = 0
    bundle: str = ""
    annotations: dict[str, str] = Field(default_factory=dict)


def annotations_of(spec: object) -> dict[str, str]:
    """The annotations of a spec; those that are no strings are left out, and what is no spec has none."""
    found = cast("Mapping[str, Any]", spec).get("annotations") if isinstance(spec, Mapping) else None
    if not isinstance(found, dict):
        return {}
    return {key: value for key, value in cast("dict[str, Any]", found).items() if isinstance(value, str)}


_CRI = (
    ("io.kubernetes.cri.container-type", "io.kubernetes.cri.sandbox-id"),  # containerd
    ("io.kubernetes.cri-o.ContainerType", "io.kubernetes.cri-o.SandboxID"),  # CRI-O
)


def is_infrastructure(spec: object) -> bool:
    """Whether a spec says that its container only holds a sandbox up (a pause container)."""
    annotations = annotations_of(spec)
    return any(annotations.get(type_key) == "sandbox" for type_key, _ in _CRI)


def sandbox_joined(spec: object) -> str | None:
    """The sandbox that a spec says it joins, by the annotations of containerd or CRI-O; `None` if it is on its own."""
    annotations = annotations_of(spec)
    for type_key, sandbox_key in _CRI:
        if annotations.get(type_key) == "container" and sandbox_key in annotations:
            return annotations[sandbox_key]
    return None
