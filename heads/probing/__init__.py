"""What each layer of an encoder says of the labels: linear probes, their curve and table."""
