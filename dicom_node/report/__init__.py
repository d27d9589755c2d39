"""What goes back to the PACS: a structured report and class activation maps."""
