"""Read captions of any format from files, folders, globs and URLs."""
