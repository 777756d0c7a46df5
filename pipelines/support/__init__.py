"""The jobs that make support sets."""
