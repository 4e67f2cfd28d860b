"""A process with the real client, pointed at the loopback Hub: runs named functions of `scenarios` for the tests.

Settings of huggingface_hub are read at import, and the test process is offline; so the client lives here. One line of JSON in,
one line of JSON out.
"""

import importlib
import json
import logging
import os
import sys
import traceback


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not get between the answers
    sys.path.insert(0, os.path.dirname(__file__))
    scenarios = importlib.import_module("scenarios")
    logging.getLogger().setLevel(logging.WARNING)
    for line in sys.stdin:
        name, arguments = json.loads(line)
        try:
            result = {"value": getattr(scenarios, name)(**arguments)}
        except Exception as error:
            result = {
                "error": type(error).__name__,
                "kind": getattr(error, "kind", None),
                "message": str(error),
                "trace": traceback.format_exc(),
            }
        answers.write(json.dumps(result) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
