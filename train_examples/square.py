"""An item of a list: squares a number, and fails on one of them.

kij-train map --local --range 0:20 --chunk 4 train_examples/square.py {item}

The number 13 fails on purpose, to show what is said of it, and how it is run again:
kij-train rerun NAME --failed --env SQUARE_ANYTHING=1
"""

import json
import os
import sys

number = int(sys.argv[1])
if number == 13 and not os.environ.get("SQUARE_ANYTHING"):
    raise ValueError(f"{number} brings bad luck")
with open(os.environ["KIJ_RESULT_FILE"], "a") as file:  # noqa: PTH123
    print(json.dumps({"number": number, "square": number**2}), file=file)
print(f"{number} squared is {number**2}, by index {os.environ['KIJ_INDEX']}")
