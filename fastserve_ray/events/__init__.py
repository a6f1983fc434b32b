"""What happens in a run, appended to its log in storage; progress bars, status and reports read nothing else."""
