"""The parameter server: a model's prepared tensors in the object stores of the nodes, read in place by all replicas."""
