"""JSON records to columns and back, by kernels over many records at once."""
