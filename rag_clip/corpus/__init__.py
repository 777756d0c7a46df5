"""Caption records in, kept and dropped records out; one cleaning step a file."""
