"""What comes before all shards; here it only says what it was told."""

import os

print(f"job {os.environ['KIJ_JOB']} prepares")
