"""Versions of the database schema; `dicom_node.schema` applies them."""
