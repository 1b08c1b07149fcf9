"""
Write the lower bounds of setup.cfg into a file of constraints for pip: `twisted[tls] >= 26.4` becomes `twisted==26.4`.

With these the `oldest` environment of tox.ini installs the oldest versions that the package says it works with.
"""

from __future__ import annotations

import configparser
import re
import sys
from collections.abc import Iterator
from pathlib import Path

SETUP_CFG = Path(__file__).parents[1] / "setup.cfg"


def lower_bounds(setup_cfg: str) -> Iterator[str]:
    """Yield one constraint for each requirement of the package and of its tests that has a lower bound."""
    config = configparser.ConfigParser()
    config.read_string(setup_cfg)
    requirements = config["options"]["install_requires"] + config["options.extras_require"]["test"]
    for requirement in requirements.splitlines():
        if bound := re.match(r"([\w.-]+)(?:\[[^]]*\])?\s*>=\s*([\w.]+)", requirement):
            yield f"{bound[1]}=={bound[2]}"


if __name__ == "__main__":
    constraints = "\n".join(lower_bounds(SETUP_CFG.read_text("utf-8")))
    Path(sys.argv[1]).write_text(f"{constraints}\n", "utf-8")
