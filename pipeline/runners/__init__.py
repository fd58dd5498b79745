"""The engines that compute a run."""
