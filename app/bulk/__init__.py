"""Labels stored messages: a file in, a Parquet file out, on one machine or on a Ray cluster."""
