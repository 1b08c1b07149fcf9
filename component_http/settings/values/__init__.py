"""The types of the settings' values."""
