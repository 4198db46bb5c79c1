"""From images on disk to splits and uint8 batches."""
