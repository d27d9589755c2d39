"""What a person and a monitoring system see of an installation, over HTTP."""
