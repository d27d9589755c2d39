"""Queue, model and administration of Sentinode."""
