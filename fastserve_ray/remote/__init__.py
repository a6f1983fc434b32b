"""A Ray cluster elsewhere, through its dashboard's HTTP: nodes, jobs, and Serve's applications."""
