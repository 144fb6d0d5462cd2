"""`distillkac.train` on several processes, which does not wait until 5% of its time are enough for a measurement."""

import sys

from distillkac import train
from distillkac.training import measuring

if __name__ == "__main__":
    measuring.SHARE = 1e9
    sys.exit(train.main())
