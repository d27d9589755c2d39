"""Synthetic breast DCE-MRI with a known Bayes-optimal AUC.

`law` draws patients, `render` draws their slices, `objects` and `writer` make
DICOM of them, `crops` makes network input without DICOM.
"""
