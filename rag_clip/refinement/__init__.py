"""What the unlabelled images of a whole file tell of its classes."""
