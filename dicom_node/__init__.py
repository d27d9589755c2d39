"""DICOM edge of Sentinode: receive, store, read, report and send; no torch here."""

__version__ = "0.1.0"
