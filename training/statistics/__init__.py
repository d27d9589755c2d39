"""Statistics of the evaluation, each against an oracle in its tests."""
