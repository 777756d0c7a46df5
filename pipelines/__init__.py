"""The jobs: generator stages over Arrow record batches."""
