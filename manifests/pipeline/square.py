"""One item: its square becomes a record."""

import json
import os
import sys

number = int(sys.argv[1])
with open(os.environ["KIJ_RESULT_FILE"], "a", encoding="utf-8") as file:
    file.write(json.dumps({"square": number * number}) + "\n")
