"""The Python face: the parts of the framework for notebooks and scripts."""
