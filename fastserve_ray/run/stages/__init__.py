"""One module a stage; each only wires the stage's context to the part that does the work."""
