"""One module a file format; each has ``read(file, columns, max_rows, key) -> FileRows``."""
