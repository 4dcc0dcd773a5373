"""Passes where the value of the step before is small enough."""

import argparse
import os
import sys

parser = argparse.ArgumentParser()
parser.add_argument("--most", type=float, required=True)
most = parser.parse_args().most
mean = float(os.environ["STEP_MEAN_VALUE"])
print(f"{mean} is {'at most' if mean <= most else 'more than'} {most}")
sys.exit(mean > most)
