"""The command line as a user runs it, in a home of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

COHORTLOOM = Path(sys.executable).with_name("cohortloom")


def environment(root: Path) -> dict[str, str]:
    """The environment of a user whose home is `root`."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("DAGSTER_", "COHORTLOOM_"))}
    return {**kept, "COHORTLOOM_HOME": str(root), "DAGSTER_DISABLE_TELEMETRY": "1"}


def cohortloom(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user would."""
    return subprocess.run(
        [COHORTLOOM, *arguments], env=environment(root), capture_output=True, text=True, timeout=600, check=False
    )
