"""The frozen base: engines that run it, and the cache of what it computed."""
