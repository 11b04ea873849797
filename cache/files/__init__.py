"""What lies in a store's folder: its header and its index, the checksums of its small files, the chunks of values."""
