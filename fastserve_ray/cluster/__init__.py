"""One spec as other tools take it: ``ray up``, KubeRay, Ray Serve, Helm."""
