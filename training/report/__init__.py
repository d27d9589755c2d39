"""The report of an evaluation, laid out as the paper: one HTML, PNG and CSV."""
