"""Progress, files, downloads, hardware, threads, timing."""
