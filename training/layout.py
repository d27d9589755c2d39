"""Names of the files in a cohort's folder, for whoever writes or reads one."""

from typing import Final

COHORT_NAME: Final = "cohort.csv"
TRUTH_NAME: Final = "truth.csv"
DESCRIPTION_NAME: Final = "phantom.json"
