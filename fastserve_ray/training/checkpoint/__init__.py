"""Checkpoints that any number of workers and any strategy can go on from.

A checkpoint is a folder::

    slices-00002-of-00004.safetensors   what rank 2 of 4 held: one-dimensional tensors
    slices-00002-of-00004.json          where each of them lies in its whole parameter; written after the tensors
    state.json                          the step, and small values of the run; written by rank 0, last of its files

Names are those of the unwrapped model, and places count elements of whole parameters: nothing in it depends on how the
model was spread. Nothing is pickled. Slices may overlap where ranks hold the same elements.

A strategy gives ``slices()``, each with a ``Place``, and takes a ``CheckpointReader`` back, from which it cuts what it
holds: ``reader.cut("weight", name, place)``.
"""
