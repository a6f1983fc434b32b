"""Applications composed of several models, each with its YAML: copy a folder, and make it yours."""
