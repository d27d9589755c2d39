"""Offline training of the Sentinode models; nothing here runs in the service."""
