"""Print the JSON schema of build files: `python -m pipeline.config`."""

from __future__ import annotations

import json
import sys

from pipeline.config import json_schema

sys.stdout.write(json.dumps(json_schema(), indent=1, sort_keys=True) + "\n")
